"""A task as A2A shows it: its state, its exchange and its artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from clawlink.domain.dense_json import built_if_light
from clawlink.domain.message import Attachment
from clawlink.doors.a2a.rules.asking import asked, text_of
from clawlink.doors.a2a.rules.saying import NOTHING, answered, said, spoken
from clawlink.doors.a2a.rules.states import (
    AUTH_REQUIRED,
    COMPLETED,
    FILE,
    FILES,
    FINAL,
    INPUT_REQUIRED,
    MAX_REASON,
    REJECTED,
    RESULT,
    STATES,
    SUBMITTED,
    WORKING,
    Json,
    UrlOf,
    stamp,
)
from clawlink.doors.a2a.wire.shapes import json_of
from clawlink.protocol.replies import TaskEvent, TaskView


class Step(Struct, frozen=True):
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
    content = built_if_light(view.result if ends else event.content)
    use = None if by_client else said(content)
    artifacts: list[Json] = []
    parts: list[Json] = []
    known: Json = {}
    if use is not None:
        reply = use.message or (use.reply if ends else None)
        artifacts = [_linked(msgspec.to_builtins(artifact), url_of) for artifact in use.every_artifact]
        if reply is not None:
            known = {k: v for k, v in msgspec.to_builtins(reply).items() if k != "parts"}
            parts = [_part_linked(json_of(part), url_of) for part in reply.parts]
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
    report = use if use is not None and not ends else NOTHING
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
    # A claim whose reply never left the relay is released, and leaves no step.
    state = last.state if STATES[view.status] not in (SUBMITTED, WORKING) else STATES[view.status]
    shown: Json = {"state": state, "timestamp": last.at}
    if last.message is not None and not last.by_client:
        shown["message"] = last.message
    return shown


def state(view: TaskView) -> str:
    """Return the state of a task."""
    if view.status != "input_required":
        return STATES[view.status]
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
    """Return the facts of a task for which A2A has no field."""
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


def unsupported(view: TaskView) -> str | None:
    """Return why a worker does not take a media type of its task; None unless it rejected the task for that."""
    use = said(built_if_light(view.result)) if STATES[view.status] == REJECTED else None
    if use is None or not use.unsupported_media:
        return None
    parts = [] if use.message is None else [json_of(part) for part in use.message.parts]
    return text_of(parts)[:MAX_REASON] or "the agent does not take the media type of a part"


def direct(view: TaskView, url_of: UrlOf) -> Json | None:
    """Return the message that a worker gave in place of a task's result, if it did."""
    use = said(built_if_light(view.result)) if STATES[view.status] == COMPLETED else None
    if use is None or use.reply is None:
        return None
    message: Json = status(view, list(steps(view, url_of)))["message"]
    return message
