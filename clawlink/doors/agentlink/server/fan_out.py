"""Serve the mailbox of an agent over every old connection that may be the agent's.

An old client does not name its agent: it gets its instance's messages, and drops those for another agent. So a message
goes to each old connection. It counts as delivered once no connection is left that may have dropped it unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.doors.agentlink.server.checks import Envelopes
from clawlink.doors.agentlink.server.routing import Peer, Readers
from clawlink.doors.agentlink.server.service import CREDIT, LEASE_SECONDS, Written
from clawlink.doors.agentlink.server.socket import Gone, Socket
from clawlink.doors.agentlink.server.text import message_frame
from clawlink.errors import StoreUnavailable
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.agentlink")

MAX_HELD = 1000
_PAUSE_SECONDS = 1.0


class OldPeer(Peer, Protocol):
    """An old connection, as far as it matters here."""

    ended: bool
    socket: Socket
    writer: Writer


class _Copy:
    """A message under way: the connections that it was given to, and those that have read it.

    ``missed`` is the number of the latest connection when one ended that had not read it, 0 if none did.
    """

    __slots__ = ("batch", "delivery", "given", "missed", "owner", "read", "receipt")

    def __init__(self, owner: FanOut, delivery: Delivery, batch: int) -> None:
        self.owner = owner
        self.delivery = delivery
        self.receipt = receipt(str(delivery.receipt), delivery.id)
        self.batch = batch
        self.given: set[OldPeer] = set()
        self.read: set[OldPeer] = set()
        self.missed = 0


class Writer:
    """Writes to an old connection, for all agents that it may be, and keeps account of its reads."""

    def __init__(self, connection: OldPeer) -> None:
        self._connection = connection
        self._waiting: list[_Copy] = []
        self._more = asyncio.Event()
        self._pings: dict[int, list[_Copy]] = {}
        self._task: asyncio.Task[None] | None = None

    def put(self, copies: Iterable[_Copy]) -> None:
        """Write these messages, in order, after those that wait already; none that it was given before."""
        for copy in copies:
            if self._connection not in copy.given:
                copy.given.add(self._connection)
                self._waiting.append(copy)
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._run())
        self._more.set()

    async def _run(self) -> None:
        with contextlib.suppress(Gone):  # the reader of the connection notices it, too
            while True:
                await self._more.wait()
                self._more.clear()
                batch, self._waiting = self._waiting, []
                written = []
                for copy in batch:
                    frame = copy.owner.frame(copy, self._connection)
                    if frame is None:
                        copy.given.discard(self._connection)
                    else:
                        await self._connection.socket.send(frame)
                        written.append(copy)
                if written:
                    self._pings[await self._connection.socket.ping()] = written

    async def has_read(self, number: int) -> None:
        """Note that the peer has read all that went before this ping."""
        read: dict[FanOut, list[_Copy]] = {}
        for ping in [ping for ping in self._pings if ping <= number]:
            for copy in self._pings.pop(ping):
                read.setdefault(copy.owner, []).append(copy)
        for owner, copies in read.items():
            await owner.was_read(self._connection, copies)

    @property
    def idle(self) -> bool:
        """Return True if the peer has read all that was written to it."""
        return not self._waiting and not self._pings

    async def close(self) -> None:
        """Write nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class FanOut:
    """Claims an agent's messages, and writes them to each connection that ``aim`` names.

    ``latest`` returns the number of the latest connection. ``holders`` has the holder of each message by receipt, for
    all agents of the door. ``sure`` tells of an address whether all connections that may be its agent's are here.
    """

    def __init__(
        self,
        relay: Relay,
        agent: Agent,
        envelopes: Envelopes,
        latest: Callable[[], int],
        holders: dict[str, FanOut],
        sure: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._relay = relay
        self._agent = agent
        self._envelopes = envelopes
        self._latest = latest
        self._holders = holders
        self._sure = sure
        self._consumer: Consumer = relay.consumer(agent, lease=LEASE_SECONDS, credit=CREDIT)
        self._readers: Readers[OldPeer] = Readers((), settles=False)
        self._held: dict[str, _Copy] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._task = asyncio.create_task(self._run())

    # -- connections -------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The agent."""
        return self._agent.id

    def reads(self, connection: OldPeer) -> bool:
        """Return True if this connection reads for the agent."""
        return connection in self._readers.connections

    @property
    def knows_its_reader(self) -> bool:
        """Return True unless strangers read for the agent."""
        return self._readers.certain

    def aim(self, readers: Readers[OldPeer]) -> None:
        """Let these connections read from now on, messages under way too."""
        before, self._readers = self._readers, readers
        if before.connections is not readers.connections:
            for connection in before.connections:
                if connection not in readers.connections:
                    self._miss(connection)
        self._give(readers.connections)
        if readers.certain:
            for copy in self._held.values():
                copy.missed = 0
        self._judge_soon()

    def came(self, connection: OldPeer) -> None:
        """Note that a stranger has come, where strangers read."""
        self._give([connection])

    def went(self, connection: OldPeer) -> None:
        """Note that a stranger is none any more, or has ended, where strangers read."""
        self._miss(connection)
        self._judge_soon()

    def _give(self, connections: Iterable[OldPeer]) -> None:
        if self._held:
            for connection in connections:
                connection.writer.put(copy for copy in self._held.values() if connection not in copy.read)

    def _miss(self, connection: OldPeer) -> None:
        """Note the unread messages of an ended connection.

        A connection that turned out to be another agent has missed nothing.
        """
        if connection.ended:
            for copy in self._held.values():
                if connection not in copy.read:
                    copy.missed = self._latest()

    def _judge_soon(self) -> None:
        if self._held:
            self._background(self._judge())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # -- writing -----------------------------------------------------------------------------------------------------

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
        for delivery, _ in written.frames:
            copy = _Copy(self, delivery, self._consumer.batch)
            self._held[copy.receipt] = copy
            self._holders[copy.receipt] = self
        self._give(self._readers.connections)
        await written.settle_rest(self._relay, self._consumer)

    async def _touch(self) -> None:
        if self._readers.settles:  # else it is not known whether the agent is there
            await self._relay.agents.touch(self._agent.id)

    def frame(self, copy: _Copy, connection: OldPeer) -> str | None:
        """Return the frame that brings a message; None if it is settled, or not for this connection any more."""
        if copy.receipt not in self._held or not self.reads(connection):
            return None
        return message_frame(copy.delivery, self._agent.id, self._envelopes)

    # -- reads -------------------------------------------------------------------------------------------------------

    async def was_read(self, connection: OldPeer, copies: list[_Copy]) -> None:
        """Note that a connection has read these. A later connection makes up for an earlier one that missed them."""
        if self._closed:
            return
        reads = self.reads(connection)
        for copy in copies:
            copy.read.add(connection)
            if reads and connection.number > copy.missed:
                copy.missed = 0
            self._consumer.has_read(copy.batch)
        await self._judge()

    async def _judge(self) -> None:
        """Settle the messages that each connection has read, if that proves that the agent has them."""
        connections = self._readers.connections
        read = [copy for copy in self._held.values() if connections and copy.read.issuperset(connections)]
        proven = _receipts([copy for copy in read if self._readers.settles and not copy.missed])
        if proven:
            with contextlib.suppress(Failed, StoreUnavailable):  # the next pong tries again
                if self._readers.certain or await self._sure(self._agent.id):
                    await self._relay.acks.ack(self._agent.id, proven, for_good=True)
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
            self._holders.pop(one, None)
        self._consumer.settled(receipts)

    async def extend(self) -> None:
        """Hold the agent's waiting messages for some more time."""
        held = list(self._held)
        if held:
            outcomes = await self._relay.acks.extend(self._agent.id, held, LEASE_SECONDS)
            self.settled([o.receipt for o in outcomes if o.message_id is None])

    async def close(self) -> None:
        """Stop; unsettled messages are due again at once."""
        self._closed = True
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
            while self._closing:
                await asyncio.wait(self._closing)
        finally:
            for one in self._held:
                self._holders.pop(one, None)
            self._held.clear()  # waiting messages are no longer written
            await self._consumer.close()


def _receipts(copies: Sequence[_Copy]) -> list[str]:
    return [copy.receipt for copy in copies]
