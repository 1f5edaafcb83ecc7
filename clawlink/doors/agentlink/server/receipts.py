"""Telling a sender when its message has been read: once its recipient acked it, and never before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from clawlink.domain.agent import Agent
from clawlink.doors.agentlink.server.socket import Gone
from clawlink.errors import ClawLinkError, StoreUnavailable
from clawlink.protocol.mailbox_replies import MessageStatus
from clawlink.protocol.requests import MessageQuery
from clawlink.relay.relay import Relay

_log = logging.getLogger("clawlink.agentlink")

MAX_FOLLOWED = 1000
_WAIT_SECONDS = 24 * 3600.0
_RETRY_SECONDS = 5.0


class Receipts:
    """Follows the newest ``MAX_FOLLOWED`` messages that one connection has sent."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._followed: dict[str, asyncio.Task[None]] = {}

    def follow(self, sender: Agent, message_id: str, tell: Callable[[MessageStatus], Awaitable[None]]) -> None:
        """Call ``tell`` once with the message's state when it is acked, or never will be."""
        if message_id in self._followed:
            return
        if len(self._followed) >= MAX_FOLLOWED:
            self._followed.pop(next(iter(self._followed))).cancel()
        task = asyncio.create_task(self._follow(sender, message_id, tell))
        self._followed[message_id] = task
        task.add_done_callback(lambda _: self._followed.pop(message_id, None))

    async def _follow(self, sender: Agent, message_id: str, tell: Callable[[MessageStatus], Awaitable[None]]) -> None:
        ask = MessageQuery(agent_id=sender.id, wait=_WAIT_SECONDS, until="acked")
        failed = False
        while not self._relay.draining:
            try:
                status = await self._relay.messages.status(sender, message_id, ask)
                if status.acked_at is not None or status.state in ("expired", "dead", "withdrawn"):
                    await tell(status)
                    return
            except Gone:
                return
            except Exception as failure:
                if isinstance(failure, ClawLinkError) and not isinstance(failure, StoreUnavailable):
                    return  # it was settled and forgotten meanwhile
                if not failed:
                    _log.error("following a message failed; it goes on", exc_info=failure)
                failed = True
                await asyncio.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Follow nothing any more."""
        for task in list(self._followed.values()):
            task.cancel()
