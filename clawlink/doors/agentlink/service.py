"""One agent's mailbox, served over one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from clawlink.domain.agent import Agent
from clawlink.doors.agentlink.socket import Gone, Socket
from clawlink.doors.agentlink.text import message_frame
from clawlink.relay.consumer import Consumer
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay

_log = logging.getLogger("clawlink.agentlink")

CREDIT = 32
# A handler may take its time: while the connection lives its messages are its own, and once it ends they are due.
ACK_SECONDS = 600.0
_RETRY_SECONDS = 1.0


class Service:
    """Claims what comes for an agent and writes it to the connection, until it is stopped."""

    def __init__(
        self, relay: Relay, agent: Agent, socket: Socket, *, acks: bool, is_member: Callable[[str], bool]
    ) -> None:
        self._relay = relay
        self._agent = agent
        self._socket = socket
        self._acks = acks
        self._is_member = is_member
        self._consumer: Consumer = relay.consumer(agent, lease=ACK_SECONDS, credit=CREDIT)
        self._batches: dict[int, int] = {}  # the number of a ping, and with which batch it went
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._relay.draining:
            try:
                await self._bring()
            except Gone:
                return
            except Exception:
                _log.exception("bringing messages failed; it goes on")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _bring(self) -> None:
        touch = self._relay.agents.touch
        taken, _ = await self._consumer.next(self._agent, tick=lambda: touch(self._agent.id))
        meaningless = []
        for d in taken:
            frame = message_frame(d, self._agent.id, self._is_member)
            if frame is None:
                meaningless.append(receipt(str(d.receipt), d.id))
            else:
                await self._socket.send(frame)
        if meaningless:
            await self._relay.settling.ack(self._agent.id, meaningless)
            self._consumer.settled(meaningless)
        if len(taken) > len(meaningless):
            self._batches[await self._socket.ping()] = self._consumer.batch

    async def has_read(self, number: int) -> None:
        """Note that the peer has read all that went before this ping. For one that cannot ack, that settles it."""
        read = [ping for ping in self._batches if ping <= number]
        if read:
            batch = max(self._batches.pop(ping) for ping in read)
            if self._acks:
                self._consumer.has_read(batch)
            else:
                await self._consumer.settle_read(batch)

    def settled(self, receipts: list[str]) -> None:
        """Note that the peer has acked these, as far as they are of this mailbox."""
        self._consumer.settled(receipts)

    def finished(self, task_id: str) -> None:
        """Note that this task has its final answer."""
        self._consumer.finished(task_id)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way unsettled."""
        return self._consumer.idle

    async def close(self) -> None:
        """Stop; what was not settled is due again at once."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._consumer.close()
