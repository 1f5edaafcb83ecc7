"""The mapping between A2A and ClawLink, both ways. A ClawLink task is the A2A task: same id, no record beside it.

What the client sent stands in the delegation's ``context``, under ``a2a``: ``to`` (the agent or pool), ``contextId``,
``message``, and the request's ``metadata`` and ``acceptedOutputModes``. A worker answers with any JSON. If it knows A2A
it may answer with an object that has ``a2a`` alone: see ``Said``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from clawlink.domain.message import Attachment
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.shapes import Message, Part, SendMessage
from clawlink.protocol.replies import TaskEvent, TaskView

Json = dict[str, Any]
UrlOf = Callable[[str], str]
"""Returns the address of a shared file, by its key."""

SUBMITTED, WORKING = "TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"
INPUT_REQUIRED, AUTH_REQUIRED = "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"
COMPLETED, FAILED = "TASK_STATE_COMPLETED", "TASK_STATE_FAILED"
CANCELED, REJECTED = "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"
STATES = {
    "queued": SUBMITTED,
    "delivered": WORKING,
    "in_progress": WORKING,
    "input_required": INPUT_REQUIRED,
    "completed": COMPLETED,
    "failed": FAILED,
    "rejected": REJECTED,
    "cancelled": CANCELED,
    "expired": FAILED,
    "returned": FAILED,
}
"""The A2A state for each state of ClawLink. A worker can make AUTH_REQUIRED of ``input_required``; see ``Said``."""

FINAL = frozenset({COMPLETED, FAILED, CANCELED, REJECTED})
INTERRUPTED = frozenset({INPUT_REQUIRED, AUTH_REQUIRED})
FILE = "clawlink-file:"
"""The beginning of a part's ``url`` that names a shared file. Clients get an address in its place."""
RESULT = "result"
"""The id of the artifact that a worker's plain result becomes."""
FILES = "files"
"""The id of the artifact with the files that a worker attached to its final answer."""
AGENT, POOL = "agent ", "pool "
"""The beginnings of ``to``: before the id of an agent, and before a capability."""


# -- in: a message becomes work ----------------------------------------------------------------------------------------


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
    return Work(plain(parts), {"a2a": msgspec.to_builtins(asked)})


def as_sent(message: Message, parts: Sequence[Json]) -> Json:
    """Return a message as it is kept, with these parts."""
    sent: Json = msgspec.to_builtins(message)
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
    return {"text": _text_of(parts), "a2a": {"message": as_sent(message, parts)}}


def parts_of(message: Message) -> list[Json]:
    """Return the parts of a message as JSON. Raises A2AError for a part that names a file of the relay.

    Else a client could read any file that is for everyone on the relay: its task would name it.
    """
    for at, part in enumerate(message.parts):
        if part.url is not UNSET and part.url.lower().startswith(FILE):
            field = f"message.parts[{at}].url"
            raise A2AError("INVALID_PARAMS", f"{field} begins with {FILE}, which clients may not use", field=field)
    return [_part(part) for part in message.parts]


def _part(part: Part) -> Json:
    made: Json = msgspec.to_builtins(part)
    return made


def is_base64(text: str) -> bool:
    """Return True if a text is base64, in the alphabet of URLs too, with padding or without."""
    try:
        from_base64(text)
    except ValueError:
        return False
    return True


def from_base64(text: str | bytes) -> bytes:
    """Decode base64, in either alphabet, with padding or without. Raises ValueError."""
    data = (text.encode("ascii") if isinstance(text, str) else text).rstrip(b"=")
    if b"-" in data or b"_" in data:
        data = data.translate(_STANDARD)
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


_STANDARD = bytes.maketrans(b"-_", b"+/")


def asked(view: TaskView) -> Asked | None:
    """Return the A2A side of a task; None for a task that no A2A client asked for."""
    context = view.context
    if not isinstance(context, dict) or "a2a" not in context:
        return None
    try:
        return msgspec.convert(context["a2a"], Asked)
    except msgspec.ValidationError:
        return None


# -- out: what a worker says -------------------------------------------------------------------------------------------


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
    question asks for credentials.
    """

    artifact: Artifact | None = None
    artifacts: list[Artifact] = []
    append: bool = False
    last_chunk: bool = False
    message: Reply | None = None
    reply: Reply | None = None
    auth_required: bool = False

    @property
    def every_artifact(self) -> list[Artifact]:
        return [*self.artifacts, *([] if self.artifact is None else [self.artifact])]


_NOTHING = Said()


def said(content: Any) -> Said | None:
    """Return what a worker said in terms of A2A; None if it used none, or used them wrong: then it is plain JSON."""
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


# -- the task ----------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """An entry of a task's history in terms of A2A. ``number`` counts all entries, folded ones too."""

    number: int
    at: str
    state: str
    message: Json | None
    artifacts: list[Json]
    append: bool
    last: bool
    progress: float | None
    by_client: bool


def steps(view: TaskView, url_of: UrlOf) -> Iterator[Step]:
    """Give the steps of a task after its delegation, as far as the relay keeps them."""
    first = 1 + view.history_folded
    for place, event in enumerate(view.history[1:]):
        yield _step(view, event, first + place, url_of)


def count(view: TaskView) -> int:
    """Return how many entries the history of a task has had."""
    return len(view.history) + view.history_folded


def _step(view: TaskView, event: TaskEvent, number: int, url_of: UrlOf) -> Step:
    state = STATES[event.status]
    by_client = event.by == view.requester and event.status == "in_progress"
    ends = state in FINAL
    content = view.result if ends else _decoded(event.content)
    use = None if by_client else said(content)
    artifacts: list[Json] = []
    parts: list[Json] = []
    known: Json = {}
    if use is not None:
        reply = use.message or (use.reply if ends else None)
        artifacts = [_linked(msgspec.to_builtins(artifact), url_of) for artifact in use.every_artifact]
        if reply is not None:
            known = {k: v for k, v in msgspec.to_builtins(reply).items() if k != "parts"}
            parts = [_part_linked(_part(part), url_of) for part in reply.parts]
        if use.auth_required and state == INPUT_REQUIRED:
            state = AUTH_REQUIRED
    elif state == COMPLETED:
        plainly = spoken(content)
        artifacts = [{"artifactId": RESULT, "name": RESULT, "parts": plainly}] if plainly else []
    else:
        parts = [_part_linked(part, url_of) for part in (answered if by_client else spoken)(content)]
    if ends and view.result_attachments:
        files = [_file(one, url_of) for one in view.result_attachments]
        artifacts.append({"artifactId": FILES, "name": FILES, "parts": files})
    if event.note:
        parts.append({"text": event.note})
    message = None
    if parts:
        role = "ROLE_USER" if by_client else "ROLE_AGENT"
        message = _message(view, {"messageId": f"{view.task_id}-{number}", "role": role, "parts": parts, **known})
    report = use if use is not None and not ends else _NOTHING
    return Step(
        number,
        stamp(event.at),
        state,
        message,
        artifacts,
        report.append,
        report.last_chunk or ends,
        event.progress,
        by_client,
    )


def _decoded(content: Any) -> Any:
    return msgspec.json.decode(bytes(content)) if isinstance(content, msgspec.Raw) else content


def _message(view: TaskView, message: Json) -> Json:
    return {**message, "taskId": view.task_id, "contextId": context_id(view)}


def context_id(view: TaskView) -> str:
    """Return the id of the conversation that a task belongs to."""
    known = asked(view)
    return view.task_id if known is None else known.context_id


def _file(one: Attachment, url_of: UrlOf) -> Json:
    return {"url": url_of(one.file_key), "filename": one.name, "metadata": {"size": one.size, "sha256": one.sha256}}


def _linked(artifact: Json, url_of: UrlOf) -> Json:
    return {"artifactId": RESULT, **artifact, "parts": [_part_linked(part, url_of) for part in artifact["parts"]]}


def _part_linked(part: Any, url_of: UrlOf) -> Any:
    """Return a part with an address in place of the name of a shared file."""
    url = part.get("url") if isinstance(part, dict) else None
    return part if not isinstance(url, str) or not url.startswith(FILE) else {**part, "url": url_of(url[len(FILE) :])}


def keys(view: TaskView) -> frozenset[str]:
    """Return the keys of the shared files that a task's client may read: those that its parts name."""
    found: set[str] = set()

    def note(key: str) -> str:
        found.add(key)
        return key

    task(view, note)
    return frozenset(found)


def task(view: TaskView, url_of: UrlOf, *, history: int | None = None, artifacts: bool = True) -> Json:
    """Return a task as A2A shows it, with ``history`` messages at most: None for all, 0 for none."""
    done = list(steps(view, url_of))
    made: Json = {"id": view.task_id, "contextId": context_id(view), "status": status(view, done)}
    results = collected(done)
    if artifacts and results:
        made["artifacts"] = results
    if history != 0:
        exchanged = messages(view, done, url_of)
        made["history"] = exchanged if history is None else exchanged[-history:]
    made["metadata"] = {"clawlink": facts(view)}
    return made


def status(view: TaskView, done: Sequence[Step]) -> Json:
    """Return the state of a task, its time, and the message that goes with it."""
    if not done:
        return {"state": STATES[view.status], "timestamp": stamp(view.created_at)}
    last = done[-1]
    # A claim whose reply never left the relay is undone, and leaves no step.
    state = last.state if STATES[view.status] not in (SUBMITTED, WORKING) else STATES[view.status]
    shown: Json = {"state": state, "timestamp": last.at}
    if last.message is not None and not last.by_client:
        shown["message"] = last.message
    return shown


def state(view: TaskView) -> str:
    """Return the state of a task."""
    found: str = status(view, list(steps(view, str)))["state"]
    return found


def changed_at(view: TaskView) -> str:
    """Return the time of the task's state, as A2A writes it."""
    return stamp(view.history[-1].at)


def collected(done: Sequence[Step]) -> list[Json]:
    """Return the artifacts that the steps leave: a later one replaces an earlier of its id, or is appended to it."""
    found: dict[str, Json] = {}
    for step in done:
        for artifact in step.artifacts:
            before = found.get(artifact["artifactId"])
            if before is not None and step.append:
                artifact = {**before, "parts": [*before["parts"], *artifact["parts"]]}
            found[artifact["artifactId"]] = artifact
    return list(found.values())


def messages(view: TaskView, done: Sequence[Step], url_of: UrlOf) -> list[Json]:
    """Return the exchange: the client's message, and all that was said since, without the present status's message."""
    known = asked(view)
    sent = {"messageId": view.task_id, "role": "ROLE_USER", "parts": spoken(view.task)}
    first = sent if known is None else known.message
    first = {**first, "parts": [_part_linked(part, url_of) for part in first.get("parts", ())]}
    said_since = [step.message for step in done if step.message is not None]
    if done and done[-1].message is not None and not done[-1].by_client:
        said_since.pop()
    return [_message(view, first), *said_since]


def facts(view: TaskView) -> Json:
    """Return what ClawLink knows of a task and A2A has no place for."""
    given = {
        "status": view.status,
        "assignee": view.assignee,
        "attempts": view.attempts,
        "deliveredAt": None if view.delivered_at is None else stamp(view.delivered_at),
        "ackedAt": None if view.acked_at is None else stamp(view.acked_at),
        "deadlineAt": None if view.deadline_at is None else stamp(view.deadline_at),
        "progress": view.progress,
        "historyFolded": view.history_folded or None,
        "deadLetter": view.dead_letter or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def direct(view: TaskView, url_of: UrlOf) -> Json | None:
    """Return the message that a worker gave in place of a task's result, if it did."""
    use = said(view.result) if STATES[view.status] == COMPLETED else None
    if use is None or use.reply is None:
        return None
    message: Json = status(view, list(steps(view, url_of)))["message"]
    return message


# -- updates -----------------------------------------------------------------------------------------------------------


def updates(before: TaskView, now: TaskView, url_of: UrlOf) -> list[Json]:
    """Return the events that lead from one view of a task to a later one, in their order."""
    told = count(before)
    done = list(steps(now, url_of))
    shown = state(before)
    events: list[Json] = []
    for step in done:
        if step.number < told:
            continue
        only_artifacts = bool(step.artifacts) and step.message is None and step.state == WORKING
        if only_artifacts and shown != WORKING:
            events.append(_status_update(now, {"state": WORKING, "timestamp": step.at}, None))
        events += [_artifact_update(now, artifact, step) for artifact in step.artifacts]
        if not only_artifacts:
            moved: Json = {"state": step.state, "timestamp": step.at}
            if step.message is not None and not step.by_client:
                moved["message"] = step.message
            events.append(_status_update(now, moved, step.progress))
        shown = step.state
    present = status(now, done)
    if present["state"] != shown:
        events.append(_status_update(now, {"state": present["state"], "timestamp": present["timestamp"]}, None))
    return events


def _status_update(view: TaskView, status: Json, progress: float | None) -> Json:
    update: Json = {"taskId": view.task_id, "contextId": context_id(view), "status": status}
    if progress is not None:
        update["metadata"] = {"clawlink": {"progress": progress}}
    return {"statusUpdate": update}


def _artifact_update(view: TaskView, artifact: Json, step: Step) -> Json:
    update: Json = {"taskId": view.task_id, "contextId": context_id(view), "artifact": artifact}
    if step.append:
        update["append"] = True
    if step.last:
        update["lastChunk"] = True
    return {"artifactUpdate": update}


def ends(event: Mapping[str, Any]) -> str | None:
    """Return the state that an event tells, if it tells one."""
    if "statusUpdate" in event:
        return str(event["statusUpdate"]["status"]["state"])
    return str(event["task"]["status"]["state"]) if "task" in event else None


def _text_of(parts: Sequence[Json]) -> str:
    return "\n\n".join(part["text"] for part in parts if "text" in part)


# -- times and lists ---------------------------------------------------------------------------------------------------


def stamp(at: str) -> str:
    """Write a time of the relay as A2A does: UTC with milliseconds and ``Z``."""
    return at.removesuffix("+00:00") + "Z"


_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def instant(text: str, field: str) -> str:
    """Return a time as ``stamp`` writes it, so that texts compare as times. Raises A2AError."""
    found = _INSTANT.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        zone = "+00:00" if found[3] in "Zz" else found[3]
        at = datetime.fromisoformat(f"{found[1].upper()}.{(found[2] or '')[:3].ljust(3, '0')}{zone}")
        at = at.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise A2AError(
            "INVALID_PARAMS", f"{field} is a time with its zone, as 2026-05-13T06:51:00.250Z", field=field
        ) from None
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def token(view: TaskView) -> str:
    """Return the token of the page that begins behind this task, in a list with the newest state first."""
    return base64.urlsafe_b64encode(f"{changed_at(view)} {view.task_id}".encode()).decode().rstrip("=")


def place(page_token: str) -> tuple[str, str]:
    """Return the time and the id that a token stands for. Raises A2AError."""
    try:
        at, _, id = from_base64(page_token).decode().partition(" ")
        if not id or instant(at, "pageToken") != at:
            raise ValueError
    except (ValueError, A2AError):
        raise A2AError(
            "INVALID_PARAMS", "pageToken is the nextPageToken of the page before, and this is none", field="pageToken"
        ) from None
    return at, id
