"""From the relay's messages to the frames of Agent Link. Other content than text becomes readable text."""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.domain.delivery import Delivery, message_id
from clawlink.domain.message import PlainMessage, TaskAnswer, TaskDelegation, TaskUpdate, decode, type_of
from clawlink.doors.agentlink.server.checks import Envelopes
from clawlink.doors.agentlink.wire import frames
from clawlink.relay.ids import receipt

_Told = PlainMessage | TaskDelegation | TaskAnswer | TaskUpdate


def message_frame(d: Delivery, to: str, envelopes: Envelopes) -> str | None:
    """Return the frame that brings a delivery to the agent ``to``; None for news that mean nothing in Agent Link."""
    message = decode(d.body)
    if not isinstance(message, _Told):
        return None
    sender, text, more = _read(message, to, envelopes)
    return frames.write(
        "message",
        **{"from": sender, "to": to},
        message=text,
        timestamp=message.timestamp,
        message_id=message_id(d),
        receipt=receipt(str(d.receipt), d.id),
        attempt=d.attempts,
        **more,
    )


def _read(message: _Told, to: str, envelopes: Envelopes) -> tuple[str, str, dict[str, Any]]:
    """Return sender, text and further fields of a message."""
    kind = type_of(message)
    if isinstance(message, PlainMessage):
        opened = envelopes.open(message.content, sender=message.from_agent, to=to)
        if opened is None:
            return message.from_agent, _shown(message.content), {}
        text, proof = opened
        return message.from_agent, text, {"proof": proof}
    if isinstance(message, TaskDelegation):
        text = f"Task {message.message_id}: {_shown(message.task)}"
        if message.context:
            text += f"\nContext: {_shown(message.context)}"
        more = {
            "kind": kind,
            "task_id": message.message_id,
            "task": message.task,
            "context": message.context,
            "priority": message.priority.value,
        }
        return message.from_agent, text, more
    if isinstance(message, TaskAnswer):
        more = {"kind": kind, "task_id": message.task_id}
        return message.from_agent, f"Answer about task {message.task_id}: {_shown(message.content)}", more
    note = f" ({message.note})" if message.note else ""
    more = {"kind": kind, "task_id": message.task_id, "status": message.status}
    return message.by or "", f"Task {message.task_id} is {message.status}{note}", more


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
