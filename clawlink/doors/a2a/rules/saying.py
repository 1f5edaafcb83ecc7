"""From the worker: any JSON, or an object that has ``a2a`` alone, with an answer in terms of A2A."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from clawlink.doors.a2a.rules.states import RESULT, Json
from clawlink.doors.a2a.wire.base64s import is_base64
from clawlink.doors.a2a.wire.shapes import Part


class Artifact(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A result of a task."""

    parts: list[Part]
    artifact_id: str = RESULT
    name: str | msgspec.UnsetType = UNSET
    description: str | msgspec.UnsetType = UNSET
    metadata: Json | msgspec.UnsetType = UNSET
    extensions: list[str] | msgspec.UnsetType = UNSET


class Reply(Struct, frozen=True, rename="camel"):
    """A message of a worker."""

    parts: list[Part]
    message_id: str | msgspec.UnsetType = UNSET
    metadata: Json | msgspec.UnsetType = UNSET
    extensions: list[str] | msgspec.UnsetType = UNSET


class Said(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A worker's result or report in terms of A2A: the object under ``a2a`` in it.

    ``reply`` in a final answer is a direct message, which ``SendMessage`` returns in place of the task. ``message``
    goes with the state. ``append`` and ``last_chunk`` are about the artifacts of a report. With ``auth_required`` a
    question asks for credentials. With ``unsupported_media`` a task is rejected for the media type of a part.
    """

    artifact: Artifact | None = None
    artifacts: list[Artifact] = []
    append: bool = False
    last_chunk: bool = False
    message: Reply | None = None
    reply: Reply | None = None
    auth_required: bool = False
    unsupported_media: bool = False

    @property
    def every_artifact(self) -> list[Artifact]:
        return [*self.artifacts, *([] if self.artifact is None else [self.artifact])]


NOTHING = Said()


def said(content: Any) -> Said | None:
    """Return the answer of a worker in terms of A2A; None if it has none or has them wrong: then it is plain JSON."""
    if not isinstance(content, dict) or set(content) != {"a2a"}:
        return None
    try:
        found = msgspec.convert(content["a2a"], Said)
    except msgspec.ValidationError:
        return None
    replies = [one for one in (found.message, found.reply) if one is not None]
    for parts in [*(a.parts for a in found.every_artifact), *(reply.parts for reply in replies)]:
        if not parts or any(part.raw is not UNSET and not is_base64(part.raw) for part in parts):
            return None
    if any(not artifact.artifact_id for artifact in found.every_artifact):
        return None
    return found


def spoken(content: Any) -> list[Json]:
    """Return plain JSON as parts: a text as text, anything else as data, nothing for null."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"text": content}]
    return [{"data": content}]


def answered(content: Any) -> list[Json]:
    """Return a later message of the client, which ``follow_up`` made, as its parts."""
    kept = content.get("a2a") if isinstance(content, dict) else None
    return spoken(content) if kept is None else list(kept["message"]["parts"])
