"""Bodies of very many parts, drops and cancels: clients of ``/mcp`` may send and do them, at no cost to others."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest

from clawlink.doors.mcp.wire import rpc, tools
from tests.conftest import Running, Serve
from tests.waiting import eventually

MIB = 2**20
DENSE = b"[" + b"[]," * (MIB // 3 - 200) + b"[]]"


async def send(relay: Running, body: bytes, **headers: str) -> tuple[int, Any]:
    async with relay.session.post(relay.url + "/mcp", data=body, headers={"ClawLink-Agent": "a", **headers}) as reply:
        return reply.status, json.loads(await reply.read() or b"null")


def call(arguments: bytes, tool: str = "relay_tell") -> bytes:
    params = b'{"name":"%s","arguments":%s}' % (tool.encode(), arguments)
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % params


async def test_values_of_very_many_parts_are_refused_with_a_sentence_and_never_built(pair: Running) -> None:
    for body, status, code in (
        (call(DENSE), 200, rpc.INVALID_PARAMS),
        (call(b'{"to":"b","text":%s}' % DENSE), 200, None),
        (call(b'{"to":"b","text":"x","more":%s}' % DENSE), 200, None),
        (call(b'{"receipts":%s}' % DENSE, "relay_inbox"), 200, None),
        (call(b"{}", "relay_inbox").replace(b'"id":1', b'"id":' + DENSE), 400, rpc.INVALID_REQUEST),
        (call(b"{}", "relay_inbox").replace(b'"tools/call"', DENSE), 400, rpc.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % DENSE, 200, rpc.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":%s}}' % DENSE, 200, -32002),
        (b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":%s}}' % DENSE, 200, rpc.INVALID_PARAMS),
        (DENSE, 400, rpc.INVALID_REQUEST),
        (DENSE[:-1], 400, rpc.INVALID_REQUEST),
    ):
        answer = await send(pair, body)
        told = answer[1]
        assert answer[0] == status, (body[:80], told)
        if code is None:
            assert told["result"]["isError"] is True, body[:80]
        else:
            assert told["error"]["code"] == code, (body[:80], told)


async def test_no_such_body_holds_the_loop(pair: Running) -> None:
    body = call(b'{"to":"b","text":%s}' % DENSE)
    longest, last, going = 0.0, time.thread_time(), True

    async def watch() -> None:
        nonlocal longest, last
        while going:
            now = time.thread_time()  # of this thread: a loaded machine does not count
            longest = max(longest, now - last)
            last = now
            await asyncio.sleep(0)

    watcher = asyncio.create_task(watch())
    reader, writer = await asyncio.open_connection("127.0.0.1", int(pair.url.rpartition(":")[2]))
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nClawLink-Agent: a\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode())
    for at in range(0, len(body), 65536):
        writer.write(body[at : at + 65536])
        await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    going = False
    await watcher
    writer.close()
    assert longest < 0.02, longest  # the documented 5 ms, and room for a collection of garbage


async def test_a_long_text_with_many_commas_is_no_such_value(pair: Running) -> None:
    text = "a,b;" * 100_000
    status, told = await send(pair, call(msgspec.json.encode({"to": "b", "text": text})))
    assert (status, told["result"]["isError"]) == (200, False), told
    (message,) = (await pair.get("/poll/b"))[1]["messages"]
    assert message["content"] == text


async def test_ids_of_any_kind_are_refused_or_come_back(pair: Running) -> None:
    for id, status in (
        ("x" * rpc.MAX_ID_LENGTH, 200),
        ("x" * 100_000, 400),
        (2**63 - 1, 200),
        (2**63, 400),
        (-1, 200),
        (1.5, 400),
        (True, 400),
        ([1], 400),
        ({"a": 1}, 400),
        ("\u202e\x1b", 200),
        ("\ud800", 200),
    ):
        answer = await send(pair, json.dumps({"jsonrpc": "2.0", "id": id, "method": "ping"}).encode())
        assert answer[0] == status or id == "\ud800", (id, answer)
        assert answer[1]["id"] == (id if answer[0] == 200 else None), id
    huge = b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}'
    assert (await send(pair, huge))[0] == 400


async def test_a_wait_whose_client_goes_loses_nothing(serve: Serve) -> None:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    before = relay.app.relay.waiting
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", int(relay.url.rpartition(":")[2]))
        body = call(b'{"wait_seconds":50}', "relay_inbox")
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nClawLink-Agent: b\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        await eventually(lambda: _is(relay.app.relay.waiting > before))
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.abort()
        await eventually(lambda: _is(relay.app.relay.waiting == before))
    sent = (await relay.post("/send", {"from_agent": "a", "to_agent": "b", "content": "kept"}))[1]
    (message,) = (await relay.get("/poll/b"))[1]["messages"]
    assert (message["message_id"], relay.app.relay.waiting) == (sent["message_id"], before)


async def test_a_cancel_names_a_request_of_the_same_agent_alone(pair: Running) -> None:
    before = pair.app.relay.waiting
    body = call(b'{"wait_seconds":50}', "relay_inbox")
    waiting = asyncio.create_task(send(pair, body, **{"ClawLink-Agent": "b"}))
    await eventually(lambda: _is(pair.app.relay.waiting > before))
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    other = {**cancel, "params": {"requestId": [1]}}
    for message, agent in ((cancel, "a"), (cancel, "nobody"), (other, "b"), ({**cancel, "params": {}}, "b")):
        assert (await send(pair, json.dumps(message).encode(), **{"ClawLink-Agent": agent}))[0] == 202
    assert pair.app.relay.waiting > before
    assert (await send(pair, json.dumps(cancel).encode(), **{"ClawLink-Agent": "b"}))[0] == 202
    status, told = await waiting
    assert (status, told["error"]["code"]) == (200, rpc.CANCELLED)


async def _is(fact: bool) -> bool:
    return fact


@pytest.mark.parametrize("tool", [tool.name for tool in tools.TOOLS if not tool.local])
async def test_arguments_of_any_shape_are_refused_in_a_result(pair: Running, tool: str) -> None:
    values: list[Any] = [None, 5, "x", [], {}, {"a": [{}]}, "\ud800", 1e308, "x" * 100_000]
    for value in values:
        names = tools.BY_NAME[tool].arguments.__struct_fields__
        for arguments in ({}, *({name: value} for name in names if name != "wait_seconds")):
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
            status, told = await send(pair, json.dumps(body).encode())
            assert status in (200, 400), (arguments, told)
            assert "result" in told or "error" in told, told
