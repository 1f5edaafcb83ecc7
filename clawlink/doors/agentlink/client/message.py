"""A message for an agent, and the facts about its sender."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from clawlink.doors.agentlink.wire import signing
from clawlink.errors import BadRequest


class Forged(Exception):
    """A message that claims to be from an instance with a shared secret, and is not sealed with it."""


@dataclass(frozen=True)
class Message:
    """A message from another agent. The first four fields are those of Agent Link.

    ``timestamp`` is the time at which the relay took the message, in local time without a zone, as ``datetime.now()``.
    ``sealed`` is True if the sender's instance proved itself by the shared secret. ``kind`` is ``message``, or another
    type from the relay's own agents, such as ``task_delegation``; ``task_id`` is then the task's. ``id`` is the
    sender's own id of a signed message, ``message_id`` the relay's. ``attempt`` counts its deliveries.
    """

    from_agent: str
    to_agent: str
    message: str
    timestamp: datetime
    message_id: str = ""
    id: str | None = None
    kind: str = "message"
    task_id: str | None = None
    sealed: bool = False
    attempt: int = 1
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def mark(self) -> str:
        """The mark that a message keeps, however often it comes, or is sealed and handed on again."""
        return f"{self.from_agent}\n{self.id}" if self.sealed else self.message_id


def read_message(frame: Mapping[str, Any], secrets: Mapping[str, str]) -> Message:
    """Read a message frame; ``secrets`` are those shared with other instances, by instance.

    Raises Forged for a message that should be sealed and is not, and KeyError or TypeError for a frame that is no
    message.
    """
    sender, to, text = str(frame["from"]), str(frame["to"]), str(frame["message"])
    proof = frame.get("proof")
    secret = secrets.get(sender.partition("/")[0]) if "/" in sender else None
    if secret is not None and frame.get("kind", "message") == "message":
        _require_seal(sender, to, text, proof, secret)
    return Message(
        from_agent=sender,
        to_agent=to,
        message=text,
        timestamp=_moment(frame.get("timestamp")),
        message_id=str(frame.get("message_id", "")),
        id=None if proof is None else str(proof["id"]),
        kind=str(frame.get("kind", "message")),
        task_id=frame.get("task_id"),
        sealed=secret is not None,
        attempt=int(frame.get("attempt", 1)),
        fields=frame,
    )


def _moment(told: Any) -> datetime:
    """Return when a message was sent, as the relay tells it. If it tells no time, that is now."""
    try:
        return datetime.fromtimestamp(signing.read_stamp(str(told)))
    except (BadRequest, ValueError, OverflowError, OSError):
        return datetime.now()


def seal(secret: str, sender: str, to: str, text: str, *, time: str, nonce: str, id: str) -> str:
    """Return the signature by which the recipient's instance knows ours: it covers all that the relay's does."""
    return signing.digest(secret.encode(), signing.canonical_send(sender, to, text, time=time, nonce=nonce, id=id))


def _require_seal(sender: str, to: str, text: str, proof: Any, secret: str) -> None:
    if not isinstance(proof, dict) or not isinstance(proof.get("seal"), str):
        raise Forged(f"a message from {sender} is not sealed, though a secret is shared with its instance")
    expected = seal(secret, sender, to, text, time=proof["time"], nonce=proof["nonce"], id=proof["id"])
    if proof["to"] != to or not signing.same(proof["seal"], expected):
        raise Forged(f"a message from {sender} is not sealed with the secret that is shared with its instance")
