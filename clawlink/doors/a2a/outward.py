"""The mapping outward: a task of the mesh as a message for a remote agent, and the remote task as what became of it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, field

from clawlink.domain.dense_json import built_if_light
from clawlink.doors.a2a.rules import saying, states
from clawlink.doors.a2a.rules.states import FINAL, Json
from clawlink.doors.a2a.wire.shapes import Part
from clawlink.errors import BadRequest

MAX_NOTE = 1000
ENDS = {
    states.COMPLETED: "completed",
    states.FAILED: "failed",
    states.REJECTED: "rejected",
    states.CANCELED: "failed",
}
"""The end of a task here, for each end of the remote task. A remote agent that cancels it has failed it."""


T = TypeVar("T")


class _Message(Struct, frozen=True, rename="camel"):
    parts: list[Part] = field(default_factory=list)
    message_id: str = ""


class _Status(Struct, frozen=True):
    state: str
    message: _Message | None = None
    timestamp: str = ""


class _Artifact(Struct, frozen=True, rename="camel", omit_defaults=True):
    artifact_id: str
    parts: list[Part]
    name: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET


class RemoteTask(Struct, frozen=True, rename="camel"):
    """A task of a remote agent, as far as it matters here."""

    id: str
    status: _Status
    context_id: str = ""
    artifacts: list[_Artifact] = field(default_factory=list)


class Sent(Struct, frozen=True):
    """The answer to a message: a task, or a message in its place."""

    task: RemoteTask | None = None
    message: _Message | None = None


class Report(NamedTuple):
    """A report on a task here: its status, with a result or a note."""

    status: str
    result: Any = None
    note: str | None = None

    @property
    def ends(self) -> bool:
        """True for a final answer."""
        return self.status in ENDS.values()


def read(answer: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Read an answer of a remote agent. Raises BadRequest for one that is no such thing.

    Fields that do not matter here are passed over, and never built.
    """
    try:
        found = msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the answer of the remote agent is not valid A2A: {error}") from None
    if any(part.url is not msgspec.UNSET and part.url.lower().startswith(states.FILE) for part in _parts(found)):
        raise BadRequest("the remote agent named a file of this relay, and it has none here")
    return found


def _parts(found: Any) -> list[Part]:
    """Return all parts of an answer."""
    if isinstance(found, Sent):
        return [*(found.message or _Message()).parts, *([] if found.task is None else _parts(found.task))]
    if not isinstance(found, RemoteTask):
        return []
    own = [part for artifact in found.artifacts for part in artifact.parts]
    return [*own, *(found.status.message or _Message()).parts]


def message(id: str, content: Any, *, context: Any = None, task: RemoteTask | None = None) -> Json:
    """Return a message for a remote agent. A message that came by A2A goes on as it came, but for its ids."""
    context = built_if_light(context)
    asked = context.get("a2a") if isinstance(context, dict) else None
    came = asked.get("message") if isinstance(asked, dict) else None
    parts = came.get("parts") if isinstance(came, dict) else None
    if not isinstance(parts, list) or any(_is_file(part) for part in parts):
        parts = saying.spoken(content) or [{"text": ""}]
    made: Json = {"messageId": id, "role": "ROLE_USER", "parts": parts}
    if task is None:
        known = {"context": context} if asked is None and context not in (None, {}) else {}
        made["metadata"] = {"clawlink": {**known, "hops": hops(context) + 1}}
    else:
        made["taskId"] = task.id
        if task.context_id:
            made["contextId"] = task.context_id
    return made


def hops(context: Any) -> int:
    """Return the number of relays through which a task has come by A2A, as its message says."""
    found = built_if_light(context)
    for name in ("a2a", "message", "metadata", "clawlink", "hops"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


def _is_file(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("url", "")).startswith(states.FILE)


def report(before: RemoteTask | None, now: RemoteTask) -> Report | None:
    """Return the news of a remote task since the last report; None if there is none."""
    status = now.status
    if before is not None and before.status == status and before.artifacts == now.artifacts:
        return None
    text = _text(status.message)
    if status.state in FINAL:
        if status.state == states.COMPLETED:
            return Report("completed", result(now), None if text is None or not now.artifacts else text[:MAX_NOTE])
        why = "the remote agent cancelled it" if status.state == states.CANCELED else None
        return Report(ENDS[status.state], text, why)
    if status.state in states.INTERRUPTED:
        question: Any = plain(status.message) or "the remote agent asks for more, and does not say for what"
        if status.state == states.AUTH_REQUIRED:
            parts = [_json(part) for part in (status.message or _Message()).parts] or [{"text": question}]
            question = {"a2a": {"authRequired": True, "message": {"parts": parts}}}
        return Report("input_required", question)
    if status.state != states.WORKING:
        return None
    known = [] if before is None else before.artifacts
    new = [_json(artifact) for artifact in now.artifacts if artifact not in known]
    if new:
        return Report("in_progress", {"a2a": {"artifacts": new}}, None if text is None else text[:MAX_NOTE])
    if before is not None and before.status.state == status.state and text == _text(before.status.message):
        return None
    return Report("in_progress", None, None if text is None else text[:MAX_NOTE])


def result(task: RemoteTask) -> Any:
    """Return the result of a remote task: the text or data of its only part, or all in terms of A2A."""
    if not task.artifacts:
        return plain(task.status.message)
    if len(task.artifacts) == 1:
        only = _only(task.artifacts[0].parts)
        if only is not None:
            return only
    return {"a2a": {"artifacts": [_json(artifact) for artifact in task.artifacts]}}


def known(id: str, context_id: str) -> RemoteTask:
    """Return a remote task of which nothing but its id is known yet."""
    return RemoteTask(id, _Status(""), context_id)


def plain(answer: _Message | None) -> Any:
    """Return a message as its only text or data, or in terms of A2A."""
    if answer is None or not answer.parts:
        return None
    only = _only(answer.parts)
    return only if only is not None else {"a2a": {"message": {"parts": [_json(part) for part in answer.parts]}}}


def _only(parts: list[Part]) -> Any:
    if len(parts) != 1 or parts[0].metadata is not msgspec.UNSET:
        return None
    part = parts[0]
    return part.text if part.text is not msgspec.UNSET else None if part.data is msgspec.UNSET else part.data


def _text(answer: _Message | None) -> str | None:
    texts = [] if answer is None else [part.text for part in answer.parts if isinstance(part.text, str)]
    return "\n\n".join(texts) or None


def _json(value: Any) -> Json:
    made: Json = msgspec.to_builtins(value)
    return made
