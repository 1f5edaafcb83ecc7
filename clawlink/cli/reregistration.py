"""Coming back to a relay that has forgotten this agent, or that is at another address now."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from clawlink.cli.settings import Where, acting
from clawlink.client.identity import Saved

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.sync import Client

_MACHINE_LENGTH = 128
# Several threads of one command may notice at once; only one of them registers.
_JUST_NOW_SECONDS = 5.0


class Returning:
    """Registers an identity again, with all that it said of itself, and says so once."""

    def __init__(self, ctx: Context, where: Where, me: Saved) -> None:
        self._ctx = ctx
        self._where = where
        self._me = me
        self._lock = threading.Lock()
        self._last = float("-inf")

    def __call__(self) -> None:
        """Register again. Raises the relay's refusal."""
        from clawlink.client.sync import Client

        me, where = self._me, self._where
        with self._lock:
            if time.monotonic() - self._last < _JUST_NOW_SECONDS:
                return
            with Client(
                where.relay,
                token=where.token,
                agent_id=me.agent_id,
                agent_key=me.agent_key,
                timeout=self._ctx.timeout,
                ca=where.ca,
            ) as client:
                client.register(
                    me.name,
                    capabilities=me.capabilities,
                    description=me.description,
                    machine=socket.gethostname()[:_MACHINE_LENGTH],
                    subscriptions=me.subscriptions,
                    claim=me.agent_key is not None,
                    notices=me.notices,
                )
            self._last = time.monotonic()
            self._ctx.registered_anew = True
            self._ctx.warn(
                f"the relay at {where.relay} had forgotten {me.name!r} (perhaps it was restarted); "
                "it is registered again, and what it had is lost"
            )


def known_elsewhere(ctx: Context, where: Where, name: str) -> Where:
    """Return the relay and identity for a register: at an unknown address, the identity kept for the same relay.

    The kept key goes there only after the relay has proved that it is the same. Neither key nor token goes there
    before.
    """
    from clawlink.client.proof import kept_elsewhere

    if where.saved is not None:
        return where
    saved = kept_elsewhere(ctx.identities, name, where.relay, ca=where.ca, timeout=ctx.timeout, warn=ctx.warn)
    return where if saved is None else acting(saved, ctx.given)._replace(relay=where.relay)


def relay_id_of(client: Client) -> str | None:
    """Return the relay's id; None if the relay does not answer now."""
    from clawlink.errors import ClawLinkError

    with contextlib.suppress(ClawLinkError):
        return client.health().relay_id or None
    return None
