"""A held message, and its reports."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future
from typing import Any

from clawlink.client import calls, endpoints
from clawlink.client.calls import Call, Claimed, Identity
from clawlink.client.link.pending import promise
from clawlink.client.link.runner import Run
from clawlink.client.link.transport import Transport
from clawlink.domain.message import Attachment, TaskDelegation
from clawlink.protocol.replies import ResponseSent


class InFlight:
    """A message that is being handled, under the receipt of its latest claim."""

    def __init__(self, claimed: Claimed, transport: Transport) -> None:
        self.claimed = claimed
        self.transport: Transport | None = transport
        self.renewed = asyncio.Event()
        self.run: Run | None = None
        self.lost = False
        self.timed_out = False
        self.attachments: list[Attachment] = []
        # The final state that the relay has from here, None if it has none, and why it is not as it should be.
        self.over: Future[tuple[str | None, str | None]] = promise()

    @property
    def id(self) -> str:
        """The message's id."""
        return self.claimed.message_id

    @property
    def receipt(self) -> str:
        """The current receipt of the message."""
        return self.claimed.receipt

    @property
    def requester(self) -> str:
        """The id of the agent that gets the reports."""
        message = self.claimed.message
        return message.from_agent if isinstance(message, TaskDelegation) else ""

    def renew(self, claimed: Claimed, transport: Transport) -> None:
        """It came again: the new receipt counts."""
        self.claimed, self.transport = claimed, transport
        self.renewed.set()

    def end(self, status: str | None, why: str | None = None) -> None:
        """End the message here; the first decision counts."""
        if not self.over.done():
            self.over.set_result((status, why))

    def lose(self) -> None:
        """Note that no agent waits for the result any more."""
        self.lost = True
        if self.run is not None:
            self.run.cancel()


class Report:
    """A response to a task, made when it is sent: the receipt may be another by then, the idempotency key not."""

    def __init__(self, me: Identity, in_flight: InFlight, fields: dict[str, Any]) -> None:
        self._me = me
        self._in_flight = in_flight
        self._fields = {**fields, "key": calls.repeat_key(None)}
        self.result = fields.get("result")
        self.receipt = ""

    def call(self) -> Call[ResponseSent]:
        self.receipt = self._in_flight.receipt
        return endpoints.respond(self._me, self._in_flight.id, receipt=self.receipt, **self._fields)


def not_json(report: Report) -> str | None:
    """Tell why the result in a report is not JSON; None if it is. Raises BadRequest for any other mistake."""
    try:
        json.dumps(report.result, allow_nan=False)
        report.call()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        return str(error)
    return None


def sentence_of(error: BaseException) -> str:
    """Return an exception's sentence, with its name if the sentence alone is too short, as for a missing key."""
    text = str(error)
    if isinstance(error, Exception) and " " in text and not isinstance(error, KeyError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
