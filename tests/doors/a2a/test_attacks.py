"""Hostile requests of each method in both bindings: no failure of the relay, no traceback, nothing of other clients."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clawlink.doors.a2a.server.methods import Methods
from tests.conftest import UNPACED
from tests.doors.a2a.conftest import Rest, ServeA2A, client_of, message, reason
from tests.doors.a2a.test_door import claim, worker
from tests.hostile import VALUES, variants

_ROOT = Path(__file__).parents[3]
_HOOK = {"url": "https://example.com/x", "token": "t", "authentication": {"scheme": "Bearer", "credentials": "c"}}


def asks(id: str) -> dict[str, Any]:
    """Return good parameters for each method that does not go on."""
    return {
        "GetTask": {"id": id, "historyLength": 1},
        "ListTasks": {
            "contextId": "",
            "status": "TASK_STATE_SUBMITTED",
            "pageSize": 5,
            "historyLength": 1,
            "pageToken": "",
            "includeArtifacts": True,
            "statusTimestampAfter": "2026-05-13T06:51:00.250Z",
        },
        "CancelTask": {"id": "x"},
        "CreateTaskPushNotificationConfig": {"taskId": id, "id": "h", **_HOOK},
        "GetTaskPushNotificationConfig": {"taskId": id, "id": "h"},
        "ListTaskPushNotificationConfigs": {"taskId": id, "pageSize": 1, "pageToken": ""},
        "DeleteTaskPushNotificationConfig": {"taskId": id, "id": "h"},
        "GetExtendedAgentCard": {"tenant": "x"},
        "SubscribeToTask": {"id": "x"},
    }


async def test_no_request_of_any_method_is_answered_with_a_failure(
    serve_a2a: ServeA2A, caplog: pytest.LogCaptureFixture
) -> None:
    rest = Rest(await serve_a2a(limits=UNPACED), "/a2a/bob")
    await worker(rest, capabilities=["x"])
    task = await rest.send()
    known = asks(task["id"])
    assert {*known, "SendMessage", "SendStreamingMessage"} == set(
        Methods(rest.relay.app.relay, *[None] * 3).by_name  # type: ignore[arg-type]
    )
    for method, good in known.items():
        for params in variants(good, [value for value in VALUES if value != task["id"]]):
            answer = json.dumps(await rest.rpc(method, params))
            assert "-32603" not in answer, (method, params, answer)
    for pool in (Rest(rest.relay, "/a2a-pools/x"), Rest(rest.relay, "/a2a-relay")):
        for method, good in known.items():
            assert "-32603" not in json.dumps(await pool.rpc(method, good)), method
    hooks = f"/tasks/{task['id']}/pushNotificationConfigs"
    for body in variants(_HOOK, VALUES):
        status, answer = await rest.post(hooks, body)
        assert status < 500, (body, answer)
    for path in (
        "/tasks/{}",
        "/tasks/{}:cancel",
        "/tasks/{}/pushNotificationConfigs",
        hooks + "/{}",
        "/{}",
        "/tasks/{}:{}",
    ):
        for value in VALUES:
            piece = quote(str(value)[:300], safe="")
            for method in ("GET", "POST", "DELETE", "HEAD"):
                url = rest.path + path.replace("{}", piece)
                status, answer = await rest.relay.ask(method, url, headers=rest.headers)
                assert status < 500, (method, url, answer)
    for name in VALUES:
        for place in ("/a2a/", "/a2a-pools/"):
            url = place + quote(str(name)[:300], safe="")
            status, answer = await rest.relay.get(url + "/tasks", headers=rest.headers)
            assert status < 500, (url, answer)
    loud = [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not loud, loud


async def test_the_answer_about_a_task_of_another_client_is_that_about_none(
    serve_a2a: ServeA2A, tmp_path: Path
) -> None:
    file = tmp_path / "clients.json"
    owner, other = (Rest(await serve_a2a(token="t", clients=str(file)), "/a2a/bob", client_of(file, "ann")), "cat")
    thief = Rest(owner.relay, "/a2a/bob", client_of(file, other))
    await owner.relay.app.doors["a2a"].upkeep(0.0)
    bearer = {"Authorization": "Bearer t"}
    assert (await owner.relay.post("/register", {"agent_id": "bob", "name": "bob"}, headers=bearer))[0] == 200
    task = await owner.send("secret", contextId="private")
    id, unknown = task["id"], "0" * 24
    hooked = await owner.rpc("CreateTaskPushNotificationConfig", {"taskId": id, "id": "h", **_HOOK})
    assert hooked["result"]["id"] == "h"
    for method, good in asks(id).items():
        params = {**good, "id": id} if good.get("id") == "x" else good
        if id not in params.values():
            continue
        about = [
            await thief.rpc(method, {k: (one if v == id else v) for k, v in params.items()}) for one in (id, unknown)
        ]
        assert [reason(answer) for answer in about] == ["TASK_NOT_FOUND"] * 2, method
        assert json.dumps(about[0]).replace(id, unknown) == json.dumps(about[1]), method
    for body in ({"message": message(taskId=id)}, {"message": message(taskId=id, contextId="private")}):
        assert reason(await thief.rpc("SendMessage", body)) == "TASK_NOT_FOUND"
        assert reason(await thief.rpc("SendStreamingMessage", body)) == "TASK_NOT_FOUND"
    for ask in (
        {},
        {"contextId": "private"},
        {"pageToken": (await owner.get("/tasks", pageSize="1"))[1]["nextPageToken"]},
    ):
        listed = (await thief.rpc("ListTasks", ask))["result"]
        assert (listed["tasks"], listed["totalSize"]) == ([], 0)
    # A reference to it, or its context, gives nothing either.
    named = {**message(contextId="private", referenceTaskIds=[id])}
    own = (await thief.rpc("SendMessage", {"message": named, "configuration": {"returnImmediately": True}}))["result"]
    assert own["task"]["id"] != id
    assert "secret" not in json.dumps(own)
    assert (await owner.rpc("GetTask", {"id": id}))["result"]["status"]["state"] == "TASK_STATE_SUBMITTED"


async def test_parts_of_16_megabytes_become_files(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(limits=UNPACED), "/a2a/bob")
    await worker(rest)
    data = bytes(range(256)) * (16 << 12)
    parts = [{"raw": base64.b64encode(data).decode(), "filename": "a.bin"}, {"text": "look"}]
    sent = {"message": {**message(), "parts": parts}, "configuration": {"returnImmediately": True}}
    _, by_rest = await rest.post_large("/message:send", sent)
    _, by_rpc = await rest.post_large("", {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": sent})
    for task in (by_rest["task"], by_rpc["result"]["task"]):
        async with rest.relay.session.get(task["history"][0]["parts"][0]["url"]) as got:
            assert await got.read() == data
    given = await claim(rest)
    assert [one["attachments"][0]["size"] for one in given if one["type"] == "task_delegation"] == [len(data)] * 2


@pytest.mark.storm
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis wants Python 3.11")
def test_no_request_that_fits_the_binding_is_answered_with_a_failure() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=-q"]
    cases = "tests/doors/a2a/rest_operations.py"
    done = subprocess.run([*command, cases], cwd=_ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-20_000:]
    assert "9 passed" in done.stdout
