"""From the client: a message becomes work.

The client's side stands in the delegation's ``context``, under ``a2a``: ``to`` (the agent or pool), ``contextId``,
``message``, and the request's ``metadata`` and ``acceptedOutputModes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from clawlink.domain.dense_json import built_if_light
from clawlink.doors.a2a.rules.states import FILE, Json
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.shapes import Message, SendMessage, json_of
from clawlink.protocol.replies import TaskView


class Asked(Struct, frozen=True, rename="camel"):
    """The A2A side of a delegation, as it stands in the task's context."""

    to: str
    context_id: str
    message: Json
    metadata: Json | msgspec.UnsetType = UNSET
    accepted_output_modes: list[str] | msgspec.UnsetType = UNSET


class Work(NamedTuple):
    """The work that a message asks for: the task as the worker reads it, and the context."""

    task: Any
    context: Json


def work(to: str, context_id: str, ask: SendMessage, parts: Sequence[Json]) -> Work:
    """Return the work that a message asks for. ``parts`` are the message's, with files in place of raw bytes."""
    modes = ask.configuration.accepted_output_modes
    asked = Asked(to, context_id, as_sent(ask.message, parts), ask.metadata, modes or UNSET)
    return Work(plain(parts), {"a2a": json_of(asked)})


def as_sent(message: Message, parts: Sequence[Json]) -> Json:
    """Return a message as it is kept, with these parts."""
    sent = json_of(message)
    for name in ("contextId", "taskId"):
        sent.pop(name, None)
    return {**sent, "parts": list(parts)}


def plain(parts: Sequence[Json]) -> Any:
    """Return the parts as a worker reads them that knows nothing of A2A: the text, else the data, else the files."""
    texts = [part["text"] for part in parts if "text" in part]
    if any(text.strip() for text in texts):
        return "\n\n".join(texts)
    data = [part["data"] for part in parts if "data" in part]
    if data and data != [None]:
        return {"data": data[0] if len(data) == 1 else data}
    named = [part.get("filename") or part["url"] for part in parts if "url" in part]
    return {"files": named} if named else {"text": "\n\n".join(texts)}


def follow_up(message: Message, parts: Sequence[Json]) -> Any:
    """Return a later message of the client as its worker reads it: its text alone, if that is all that it has."""
    plain_text = all(set(part) == {"text"} for part in parts)
    if plain_text and message.metadata is UNSET and message.extensions is UNSET:
        return plain(parts)
    return {"text": text_of(parts), "a2a": {"message": as_sent(message, parts)}}


def parts_of(message: Message) -> list[Json]:
    """Return the parts of a message as JSON. Raises A2AError for a part that names a file of the relay.

    Else a client could read any file that is for everyone on the relay: its task would name it.
    """
    for at, part in enumerate(message.parts):
        if part.url is not UNSET and part.url.lower().startswith(FILE):
            field = f"message.parts[{at}].url"
            raise A2AError("INVALID_PARAMS", f"{field} begins with {FILE}, which clients may not use", field=field)
    return [json_of(part) for part in message.parts]


def asked(view: TaskView) -> Asked | None:
    """Return the A2A side of a task; None for a task that no A2A client asked for."""
    context = built_if_light(view.context)
    if not isinstance(context, dict) or "a2a" not in context:
        return None
    try:
        return msgspec.convert(context["a2a"], Asked)
    except msgspec.ValidationError:
        return None


def text_of(parts: Sequence[Json]) -> str:
    """Return the text parts, with an empty line between them."""
    return "\n\n".join(part["text"] for part in parts if "text" in part)
