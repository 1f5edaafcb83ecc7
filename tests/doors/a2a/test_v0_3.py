"""A2A 0.3: its official client gets from the door what a client of 1.0 gets."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as v03
from a2a.compat.v0_3.jsonrpc_transport import CompatJsonRpcTransport
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict, ParseDict

from clawlink.doors.a2a.wire import v0_3
from tests.conftest import UNPACED
from tests.doors.a2a import agent
from tests.doors.a2a.conftest import Rest, ServeA2A, message, reason
from tests.doors.a2a.test_door import claim, respond, worker
from tests.doors.a2a.test_push import Hook
from tests.hostile import VALUES, variants
from tests.waiting import until


class Old:
    """A client of 0.3 in JSON: no version, and the names of 0.3."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        rest.headers.pop("A2A-Version")

    async def rpc(self, method: str, params: Any = None, **headers: str) -> Any:
        body = {"jsonrpc": "2.0", "id": "q", "method": method, "params": params}
        status, answer = await self._rest.post("", body, **headers)
        assert (status, answer["id"]) == (200, "q"), answer
        return answer


@contextlib.asynccontextmanager
async def official(rest: Rest) -> AsyncIterator[CompatJsonRpcTransport]:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        card = (await http.get(f"{rest.relay.url}{rest.path}/.well-known/agent-card.json")).json()
        read = v03.AgentCard.model_validate(card)
        assert (read.preferred_transport, read.protocol_version, read.name) == ("JSONRPC", "0.3.0", "tck")
        assert read.supports_authenticated_extended_card
        yield CompatJsonRpcTransport(http, None, read.url)


def ask(id: str, **fields: Any) -> pb.SendMessageRequest:
    body = {"message": message(id=id, **fields)}
    made: pb.SendMessageRequest = ParseDict(body, pb.SendMessageRequest())
    return made


def test_a_task_says_the_same_in_both_versions() -> None:
    parts = [
        {"text": "t", "metadata": {"a": 1.0}},
        {"data": {"n": [1.0, None]}},
        {"data": ["no object"], "metadata": {"b": "c"}},
        {"data": None},
        {"raw": "dGNr", "mediaType": "a/b", "filename": "f"},
        {"url": "https://x/y"},
    ]
    said = {
        "messageId": "m",
        "role": "ROLE_AGENT",
        "parts": parts,
        "taskId": "t",
        "contextId": "c",
        "extensions": ["u"],
    }
    for state in pb.TaskState.keys()[1:]:
        task = {
            "id": "t",
            "contextId": "c",
            "status": {"state": state, "timestamp": "2026-05-13T06:51:01.250Z", "message": said},
            "artifacts": [{"artifactId": "a", "name": "n", "description": "d", "parts": parts, "metadata": {"k": "v"}}],
            "history": [{**said, "role": "ROLE_USER", "referenceTaskIds": ["r"]}],
            "metadata": {"clawlink": {"status": "s"}},
        }
        read = v03.Task.model_validate(v0_3.task(task))
        assert MessageToDict(conversions.to_core_task(read)) == MessageToDict(ParseDict(task, pb.Task())), state


def test_a_message_of_the_client_says_the_same_in_both_versions() -> None:
    part: dict[str, Any]
    for part in (
        {"text": "t", "metadata": {"a": 1.0}},
        {"data": {"n": 1.0}},
        {"data": [1.0]},
        {"raw": "dGNr", "filename": "f", "mediaType": "a/b"},
        {"url": "https://x/y"},
    ):
        sent = {"message": {**message(), "parts": [part]}, "configuration": {"historyLength": 3}}
        sent["configuration"] |= {"acceptedOutputModes": ["text/plain"], "returnImmediately": True}
        old = conversions.to_compat_send_message_request(ParseDict(sent, pb.SendMessageRequest()), request_id=0)
        given = old.params.model_dump(by_alias=True, exclude_none=True, mode="json")
        made = v0_3.params("message/send", given)
        ours = {name: made["message"][name] for name in ("messageId", "role", "parts")}
        if ours["parts"][0].get("metadata", ...) is None:
            del ours["parts"][0]["metadata"]
        assert (ours, made["configuration"]) == (sent["message"], sent["configuration"]), part
    assert v0_3.params("tasks/get", {"id": "t", "historyLength": 0}) == {"id": "t"}


async def test_every_method(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(private_webhooks=True), "/a2a/tck")
    async with agent.at_work(rest.relay.url), official(rest) as client:
        done = await client.send_message(ask("tck-artifact-file"))
        assert done.task.artifacts[0].parts[0].raw == b"tck"
        assert done.task.status.state == pb.TASK_STATE_COMPLETED
        assert (await client.send_message(ask("tck-artifact-data"))).task.artifacts[0].parts[0].data.struct_value["key"]
        done = await client.send_message(ask("tck-message-response"))
        assert done.message.parts[0].text == "Direct message response"
        asked = (await client.send_message(ask("tck-input-required"))).task
        assert asked.status.state == pb.TASK_STATE_INPUT_REQUIRED
        done = await client.send_message(ask("more", taskId=asked.id))
        assert (done.task.id, done.task.status.state) == (asked.id, pb.TASK_STATE_COMPLETED)
        assert [m.role for m in (await client.get_task(pb.GetTaskRequest(id=asked.id))).history] == [1, 2, 1]

        asked = (await client.send_message(ask("tck-input-required"))).task
        config = pb.TaskPushNotificationConfig(task_id=asked.id, url="http://127.0.0.1:9/hook", token="t")
        config.authentication.scheme, config.authentication.credentials = "Bearer", "c"
        made = await client.create_task_push_notification_config(config)
        assert (made.id, made.authentication.scheme) == (asked.id, "Bearer"), "without an id it has that of the task"
        one = pb.GetTaskPushNotificationConfigRequest(task_id=asked.id, id=made.id)
        assert (await client.get_task_push_notification_config(one)).token == "t"
        all_of = pb.ListTaskPushNotificationConfigsRequest(task_id=asked.id)
        assert len((await client.list_task_push_notification_configs(all_of)).configs) == 1
        gone = pb.DeleteTaskPushNotificationConfigRequest(task_id=asked.id, id=made.id)
        await client.delete_task_push_notification_config(gone)
        assert not (await client.list_task_push_notification_configs(all_of)).configs
        cancelled = await client.cancel_task(pb.CancelTaskRequest(id=asked.id))
        assert cancelled.status.state == pb.TASK_STATE_CANCELED
        for call, error in (
            (client.cancel_task(pb.CancelTaskRequest(id=asked.id)), errors.TaskNotCancelableError),
            (client.get_task(pb.GetTaskRequest(id="nothing")), errors.TaskNotFoundError),
            (client.send_message(ask("late", taskId=asked.id)), errors.UnsupportedOperationError),
        ):
            with pytest.raises(error):
                await call
        card = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
        assert [one.uri for one in card.capabilities.extensions][-1] == "urn:clawlink:presence"

        told = [MessageToDict(event) async for event in client.send_message_streaming(ask("tck-stream-001"))]
        assert "task" in told[0]
        assert told[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert [e["artifactUpdate"]["artifact"]["parts"] for e in told if "artifactUpdate" in e] == [
            [{"text": "Stream hello from TCK"}]
        ]


async def test_the_last_event_of_a_stream_is_final_and_a_webhook_gets_the_task(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(private_webhooks=True), "/a2a/bob")
    await worker(rest)
    old = Old(Rest(rest.relay, "/a2a/bob"))
    async with Hook().open() as hook:
        params = {
            "message": {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]},
            "configuration": {"blocking": False, "pushNotificationConfig": {"url": hook.url, "token": "tok"}},
        }
        task = (await old.rpc("message/send", params))["result"]
        assert (task["kind"], task["status"]["state"]) == ("task", "submitted")
        body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/resubscribe", "params": {"id": task["id"]}}
        follower = Rest(rest.relay, "/a2a/bob")
        follower.headers = {"A2A-Version": "0.3"}
        async with follower.stream("POST", "", body) as following:
            assert (await following())["result"]["kind"] == "task"
            await claim(rest)
            event = (await following())["result"]
            assert (event["kind"], event["status"]["state"], event["final"]) == ("status-update", "working", False)
            await respond(rest, task["id"], "which?", status="input_required")
            assert (await following())["result"]["final"] is False, "the stream goes on through questions"
            await rest.send("this", taskId=task["id"])
            assert (await following())["result"]["status"]["state"] == "working"
            await respond(rest, task["id"], "done")
            assert (await following())["result"]["kind"] == "artifact-update"
            event = (await following())["result"]
            assert (event["status"]["state"], event["final"]) == ("completed", True)
            assert await following() is None
        await until(lambda: bool(hook.got) and hook.got[-1][1]["status"]["state"] == "completed")
        for headers, body in hook.got:
            read = v03.Task.model_validate(body)
            assert (read.id, headers["X-A2A-Notification-Token"]) == (task["id"], "tok")
        last = hook.got[-1][1]
        assert last["artifacts"][0]["parts"] == [{"kind": "text", "text": "done"}]


async def test_a_large_file_becomes_a_shared_file(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(), "/a2a/bob")
    await worker(rest)
    data = bytes(range(256)) * 1024
    file = {"bytes": base64.b64encode(data).decode(), "name": "a.bin", "mimeType": "image/png"}
    parts = [{"kind": "file", "file": file}, {"kind": "file", "file": {"uri": "https://x/y", "name": "y"}}]
    sent = {"message": {"messageId": "m", "role": "user", "parts": parts}, "configuration": {"blocking": False}}
    status, answer = await Rest(rest.relay, "/a2a/bob").post_large(
        "", {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": sent}
    )
    assert (status, reason(answer)) == (200, "METHOD_NOT_FOUND"), "1.0 has no such method"
    old = Rest(rest.relay, "/a2a/bob")
    old.headers = {}
    _, answer = await old.post_large("", {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": sent})
    (first, second) = answer["result"]["history"][0]["parts"]
    assert second == {"kind": "file", "file": {"uri": "https://x/y", "name": "y"}}
    assert (first["file"]["name"], "bytes" in first["file"]) == ("a.bin", False)
    async with rest.relay.session.get(first["file"]["uri"]) as got:
        assert await got.read() == data


async def test_a_version_is_not_mixed_with_the_other(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(), "/a2a/bob")
    await worker(rest)
    old = Old(Rest(rest.relay, "/a2a/bob"))
    for method, headers, why in (
        ("tasks/get", {}, "TASK_NOT_FOUND"),
        ("tasks/get", {"A2A-Version": ""}, "TASK_NOT_FOUND"),
        ("tasks/get", {"A2A-Version": "0.3.0"}, "TASK_NOT_FOUND"),
        ("tasks/get", {"A2A-Version": "1.0"}, "METHOD_NOT_FOUND"),
        ("tasks/get", {"A2A-Version": "0.2"}, "VERSION_NOT_SUPPORTED"),
        ("tasks/list", {}, "METHOD_NOT_FOUND"),
        ("GetTask", {}, "VERSION_NOT_SUPPORTED"),
        ("GetTask", {"A2A-Version": "0.3"}, "VERSION_NOT_SUPPORTED"),
        ("GetTask", {"A2A-Version": "1.0"}, "TASK_NOT_FOUND"),
    ):
        assert reason(await old.rpc(method, {"id": "x"}, **headers)) == why, (method, headers)


async def test_no_hostile_request_is_answered_with_a_failure_of_the_relay(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(limits=UNPACED, a2a_wait=0.0), "/a2a/bob")
    await worker(rest)
    task = await rest.send()
    hook = {"url": "https://example.com/x", "id": "h", "authentication": {"schemes": ["Bearer"], "credentials": "c"}}
    part = {"kind": "file", "file": {"bytes": "dGNr", "name": "n", "mimeType": "a/b"}, "metadata": {"a": 1}}
    odd = {"kind": "data", "data": {"value": 1}, "metadata": {"data_part_compat": True}}
    sent = {"kind": "message", "messageId": "m", "role": "user", "parts": [part, odd], "contextId": "c"}
    wishes = {"blocking": False, "historyLength": 1, "pushNotificationConfig": hook, "acceptedOutputModes": ["a/b"]}
    query = {"id": task["id"], "pushNotificationConfigId": "h"}
    by_method: dict[str, Any] = dict.fromkeys(v0_3.METHODS, query)
    by_method["message/send"] = by_method["message/stream"] = {"message": sent, "configuration": wishes}
    by_method["tasks/pushNotificationConfig/set"] = {"taskId": task["id"], "pushNotificationConfig": hook}
    del by_method["message/stream"], by_method["tasks/resubscribe"]  # they have the same parameters, and go on
    old = Old(Rest(rest.relay, "/a2a/bob"))
    refused = 0
    for method, good in by_method.items():
        for body in variants(good, VALUES):
            answer = await old.rpc(method, body)
            assert "-32603" not in json.dumps(answer), (method, body, answer)
            refused += "error" in answer
    assert refused > 100
