"""Serve the mailbox of an agent over every old connection that may be the agent's.

An old client does not say which agent it is: it gets what comes for its instance, and drops what is for another agent.
So a message goes to each of them, and counts as delivered once none is left that may have dropped it unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.doors.agentlink.server.envelopes import Envelopes
from clawlink.doors.agentlink.server.lines import Readers
from clawlink.doors.agentlink.server.service import ACK_SECONDS, CREDIT, Written
from clawlink.doors.agentlink.server.socket import Gone
from clawlink.doors.agentlink.server.text import message_frame
from clawlink.errors import StoreUnavailable
from clawlink.relay.consumer import Consumer
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed

if TYPE_CHECKING:
    from clawlink.doors.agentlink.server.connection import Connection

_log = logging.getLogger("clawlink.agentlink")

MAX_HELD = 1000
_PAUSE_SECONDS = 1.0
_EXTEND_SECONDS = ACK_SECONDS / 3


class _Copy:
    """A message under way, and which connections have read it.

    ``missed`` is how many seats there had been when one of them ended unread, 0 if none did.
    """

    __slots__ = ("batch", "delivery", "missed", "read", "receipt")

    def __init__(self, delivery: Delivery, batch: int) -> None:
        self.delivery = delivery
        self.receipt = receipt(str(delivery.receipt), delivery.id)
        self.batch = batch
        self.read: set[Connection] = set()
        self.missed = 0


class Seat:
    """The share of a connection in a mailbox: the messages written to it, and those of them that it has read."""

    def __init__(self, copies: Copies, line: Connection, number: int) -> None:
        self.number = number
        self._copies = copies
        self._line = line
        self._waiting: list[_Copy] = []
        self._more = asyncio.Event()
        self._pings: dict[int, list[_Copy]] = {}
        self._task = asyncio.create_task(self._run())

    def put(self, copies: Iterable[_Copy]) -> None:
        """Write these messages, in order, after those that wait already."""
        self._waiting.extend(copies)
        self._more.set()

    async def _run(self) -> None:
        with contextlib.suppress(Gone):  # whoever reads the connection notices it, too
            while True:
                await self._more.wait()
                self._more.clear()
                batch, self._waiting = self._waiting, []
                for copy in batch:
                    frame = self._copies.frame(copy)
                    if frame is not None:
                        await self._line.socket.send(frame)
                self._pings[await self._line.socket.ping()] = batch

    async def has_read(self, number: int) -> None:
        """Note that the peer has read all that went before this ping."""
        read = [copy for ping in list(self._pings) if ping <= number for copy in self._pings.pop(ping)]
        await self._copies.was_read(self._line, read)

    def settled(self, receipts: list[str]) -> None:
        """Note that these were acked, as far as they are of this mailbox."""
        self._copies.settled(receipts)

    def finished(self, task_id: str) -> None:
        """Ignore that a task is finished: an old client answers none."""

    @property
    def idle(self) -> bool:
        """Return True if the peer has read all that was written to it."""
        return not self._waiting and not self._pings

    async def close(self) -> None:
        """Write nothing more."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Copies:
    """Claims what comes for an agent, and writes it to every connection that ``aim`` names."""

    def __init__(self, relay: Relay, agent: Agent, envelopes: Envelopes) -> None:
        self._relay = relay
        self._agent = agent
        self._envelopes = envelopes
        self._consumer: Consumer = relay.consumer(agent, lease=ACK_SECONDS, credit=CREDIT)
        self._readers: Readers[Connection] = Readers([], settles=False)
        self._seats: dict[Connection, Seat] = {}
        self._count = 0
        self._held: dict[str, _Copy] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._extend())]

    # -- whom it goes to ---------------------------------------------------------------------------------------------

    def aim(self, readers: Readers[Connection]) -> None:
        """Write to these connections from now on, what is under way too."""
        if readers == self._readers:
            return
        self._readers = readers
        for line in self._seats.keys() - set(readers.lines):
            self._background(self._seats.pop(line).close())
            line.detach(self._agent.id)
            for copy in self._held.values():
                if line.ended and line not in copy.read:  # one that turned out to be another has missed nothing
                    copy.missed = self._count
        for line in readers.lines:
            if line not in self._seats:
                self._count += 1
                seat = self._seats[line] = Seat(self, line, self._count)
                line.attach(self._agent.id, seat)
                seat.put(copy for copy in self._held.values() if line not in copy.read)
        if readers.certain:
            for copy in self._held.values():
                copy.missed = 0
        self._background(self._judge())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # -- what goes out -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._relay.draining:
            try:
                await self._bring()
            except Exception:
                _log.exception("bringing messages failed; it goes on")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _bring(self) -> None:
        taken, _ = await self._consumer.next(self._agent, tick=self._touch)
        written = Written.of(taken, self._agent.id, self._envelopes)
        copies = [_Copy(delivery, self._consumer.batch) for delivery, _ in written.frames]
        self._held |= {copy.receipt: copy for copy in copies}
        for seat in self._seats.values():
            seat.put(copies)
        await written.settle_rest(self._relay, self._consumer)

    async def _touch(self) -> None:
        if self._readers.settles:  # else nobody knows whether the agent is there
            await self._relay.agents.touch(self._agent.id)

    def frame(self, copy: _Copy) -> str | None:
        """Return the frame that brings a message; None for one that is settled meanwhile."""
        if copy.receipt not in self._held:
            return None
        return message_frame(copy.delivery, self._agent.id, self._envelopes)

    # -- what was read -----------------------------------------------------------------------------------------------

    async def was_read(self, line: Connection, copies: list[_Copy]) -> None:
        """Note that a connection has read these. One that came after another had missed them makes up for that."""
        seat = self._seats.get(line)
        for copy in copies:
            copy.read.add(line)
            if seat is not None and seat.number > copy.missed:
                copy.missed = 0
            self._consumer.has_read(copy.batch)
        await self._judge()

    async def _judge(self) -> None:
        """Settle what each connection has read, if that proves that the agent has it."""
        lines = self._seats.keys()
        read = [copy for copy in self._held.values() if lines and lines <= copy.read]
        proven = _receipts([copy for copy in read if self._readers.settles and not copy.missed])
        if proven:
            with contextlib.suppress(Failed, StoreUnavailable):  # the next pong tries again
                await self._relay.settling.ack(self._agent.id, proven, for_good=True)
                self.settled(proven)
        # A message that is read and still held keeps no other message back.
        credit = CREDIT + min(len(read) - len(proven), MAX_HELD)
        if credit != self._consumer.credit:
            self._consumer.credit = credit
            self._consumer.wake()

    def settled(self, receipts: list[str]) -> None:
        """Note that these are settled."""
        for one in receipts:
            self._held.pop(one, None)
        self._consumer.settled(receipts)

    async def _extend(self) -> None:
        """Hold what waits for the agent as long as there is a connection that may be the agent's."""
        while True:
            await asyncio.sleep(_EXTEND_SECONDS)
            held = list(self._held)
            try:
                outcomes = await self._relay.settling.extend(self._agent.id, held, ACK_SECONDS)
                self.settled([o.receipt for o in outcomes if o.message_id is None])
            except Exception:
                _log.exception("holding messages failed; it goes on")

    async def close(self) -> None:
        """Stop; what was not settled is due again at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self.aim(Readers([], settles=False))
        while self._closing:
            await asyncio.wait(self._closing)
        await self._consumer.close()


def _receipts(copies: Sequence[_Copy]) -> list[str]:
    return [copy.receipt for copy in copies]
