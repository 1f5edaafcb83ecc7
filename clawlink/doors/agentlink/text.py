"""From the relay's messages to the frames of Agent Link. What is not text becomes text that a person can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from clawlink.domain.delivery import Delivery, message_id
from clawlink.domain.message import PlainMessage, TaskAnswer, TaskDelegation, TaskUpdate, decode, type_of
from clawlink.doors.agentlink.checks import Proof
from clawlink.protocol.agentlink import frames
from clawlink.relay.ids import receipt

_TEXT = "text"
_PROOF = "proof"
_Told = PlainMessage | TaskDelegation | TaskAnswer | TaskUpdate


def content(message: str, proof: Proof | None, *, to_member: bool) -> Any:
    """Return what the relay carries: the text alone, or for a member of an instance its proof with it."""
    if proof is None or not to_member:
        return message
    return {_TEXT: message, _PROOF: msgspec.to_builtins(proof)}


def message_frame(d: Delivery, to: str, is_member: Callable[[str], bool]) -> str | None:
    """Return the frame that brings a delivery to the agent ``to``; None for news that mean nothing in Agent Link."""
    message = decode(d.body)
    if not isinstance(message, _Told):
        return None
    sender, text, more = _read(message, is_member)
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


def _read(message: _Told, is_member: Callable[[str], bool]) -> tuple[str, str, dict[str, Any]]:
    """Return sender, text and further fields of a message."""
    kind = type_of(message)
    if isinstance(message, PlainMessage):
        said = message.content
        if isinstance(said, str):
            return message.from_agent, said, {}
        if is_member(message.from_agent):  # only this door writes as one, so this is its own doing
            return message.from_agent, said[_TEXT], {_PROOF: said[_PROOF]}
        return message.from_agent, _shown(said), {}
    if isinstance(message, TaskDelegation):
        text = f"Task {message.message_id}: {message.task}"
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
