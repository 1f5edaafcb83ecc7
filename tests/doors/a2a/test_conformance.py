"""A replay of the conformance kit: its requirements of the agent of ``agent.py``, in both bindings."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from clawlink.doors.a2a.rules.updates import ends
from tests.doors.a2a import agent
from tests.doors.a2a.conftest import Rest, ServeA2A, message, reason
from tests.doors.a2a.test_push import Hook
from tests.waiting import eventually

BINDINGS = ("jsonrpc", "http_json")
_REST: dict[str, tuple[str, str]] = {
    "SendMessage": ("POST", "/message:send"),
    "GetTask": ("GET", "/tasks/{id}"),
    "ListTasks": ("GET", "/tasks"),
    "CancelTask": ("POST", "/tasks/{id}:cancel"),
    "CreateTaskPushNotificationConfig": ("POST", "/tasks/{taskId}/pushNotificationConfigs"),
    "GetTaskPushNotificationConfig": ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    "ListTaskPushNotificationConfigs": ("GET", "/tasks/{taskId}/pushNotificationConfigs"),
    "DeleteTaskPushNotificationConfig": ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    "GetExtendedAgentCard": ("GET", "/extendedAgentCard"),
}
_STREAMS = {"SendStreamingMessage": "/message:stream", "SubscribeToTask": "/tasks/{id}:subscribe"}


class Kit:
    """The calls of the kit over one binding."""

    def __init__(self, rest: Rest, binding: str) -> None:
        self.rest = rest
        self.rpc = binding == "jsonrpc"

    async def call(self, method: str, **params: Any) -> Any:
        """Call a method; return its result, or the reason of its error."""
        if self.rpc:
            answer = await self.rest.rpc(method, params)
            return reason(answer) if "error" in answer else answer["result"]
        verb, path = _REST[method]
        left = {name: value for name, value in params.items() if f"{{{name}}}" not in path}
        url = self.rest.path + path.format(**params)
        query = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in left.items()}
        asked = {"params": query} if verb == "GET" else {"json": left} if verb == "POST" else {}
        status, answer = await self.rest.relay.ask(verb, url, headers=self.rest.headers, **asked)
        return reason(answer) if status >= 400 else answer

    async def send(self, id: str, *, wishes: Any = None, **fields: Any) -> Any:
        more = {} if wishes is None else {"configuration": wishes}
        return await self.call("SendMessage", message=message(id=id, **fields), **more)

    async def task(self, id: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = (await self.send(id, **fields))["task"]
        return made

    async def stream(self, method: str, **params: Any) -> AsyncGenerator[Any, None]:
        """Give the events of a stream."""
        if self.rpc:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            async with self.rest.stream("POST", "", body) as following:
                while (event := await following()) is not None:
                    assert (event["jsonrpc"], event["id"]) == ("2.0", 1)
                    yield event["result"]
            return
        path = _STREAMS[method].format(**params)
        async with self.rest.stream("POST", path, params if "message" in params else None) as following:
            while (event := await following()) is not None:
                yield event

    async def events(self, method: str, **params: Any) -> list[Any]:
        return [event async for event in self.stream(method, **params)]


@pytest.fixture
async def kits(serve_a2a: ServeA2A, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Kit]]:
    monkeypatch.setattr(agent, "HOLD_SECONDS", 2.0)
    monkeypatch.setattr(agent, "DELAY_SECONDS", 0.2)
    rest = Rest(await serve_a2a(private_webhooks=True), "/a2a/tck")
    async with agent.at_work(rest.relay.url):
        yield [Kit(rest, binding) for binding in BINDINGS]


def state(task: Any) -> str:
    return str(task["status"]["state"]).removeprefix("TASK_STATE_")


async def read(stream: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in stream]


def keys(value: Any) -> Iterator[str]:
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield name
        yield from keys(inner)
    for inner in value if isinstance(value, list) else ():
        yield from keys(inner)


async def test_messages(kits: list[Kit]) -> None:
    for kit in kits:
        done = await kit.task("tck-complete-task-1")
        assert (state(done), bool(done["contextId"])) == ("COMPLETED", True)
        again = await kit.task("tck-complete-task-1")
        assert again["id"] != done["id"], "ids of messages repeat, and ids of tasks do not"
        assert (await kit.task("tck-complete-task", contextId="mine"))["contextId"] == "mine"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", done["status"]["timestamp"])
        assert not [name for name in keys(done) if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)]
        ParseDict(done, pb.Task())
        asked = await kit.send("tck-complete-task", tckUnknownField="x", wishes={"tckUnknownField": 1})
        assert state(asked["task"]) == "COMPLETED"
        for id, wishes, shown in (
            ("tck-delayed-complete", {"returnImmediately": False}, {"COMPLETED"}),
            ("tck-delayed-complete", {"returnImmediately": True}, {"SUBMITTED", "WORKING"}),
            ("tck-input-required", None, {"INPUT_REQUIRED"}),
            ("tck-auth-required", None, {"AUTH_REQUIRED"}),
            ("tck-reject-task", None, {"REJECTED"}),
        ):
            assert state(await kit.task(id, wishes=wishes)) in shown, id
        part = {"raw": "dGNr", "mediaType": "application/x-unsupported-tck-type"}
        assert await kit.send("tck-send-003", parts=[part]) == "CONTENT_TYPE_NOT_SUPPORTED"
        assert await kit.send("tck-multi-004", taskId="nonexistent") == "TASK_NOT_FOUND"
        assert await kit.call("SendMessage") == "INVALID_PARAMS"


async def test_tasks(kits: list[Kit]) -> None:
    for kit in kits:
        done, asked = await kit.task("tck-complete-task"), await kit.task("tck-input-required")
        assert (await kit.call("GetTask", id=done["id"]))["id"] == done["id"]
        for method in ("GetTask", "CancelTask"):
            assert await kit.call(method, id="nonexistent") == "TASK_NOT_FOUND"
        assert await kit.call("CancelTask", id=done["id"]) == "TASK_NOT_CANCELABLE"
        assert await kit.send("tck-terminal", taskId=done["id"]) == "UNSUPPORTED_OPERATION"
        assert isinstance(await kit.send("tck-mismatch", taskId=done["id"], contextId="wrong"), str)
        assert (await kit.task("tck-infer-ctx", taskId=asked["id"]))["contextId"] == asked["contextId"]
        cancelled = await kit.call("CancelTask", id=(await kit.task("tck-input-required"))["id"])
        assert state(cancelled) == "CANCELED"

        asked = await kit.task("tck-input-required", text="first")
        done = await kit.task("tck-complete-task", taskId=asked["id"], wishes={"historyLength": 0})
        assert (state(done), "history" in done) == ("COMPLETED", False)
        for length, count in ((0, 0), (1, 1), (10, 3)):
            shown = await kit.call("GetTask", id=asked["id"], historyLength=length)
            assert len(shown.get("history", ())) == count, length
        assert [one["parts"][0]["text"] for one in shown["history"]] == ["first", "More input, please", "hi"]

        made = {(await kit.task("tck-artifact-text", contextId=f"listed {kit.rpc}"))["id"] for _ in range(3)}
        listed: list[Any] = []
        token: dict[str, str] = {}
        while True:
            page = await kit.call("ListTasks", contextId=f"listed {kit.rpc}", pageSize=2, **token)
            assert (page["totalSize"], page["pageSize"]) == (3, 2)
            listed += page["tasks"]
            if page["nextPageToken"] == "":
                break
            token = {"pageToken": page["nextPageToken"]}
        times = [task["status"]["timestamp"] for task in listed]
        assert ({task["id"] for task in listed}, times) == (made, sorted(times, reverse=True))
        assert not any("artifacts" in task for task in listed)
        page = await kit.call("ListTasks", contextId=f"listed {kit.rpc}", includeArtifacts=True)
        assert all(task["artifacts"] for task in page["tasks"])


async def test_streams(kits: list[Kit]) -> None:
    order = {"SUBMITTED": 0, "WORKING": 1, "INPUT_REQUIRED": 1, "COMPLETED": 2}
    for kit in kits:
        for id in ("stream-001", "stream-002", "stream-003", "stream-ordering-001", "stream-artifact-chunked"):
            events = await kit.events("SendStreamingMessage", message=message(id=f"tck-{id}"))
            assert "task" in events[0], id
            for event in events:
                ParseDict(event, pb.StreamResponse())
            shown = [order[told.removeprefix("TASK_STATE_")] for event in events if (told := ends(event))]
            assert shown == sorted(shown), id
            assert shown[-1] == 2, id
        for id, why in (("nonexistent", "TASK_NOT_FOUND"), ((await kit.task("tck-complete-task"))["id"], None)):
            refused = await kit.rest.rpc("SubscribeToTask", {"id": id})
            assert reason(refused) == (why or "UNSUPPORTED_OPERATION")
            status, refused = await kit.rest.post(f"/tasks/{id}:subscribe")
            assert (status, reason(refused)) == (404 if why else 400, why or "UNSUPPORTED_OPERATION")
        # Two streams of a task tell the same, and a third that is closed early changes nothing for them.
        task = await kit.task("tck-input-required")
        streams = [kit.stream("SubscribeToTask", id=task["id"]) for _ in range(3)]
        for one in streams:
            assert "task" in await anext(one)
        await streams.pop().aclose()
        await kit.send("tck-complete-task", taskId=task["id"])
        first, second = await asyncio.gather(*map(read, streams))
        assert first == second
        assert ends(first[-1]) == "TASK_STATE_COMPLETED"
        # A client whose stream was cut subscribes again.
        cut = kit.stream("SendStreamingMessage", message=message(id="test-resubscribe-message-id"))
        begun = await anext(cut)
        await cut.aclose()
        again = await kit.events("SubscribeToTask", id=begun["task"]["id"])
        assert ends(again[-1]) == "TASK_STATE_COMPLETED"


async def test_webhooks(kits: list[Kit]) -> None:
    for kit in kits:
        id = (await kit.task("tck-complete-task"))["id"]
        config = {"id": "tck-push", "url": "https://example.com/tck-push-webhook"}
        made = await kit.call("CreateTaskPushNotificationConfig", taskId=id, **config)
        one = {"taskId": id, "id": "tck-push"}
        assert (await kit.call("GetTaskPushNotificationConfig", **one)) == made
        assert (await kit.call("ListTaskPushNotificationConfigs", taskId=id))["configs"] == [made]
        assert isinstance(await kit.call("GetTaskPushNotificationConfig", taskId=id, id="other"), str)
        for _ in range(2):
            assert await kit.call("DeleteTaskPushNotificationConfig", **one) == {}
        assert isinstance(await kit.call("GetTaskPushNotificationConfig", **one), str)
        async with Hook().open() as hook:
            hooked: dict[str, Any] = {
                "id": "tck-push",
                "url": hook.url,
                "authentication": {"scheme": "Bearer", "credentials": "c"},
            }
            asked = await kit.task("tck-input-required", wishes={"taskPushNotificationConfig": hooked})
            await kit.send("tck-complete-task", taskId=asked["id"])

            async def told() -> bool:
                await asyncio.sleep(0)
                return hook.told()[-1:] == ["COMPLETED"]

            await eventually(told)
            for headers, body in hook.got:
                assert headers["Authorization"] == "Bearer c"
                ParseDict(body, pb.StreamResponse())


async def test_cards_errors_and_versions(kits: list[Kit]) -> None:
    rest = kits[0].rest
    async with rest.relay.session.get(f"{rest.relay.url}{rest.path}/.well-known/agent-card.json") as got:
        card = await got.json()
        assert all(name in got.headers for name in ("Cache-Control", "ETag", "Last-Modified"))
        assert "max-age" in got.headers["Cache-Control"]
    first = {one["protocolBinding"]: one for one in reversed(card["supportedInterfaces"])}
    assert {name: one["protocolVersion"] for name, one in first.items()} == {"JSONRPC": "1.0", "HTTP+JSON": "1.0"}
    for name in ("name", "description", "version", "capabilities", "skills", "defaultInputModes", "defaultOutputModes"):
        assert card[name], name
    for kit in kits:
        assert (await kit.call("GetExtendedAgentCard"))["name"] == card["name"]
        kit.rest.headers["A2A-Extensions"] = "https://example.com/ext/v1,https://example.com/ext/v2"
        assert state(await kit.task("tck-complete-task")) == "COMPLETED"
    wrong = {"A2A-Version": "99.0"}
    body = {"message": message(id="ver")}
    status, refused = await rest.post("/message:send", body, **wrong)
    assert (status, reason(refused), refused["error"]["code"]) == (400, "VERSION_NOT_SUPPORTED", 400)
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": body}
    text = {"Content-Type": "text/plain"}
    for headers, code in ((wrong, -32009), ({"A2A-Version": ""}, -32009), (text, -32005)):
        _, refused = await rest.post("", call, **headers)
        assert refused["error"]["code"] == code
        assert set(refused["error"]) == {"code", "message", "data"}
    status, refused = await rest.post("/message:send", body, **text)
    assert (status, reason(refused)) == (400, "CONTENT_TYPE_NOT_SUPPORTED")
    assert (await rest.rpc("NonExistentMethod"))["error"]["code"] == -32601
