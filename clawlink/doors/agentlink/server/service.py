"""Serve the mailbox of an agent over a connection of the new form."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import NamedTuple

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import AttemptEnd, Delivery
from clawlink.doors.agentlink.server.checks import Envelopes
from clawlink.doors.agentlink.server.socket import Gone, Socket
from clawlink.doors.agentlink.server.text import message_frame
from clawlink.errors import StoreUnavailable, UnknownAgent
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.agentlink")

CREDIT = 32
# A handler may take its time: while the connection lives its messages are its own, and once it ends they are due.
ACK_SECONDS = 600.0
# The leases are shorter, and are made longer again and again: a relay that is killed gives nothing back.
LEASE_SECONDS = 60.0
EXTEND_SECONDS = LEASE_SECONDS / 3
_RETRY_SECONDS = 1.0


class Written(NamedTuple):
    """A batch as frames, and the receipts of messages that the peer does not get to see.

    The peer would not understand them, or they cannot be written and are to be dead letters.
    """

    frames: list[tuple[Delivery, str]]
    meaningless: list[str]
    unwritable: list[str]

    @classmethod
    def of(cls, taken: Iterable[Delivery], address: str, envelopes: Envelopes) -> Written:
        """Write the messages of a batch to the agent ``address``."""
        written = cls([], [], [])
        for d in taken:
            try:
                frame = message_frame(d, address, envelopes)
            except Exception:
                _log.exception("a message cannot be written; it is given back", extra={"message_id": d.id})
                written.unwritable.append(receipt(str(d.receipt), d.id))
                continue
            if frame is None:
                written.meaningless.append(receipt(str(d.receipt), d.id))
            else:
                written.frames.append((d, frame))
        return written

    async def settle_rest(self, relay: Relay, consumer: Consumer) -> None:
        """Settle messages that the peer does not see."""
        with contextlib.suppress(Failed, StoreUnavailable):  # then the leases lapse, and the written messages count
            if self.meaningless:
                await relay.acks.ack(consumer.agent_id, self.meaningless)
                consumer.settled(self.meaningless)
            if self.unwritable:
                note = "it cannot be written"
                await relay.acks.nack(
                    consumer.agent_id, self.unwritable, _RETRY_SECONDS, note=note, end=AttemptEnd.UNDELIVERABLE
                )
                consumer.settled(self.unwritable)


class Service:
    """Claims an agent's messages and writes them to the connection, until it is stopped."""

    def __init__(self, relay: Relay, agent: Agent, socket: Socket, *, envelopes: Envelopes) -> None:
        self._relay = relay
        self._agent = agent
        self._socket = socket
        self._envelopes = envelopes
        self._consumer: Consumer = relay.consumer(agent, lease=LEASE_SECONDS, credit=CREDIT)
        self._batches: dict[int, int] = {}  # the number of a ping, and with which batch it went
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._relay.draining:
            try:
                await self._bring()
            except Gone:
                return
            except UnknownAgent:  # it has left; the door may register it again
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                _log.exception("bringing messages failed; it goes on")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _bring(self) -> None:
        touch = self._relay.agents.touch
        taken, _ = await self._consumer.next(self._agent, tick=lambda: touch(self._agent.id))
        written = Written.of(taken, self._agent.id, self._envelopes)
        for _, frame in written.frames:
            await self._socket.send(frame)
        await written.settle_rest(self._relay, self._consumer)
        if written.frames:
            self._batches[await self._socket.ping()] = self._consumer.batch

    @property
    def address(self) -> str:
        """The agent."""
        return self._agent.id

    def has_read(self, number: int) -> None:
        """Note that the peer has read all that went before this ping."""
        read = [ping for ping in self._batches if ping <= number]
        if read:
            self._consumer.has_read(max(self._batches.pop(ping) for ping in read))

    def settled(self, receipts: list[str]) -> None:
        """Note that the peer has acked these, as far as they belong to this mailbox."""
        self._consumer.settled(receipts)

    def finished(self, task_id: str) -> None:
        """Note that this task has its final answer."""
        self._consumer.finished(task_id)

    @property
    def idle(self) -> bool:
        """Return True if nothing is under way unsettled."""
        return self._consumer.idle

    async def extend(self) -> None:
        """Hold what the peer deals with for some more time, until it has had ``ACK_SECONDS`` for it."""
        since = asyncio.get_running_loop().time() - (ACK_SECONDS - LEASE_SECONDS + EXTEND_SECONDS)
        held = self._consumer.sent_since(since)
        if held:
            outcomes = await self._relay.acks.extend(self._agent.id, held, LEASE_SECONDS)
            self._consumer.settled([o.receipt for o in outcomes if o.message_id is None])

    async def close(self) -> None:
        """Stop; unsettled messages are due again at once."""
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            await self._consumer.close()
