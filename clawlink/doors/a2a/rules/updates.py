"""The events that lead from one view of a task to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from clawlink.doors.a2a.rules.states import WORKING, Json, UrlOf
from clawlink.doors.a2a.rules.tasks import Step, context_id, count, state, status, steps
from clawlink.protocol.replies import TaskView


class Told(Struct, frozen=True):
    """All that a follower of a task has to keep: the version that it was told of, its entries, and its state."""

    version: int
    entries: int
    state: str


def told(view: TaskView) -> Told:
    """Return a view of a task as its follower keeps it."""
    return Told(view.version, count(view), state(view))


def updates(before: Told, now: TaskView, url_of: UrlOf) -> list[Json]:
    """Return the events that lead from an earlier view of a task to this one, in their order."""
    done = list(steps(now, url_of))
    shown = before.state
    events: list[Json] = []
    for step in done:
        if step.number < before.entries:
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
