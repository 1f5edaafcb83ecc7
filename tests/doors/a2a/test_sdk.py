"""The official SDK as a client of the door, in both bindings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a.client.client import Client
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict, ParseDict

from clawlink.doors.a2a.wire import v0_3
from tests.conftest import UNPACED
from tests.doors.a2a import agent
from tests.doors.a2a.conftest import BINDINGS, Rest, ServeA2A, message, sdk
from tests.tables import each


def ask(id: str, *, now: bool = False, **fields: Any) -> pb.SendMessageRequest:
    body = {"message": message(id=id, **fields), "configuration": {"returnImmediately": now}}
    made: pb.SendMessageRequest = ParseDict(body, pb.SendMessageRequest())
    return made


async def send(client: Client, id: str, **fields: Any) -> list[dict[str, Any]]:
    return [MessageToDict(event) async for event in client.send_message(ask(id, **fields))]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Return what a stream told: states, and the text of artifacts."""
    told = []
    for event in events:
        (kind,) = event
        if kind == "artifactUpdate":
            told.append(event[kind]["artifact"]["parts"][0].get("text", "file"))
        else:
            told.append(event[kind]["status"]["state"].removeprefix("TASK_STATE_"))
    return told


@each("binding", BINDINGS)
async def test_every_method(serve_a2a: ServeA2A, binding: Any) -> None:
    relay = await serve_a2a(private_webhooks=True)
    async with agent.at_work(relay.url), sdk(relay, "tck", binding) as client:
        for id, artifact in (
            ("tck-artifact-text", {"text": "Generated text content"}),
            ("tck-artifact-file", {"raw": "dGNr", "mediaType": "text/plain", "filename": "output.txt"}),
            (
                "tck-artifact-file-url",
                {"url": "https://example.com/output.txt", "mediaType": "text/plain", "filename": "output.txt"},
            ),
            ("tck-artifact-data", {"data": {"key": "value", "count": 42.0}}),
        ):
            (done,) = await send(client, id)
            assert done["task"]["status"]["state"] == "TASK_STATE_COMPLETED", id
            assert done["task"]["artifacts"][0]["parts"] == [artifact], id
        (done,) = await send(client, "tck-complete-task")
        assert done["task"]["status"]["message"]["parts"] == [{"text": "Hello from TCK"}]
        assert done["task"]["history"][0]["messageId"] == "tck-complete-task"
        (done,) = await send(client, "tck-message-response")
        assert done["message"]["parts"] == [{"text": "Direct message response"}]
        (done,) = await send(client, "tck-reject-task")
        assert done["task"]["status"]["state"] == "TASK_STATE_REJECTED"

        (asked,) = await send(client, "tck-input-required")
        id = asked["task"]["id"]
        assert asked["task"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        (done,) = await send(client, "more", taskId=id)
        assert done["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert [m["role"] for m in done["task"]["history"]] == ["ROLE_USER", "ROLE_AGENT", "ROLE_USER"]
        got = MessageToDict(await client.get_task(pb.GetTaskRequest(id=id, history_length=0)))
        assert (got["id"], "history" in got) == (id, False)

        (asked,) = await send(client, "tck-input-required")
        id = asked["task"]["id"]
        config = pb.TaskPushNotificationConfig(task_id=id, id="hook", url="http://127.0.0.1:9/hook")
        assert (await client.create_task_push_notification_config(config)).id == "hook"
        one = pb.GetTaskPushNotificationConfigRequest(task_id=id, id="hook")
        assert (await client.get_task_push_notification_config(one)).url == config.url
        all_of = pb.ListTaskPushNotificationConfigsRequest(task_id=id)
        assert [c.id for c in (await client.list_task_push_notification_configs(all_of)).configs] == ["hook"]
        gone = pb.DeleteTaskPushNotificationConfigRequest(task_id=id, id="hook")
        for _ in range(2):
            await client.delete_task_push_notification_config(gone)
        assert not (await client.list_task_push_notification_configs(all_of)).configs
        cancelled = await client.cancel_task(pb.CancelTaskRequest(id=id))
        assert cancelled.status.state == pb.TASK_STATE_CANCELED
        with pytest.raises(errors.TaskNotCancelableError):
            await client.cancel_task(pb.CancelTaskRequest(id=id))
        with pytest.raises(errors.UnsupportedOperationError):
            await send(client, "late", taskId=id)
        async with sdk(relay, "tck", binding, streaming=True) as follower:
            with pytest.raises(errors.UnsupportedOperationError):
                _ = [event async for event in follower.subscribe(pb.SubscribeToTaskRequest(id=id))]
        with pytest.raises(errors.TaskNotFoundError):
            await client.get_task(pb.GetTaskRequest(id="nothing"))

        listed = await client.list_tasks(pb.ListTasksRequest(page_size=2, status=pb.TASK_STATE_COMPLETED))
        assert (len(listed.tasks), listed.total_size, listed.page_size) == (2, 7, 2)
        assert listed.next_page_token
        card = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
        (_, seen) = card.capabilities.extensions
        assert MessageToDict(seen.params)["status"] == "online"


@each("binding", BINDINGS)
async def test_streams_tell_the_task_and_then_each_change(serve_a2a: ServeA2A, binding: Any) -> None:
    relay = await serve_a2a()
    async with agent.at_work(relay.url), sdk(relay, "tck", binding, streaming=True) as client:
        for id, told in (
            ("tck-stream-001", ["WORKING", "Stream hello from TCK", "COMPLETED"]),
            ("tck-stream-002", ["COMPLETED"]),
            ("tck-stream-artifact-file", ["WORKING", "file", "COMPLETED"]),
            ("tck-stream-artifact-chunked", ["WORKING", "chunk-1 ", "chunk-2", "COMPLETED"]),
            ("tck-input-required", ["INPUT_REQUIRED"]),
        ):
            events = await send(client, id)
            assert "task" in events[0], id
            shown = kinds(events)
            # The claim may come before or after the first event; a report repeats the state.
            steps = [one for at, one in enumerate(shown) if one != "SUBMITTED" and one not in shown[at - 1 : at]]
            assert [one for one in steps if one != "WORKING"] == [one for one in told if one != "WORKING"], (id, shown)
            assert shown[-1] == told[-1], id


@each("binding", BINDINGS)
async def test_a_cut_stream_goes_on_by_subscribing_again(
    serve_a2a: ServeA2A, binding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "HOLD_SECONDS", 2.5)
    relay = await serve_a2a()
    async with agent.at_work(relay.url), sdk(relay, "tck", binding, streaming=True) as client:
        first: Any = client.send_message(ask("test-resubscribe-message-id-1"))
        begun = await first.__anext__()
        await first.aclose()

        async def subscribed() -> list[dict[str, Any]]:
            again = client.subscribe(pb.SubscribeToTaskRequest(id=begun.task.id))
            return [MessageToDict(event) async for event in again]

        one, other = await asyncio.gather(subscribed(), subscribed())
        for events in (one, other):
            assert events[0]["task"]["id"] == begun.task.id
            assert kinds(events)[-1] == "COMPLETED"
        assert one[-1] == other[-1]


async def test_every_answer_is_one_of_the_protocol(serve_a2a: ServeA2A) -> None:
    """The reader of the SDK's own buffers is strict: it refuses each field and form that they do not have."""
    rest = Rest(await serve_a2a(limits=UNPACED), "/a2a/bob")
    await rest.relay.register("bob", agent_id="bob", capabilities=["x"])
    cards = [(await rest.relay.get("/.well-known/agent-card.json"))[1]]
    for path in ("/.well-known/agent-card.json", "/extendedAgentCard"):
        cards += [(await rest.get(path))[1], (await Rest(rest.relay, "/a2a-pools/x").get(path))[1]]
    for card in cards:
        ParseDict(v0_3.without(card), pb.AgentCard())
    parts = [{"text": "hi", "metadata": {"q": 1}}, {"data": None}, {"raw": "dGNr", "filename": "a"}]
    results: list[Any] = [
        *("t", 5, None, True, [1, {"a": None}], {"a": 1.5}, {"a2a": {"artifact": {"parts": []}}}),
        {"a2a": {"artifact": {"parts": [{"data": None}, {"raw": "dGNr", "mediaType": "a/b"}], "extensions": ["u"]}}},
        {"a2a": {"reply": {"parts": [{"text": "x"}], "metadata": {"a": [1]}}, "message": {"parts": [{"text": "y"}]}}},
    ]
    for result in results:
        body = {"message": message(parts=parts, metadata={"x": None}), "configuration": {"returnImmediately": True}}
        _, sent = await rest.post("/message:send", body)
        ParseDict(sent, pb.SendMessageResponse())
        id = sent["task"]["id"]
        await rest.relay.get("/poll/bob")
        for status in ("in_progress", "input_required", "failed" if result == 5 else "completed"):
            report = {"from_agent": "bob", "message_id": id, "status": status, "result": result, "progress": 10.5}
            assert (await rest.relay.post("/respond", report | {"note": "n"}))[0] == 200
            ParseDict((await rest.get(f"/tasks/{id}"))[1], pb.Task())
    _, listed = await rest.get("/tasks", includeArtifacts="true")
    assert len(ParseDict(listed, pb.ListTasksResponse()).tasks) == len(results)
