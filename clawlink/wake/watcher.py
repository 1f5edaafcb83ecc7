"""Watches the mailbox of one agent, and does what the rules decide. It leases nothing and is no sign of life."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from clawlink.client.aio import AsyncClient
from clawlink.client.hooks.rules import notice as words
from clawlink.client.identity import Saved
from clawlink.domain.backoff import backoff
from clawlink.errors import ClawLinkError
from clawlink.protocol.mailbox_replies import Unread
from clawlink.wake import rules
from clawlink.wake.adapters import MAX_NOTE, Adapter, Notice
from clawlink.wake.journal import Journal, Kept
from clawlink.wake.rules import Fire, GiveUp, Look, Policy, State, Tell, Wait, Wake

LOOK_SECONDS = 50.0
LIMIT = 100
# A busy agent, and adapters that open and close, are looked at again after this time.
_AGAIN_SECONDS = 5.0
_MOST_PAUSE_SECONDS = 30.0
# While mail waits for its reader, more of it is looked at after this time.
_CALM_SECONDS = 0.25
_AT_ONCE = 8


class Around(Protocol):
    """All that a watcher needs of the program around it."""

    journal: Journal

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        ...

    def minute(self) -> int:
        """Return the minute of the local day."""
        ...

    def left(self) -> int | None:
        """Return how many wakes the account may still make today."""
        ...

    async def spent(self) -> None:
        """Count a wake of the account. Raises OSError."""
        ...

    async def unreachable(self, saved: Saved, ids: Sequence[str], why: str) -> None:
        """Tell the person that an agent could not be woken."""
        ...

    def log(self, text: str) -> None:
        """Say something about what happens."""
        ...


class Target(NamedTuple):
    """An agent to watch: its identity, its rules, its adapters, and how its own program tells of it.

    ``host`` is the program of a session. ``told`` returns the messages of which a hook has told the session, and
    ``is_busy`` returns True while it is in a turn.
    """

    saved: Saved
    policy: Policy
    adapters: Sequence[Adapter]
    told: Callable[[], Sequence[str]] = tuple
    is_busy: Callable[[], bool] = bool
    host: str | None = None


class Watcher:
    """Runs until it is cancelled. ``unread`` are the messages of the last look, None while the relay is away.

    ``fires`` is True while an attempt to wake the agent is under way.
    """

    def __init__(self, target: Target, client: AsyncClient, around: Around) -> None:
        self.target = target
        self.unread: tuple[str, ...] | None = None
        self.fires = False
        self.why = "the relay was not asked yet"
        self.kept = Kept(target.saved.relay, target.saved.agent_id, State())
        self._client = client
        self._around = around
        self._changed = asyncio.Event()
        self._latest = 0
        self._seen: dict[str, float] = {}

    def change(self) -> None:
        """Have it look again: the agent became busy or idle, or an adapter can work now."""
        self._changed.set()

    async def run(self) -> None:
        """Watch, through failures of the relay, the disk and adapters."""
        saved = self.target.saved
        self.kept = await asyncio.to_thread(self._around.journal.load, saved.relay, saved.agent_id)
        failed = 0
        while True:
            began = self._around.now()
            try:
                await self._watch()
            except (ClawLinkError, OSError) as error:
                self.unread = None
                self.why = str(error)
                failed = 1 if self._around.now() - began > LOOK_SECONDS else failed + 1
                if failed == 1:
                    self._around.log(f"{saved.typed}: {error}")
                await asyncio.sleep(backoff(failed, first=0.5, most=_MOST_PAUSE_SECONDS))

    async def _watch(self) -> None:
        found = await self._look()
        while True:
            decision = await self._decide(found, certain=False)
            if isinstance(decision, Fire | GiveUp):
                found = await self._look()  # no wake for what was read meanwhile
                decision = await self._decide(found, certain=True)
            if isinstance(decision, Fire):
                await self._fire(decision, found)
            elif isinstance(decision, Tell):
                await self._tell(decision.wake)
            elif isinstance(decision, GiveUp):
                await self._give_up(decision)
            else:
                self.why = decision.why
                found = await self._next(decision)

    # -- looks ---------------------------------------------------------------------------------------------------------

    async def _look(self, wait: float = 0.0) -> Unread:
        found: Unread = await self._client.unread(wait=wait, since=self._latest if wait else None, limit=LIMIT)
        self._latest = max(self._latest, found.latest)
        now = self._around.now()
        ids = tuple(message.message_id for message in found.messages)
        self._seen = {id: self._seen.get(id, now) for id in ids}
        self.unread = ids
        await self._keep(rules.settled(self.kept.state, ids, now))
        return found

    async def _next(self, decision: Wait) -> Unread:
        """Wait for news: a message, a change here, or the time of the decision."""
        until = LOOK_SECONDS
        if decision.until is not None:
            until = max(min(until, decision.until - self._around.now()), 0.0)
        is_open = bool(self.unread and set(self.unread).difference(self.kept.state.given_up))
        if decision.until is None and is_open:
            until = _AGAIN_SECONDS
        looking = asyncio.ensure_future(self._later(until, calm=is_open))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({looking, changed}, return_when=asyncio.FIRST_COMPLETED)
            return await looking if looking.done() else await self._look()
        finally:
            for task in (looking, changed):
                task.cancel()

    async def _later(self, seconds: float, *, calm: bool) -> Unread:
        """Look once a message comes, or after some seconds. A storm of them is looked at a few times a second."""
        pause = min(seconds, _CALM_SECONDS if calm else 0.0)
        await asyncio.sleep(pause if seconds >= 1.0 else seconds)
        return await self._look(seconds - pause if seconds >= 1.0 else 0.0)

    async def _decide(self, found: Unread, *, certain: bool) -> rules.Decision:
        """Apply the rules. ``certain`` also asks the agent's own program whether it is in a turn."""
        self._changed.clear()
        target, state = self.target, self.kept.state
        under_way = () if state.wake is None else state.wake.ids
        told = set(target.told()).difference(under_way)
        unread = tuple(message.message_id for message in found.messages if message.message_id not in told)
        now = self._around.now()
        ready = [step for step, adapter in enumerate(target.adapters) if adapter.closed() is None]
        busy = target.is_busy()
        if certain and not busy:
            busy = any([await adapter.busy() for adapter in target.adapters])
        look = Look(
            unread,
            min((self._seen.get(id, now) for id in unread if id not in state.given_up), default=now),
            busy,
            ready,
            self._around.minute(),
            self._around.left(),
            back=state.wake is not None and state.wake.step in ready and target.adapters[state.wake.step].once,
        )
        return rules.decide(state, look, target.policy, now)

    # -- acts ----------------------------------------------------------------------------------------------------------

    async def _fire(self, fire: Fire, found: Unread) -> None:
        """Keep the attempt, make it, keep the result, and tell the relay: a crash repeats no more than one step."""
        now = self._around.now()
        adapter = self.target.adapters[fire.step]
        state, wake = rules.began(self.kept.state, fire, secrets.token_hex(16), now)
        await self._keep(state)
        if not fire.again:
            await self._around.spent()
        messages = [m for m in found.messages if m.message_id in wake.ids]
        shown = [{"message_id": m.message_id, "from_agent": m.from_agent, "from_name": m.from_name} for m in messages]
        self.fires = True
        try:
            done = await adapter.fire(Notice(words(self.target.saved.typed, shown), wake.ids, wake.key))
        finally:
            self.fires = False
        if done.again is not None:
            self.why = done.note or "the way to wake it is tried again"
            await self._keep(rules.put_off(state, wake, done.again, done.note, self._around.now()))
            return
        state = rules.fired(state, wake, done.result, done.note)
        await self._keep(state, woken=now, result=f"{adapter.name}: {done.result}")
        count = "1 message" if len(wake.ids) == 1 else f"{len(wake.ids)} messages"
        self._around.log(
            f"{self.target.saved.typed}: {adapter.name} {done.result} for {count}"
            + (f": {done.note}" if done.note else "")
        )

    async def _tell(self, wake: Wake) -> None:
        """Tell the relay of the last attempt. While it is away, the attempt stays as it is."""
        adapter = self.target.adapters[wake.step].name if wake.step < len(self.target.adapters) else "adapter"
        await self._woken(wake.ids, adapter, wake.result or rules.FAILED, wake.note, wake.key)
        await self._keep(rules.told(self.kept.state, wake))

    async def _give_up(self, given: GiveUp) -> None:
        wake = self.kept.state.wake
        last = self.target.adapters[wake.step].name if wake and wake.step < len(self.target.adapters) else "none"
        why = (wake.note if wake and wake.note else None) or given.why
        if wake is None:
            closed = dict.fromkeys(filter(None, (adapter.closed() for adapter in self.target.adapters)))
            why = ": ".join(filter(None, (why, "; ".join(closed))))[:MAX_NOTE]
        key = f"{wake.key if wake else 'none'}-end"
        await self._woken(given.ids, last, rules.GIVEN_UP, why, key)
        await self._around.unreachable(self.target.saved, given.ids, why)
        await self._keep(rules.gave_up(self.kept.state, given.ids))
        self._around.log(f"{self.target.saved.typed}: given up for {len(given.ids)} message(s): {why}")

    async def _woken(self, ids: Sequence[str], adapter: str, result: str, note: str | None, key: str) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(id: str) -> None:
            async with gate:
                try:
                    await self._client.woken(id, adapter, result, note=note, key=key)
                except ClawLinkError as error:
                    if error.retryable:
                        raise
                    # It was settled and forgotten meanwhile, or is of another agent now.

        await asyncio.gather(*map(one, ids))

    async def _keep(self, state: State, *, woken: float | None = None, result: str | None = None) -> None:
        kept = Kept(
            self.kept.relay,
            self.kept.agent_id,
            state,
            self.kept.last_woken if woken is None else woken,
            self.kept.last_result if result is None else result,
        )
        if kept != self.kept:
            await asyncio.to_thread(self._around.journal.keep, kept)
            self.kept = kept
