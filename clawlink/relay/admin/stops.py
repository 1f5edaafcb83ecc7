"""Stop all: the operator stops new work and claims on every relay of a mesh, and resumes them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clawlink.domain import standstill as rules
from clawlink.domain.standstill import STANDSTILL, Standstill
from clawlink.protocol.operating import Standing, StopAll
from clawlink.relay.core import Core, retrying
from clawlink.relay.timestamps import iso, iso_or_none
from clawlink.store.base import Put

_log = logging.getLogger("clawlink.relay")


class Stops:
    """Stops and resumes all work, by a record in the store, which each relay over it follows."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def since(self) -> str | None:
        """When all work was stopped; None while it goes on."""
        return iso_or_none(self._core.time.standstill.since)

    async def load(self) -> None:
        """Follow the record of the store."""
        known = await self._core.store.get(Standstill, STANDSTILL)
        if known is not None:
            self._follow(known)

    async def switch(self, ask: StopAll) -> Standing:
        """Stop all work, or let it go on; a repeat changes nothing."""
        return await self._core.finish(self._change(rules.stopped if ask.stopped else rules.resumed))

    @retrying
    async def _change(self, rule: Callable[[Standstill, float], Standstill]) -> Standing:
        core = self._core
        known = await core.store.get(Standstill, STANDSTILL) or Standstill()
        now = core.steady()
        new = rule(known, now)
        if new is not known:
            await core.commit(STANDSTILL, Put(new, ends_work=True))
        self._follow(new)
        over = None if new.since is not None or not new.past else new.past[-1].seconds
        return Standing("stopped" if new.since is not None else "running", iso_or_none(new.since), iso(now), over)

    def _follow(self, known: Standstill) -> None:
        """Have relay time follow a record, and every consumer look again once work goes on."""
        core = self._core
        before = core.time.standstill
        if known.version <= before.version:
            return
        core.follow(known)
        core.commits += 1
        if known.since is not None:
            _log.warning("the operator has stopped all work", extra={"since": iso(known.since)})
        elif before.since is not None:
            _log.warning("the operator has resumed all work", extra={"seconds": round(core.steady() - before.since, 1)})
        core.signals.publish_all()
