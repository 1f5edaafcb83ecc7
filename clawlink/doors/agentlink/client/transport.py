"""How the messages in the outbox leave over a connection, and learn the relay's answers."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from clawlink.client.link.outbox import Way
from clawlink.domain.terminal import cell
from clawlink.doors.agentlink.client.sent import MAX_FOLLOWED, MAX_UNANSWERED, Sent
from clawlink.doors.agentlink.client.session import Session
from clawlink.errors import ClawLinkError, RelayUnreachable

_log = logging.getLogger("clawlink.agentlink")

# A relay that leaves a message unanswered holds up the messages behind it for this many seconds at most.
ANSWER_SECONDS = 3.0


class SessionTransport(Way[Sent]):
    """A registered connection. A message to a recipient leaves once the relay has answered the one before.

    The relay refuses messages that come too fast. If others followed a refused message, the relay could take one of
    those first.
    """

    window = MAX_UNANSWERED + MAX_FOLLOWED
    at_once = 1
    patience = ANSWER_SECONDS
    has_requests = False

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answers: dict[str, asyncio.Future[None]] = {}

    def holds_all(self, call: Sent, error: ClawLinkError) -> bool:
        """Return True if the connection has ended; the relay's refusals are about one recipient."""
        return isinstance(error, RelayUnreachable)

    async def perform(self, call: Sent, *, by_request: bool = False) -> Any:
        """Send a message, and return when the relay has it. Raises its refusal, RelayUnreachable."""
        answer = self._answers[call.id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(call)
            await answer
        except asyncio.CancelledError:
            if not answer.done() or answer.cancelled():
                raise
            return answer.result()  # the answer came together with the end of the connection
        finally:
            del self._answers[call.id]

    async def _send(self, sent: Sent) -> None:
        try:
            await self._session.send(sent)
        except RelayUnreachable:
            raise
        except ClawLinkError as error:
            _log.warning("a message cannot be sent: %s", cell(error.message), extra={"id": sent.id})
            raise

    def answered(self, id: str, error: ClawLinkError | None = None) -> bool:
        """Note the answer of the relay about a message. Return True if the answer was awaited."""
        answer = self._answers.get(id)
        if answer is None or answer.done():
            return False
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
        return True
