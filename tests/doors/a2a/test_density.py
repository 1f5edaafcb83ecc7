"""JSON of very many parts: it is counted from its bytes, refused where it comes, and never built."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Raw

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.doors.a2a.rules import tasks
from clawlink.doors.a2a.wire import v0_3
from tests.doors.a2a.conftest import Rest, ServeA2A, message
from tests.doors.a2a.test_door import claim, respond, worker
from tests.doors.a2a.test_rules import event, url_of, view


def test_a_result_of_very_many_parts_is_passed_on_unbuilt() -> None:
    for text in (b"[" + b"[]," * MAX_PARTS + b"[]]", b'{"a2a":[' + b"1," * MAX_PARTS + b"1]}"):
        done = view(event(1, "completed"), result=Raw(text))
        ((part,),) = [artifact["parts"] for artifact in tasks.task(done, url_of)["artifacts"]]
        assert part == {"data": Raw(text)}
        (old,) = v0_3.task(tasks.task(done, url_of))["artifacts"][0]["parts"]
        assert old["data"] == (Raw(text) if text.startswith(b"{") else {"value": Raw(text)})
    said = view(
        event(1, "completed"),
        result=Raw(json.dumps({"a2a": {"artifact": {"parts": [{"text": ",\n" * 40_000}]}}}).encode()),
    )
    assert tasks.task(said, url_of)["artifacts"][0]["parts"] == [{"text": ",\n" * 40_000}]


async def test_a_request_of_very_many_parts_is_refused_and_prose_is_not(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(), "/a2a/bob")
    await worker(rest)
    dense: dict[str, Any] = {"message": {**message(), "parts": [{"data": [[]] * (MAX_PARTS // 2)}]}}
    status, answer = await rest.post_large("/message:send", dense)
    assert (status, "raw part" in answer["error"]["message"]) == (413, True)
    # A text with as many commas is a task like any other, for its client and for its worker.
    prose = ",\n" * 40_000
    task = await rest.send(prose)
    (given,) = await claim(rest)
    assert given["task"] == prose
    _, listed = await rest.get("/tasks")
    assert listed["tasks"][0]["history"][0]["parts"] == [{"text": prose}]
    await respond(rest, task["id"], "which?", status="input_required")
    answered = {"message": {**message(taskId=task["id"]), "parts": [{"text": prose}, {"data": 1}]}}
    status, answer = await rest.post("/message:send", {**answered, "configuration": {"returnImmediately": True}})
    assert status == 200, answer
    assert (status, answer["task"]["history"][-1]["parts"][1]) == (200, {"data": 1})
    await respond(rest, task["id"], {"a2a": {"artifact": {"parts": [{"text": prose}]}}})
    _, done = await rest.get(f"/tasks/{task['id']}")
    assert done["artifacts"][0]["parts"] == [{"text": prose}]
