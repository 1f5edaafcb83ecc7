"""Requests over a websocket are answered as by the routes, in order, and nonsense harms nobody."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
import zlib
from typing import Any

import pytest

from clawlink.protocol.paths import FRAMES
from clawlink.server.ws_protocol import BadFrame, Frame, read_frame
from tests.conftest import Running, Serve
from tests.server.asks import claim_one, delegate, ok, send, task_of
from tests.server.sockets import CLOSE, PING, PONG, TEXT, Peer, attempt_of, packed, receipt_of, websocket, wire
from tests.tables import each

memory = pytest.mark.parametrize("store_kind", ["memory"])
CONTINUED = 0
MORE = 0x00  # not the last frame of its message
PACKED = 0xC0


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(frame: str) -> tuple[Any, ...]:
    """Read a frame of the agent b; return what it asks, or why it is refused."""
    try:
        read = read_frame(frame, "b")
    except BadFrame as bad:
        return bad.id, type(bad.error), vars(bad.error)
    names = FRAMES[read.type].body.__struct_fields__
    return read.type, type(read.id), read.id, [(name, getattr(read.ask, name)) for name in names]


_USUAL = {
    "id": 1,
    "to_agent": "a",
    "content": "x",
    "receipts": ["a-b"],
    "lease": 30,
    "status": "completed",
    "message_id": "m",
    "subscriptions": ["a.*"],
    "task": "x",
}
_VALUES: dict[str, list[Any]] = {
    "agent_id": ["b", "a", "", None, 1],
    "from_agent": ["b", "a", "", None, 1],
    "id": [7, "q", 2**70, "", "x" * 200, None, True, 1.0, 1.5, []],
    "to_agent": ["", "x" * 200, None, 1],
    "content": [None, {"a": [1, None]}, []],
    "receipts": [[], None, [1], "a-b"],
    "tasks": [["t"], [], None],
    "lease": [30.5, "30", 0, None],
    "delay": [0, -1, 1e300],
    "priority": ["urgent", "medium", "none", None],
    "subscriptions": [["a*"], None],
    "topic": ["a", "a\n", None],
    "status": ["no status", None],
    "task": ["", None],
}


@each("type", [*FRAMES, "no type"])
def test_a_further_field_changes_nothing_of_what_a_frame_asks(type: str) -> None:
    known = ("id", *FRAMES[type].body.__struct_fields__) if type in FRAMES else ("id",)
    usual = {name: value for name, value in _USUAL.items() if name in known}
    asked = [usual, *({**usual, name: value} for name, values in _VALUES.items() for value in values if name in known)]
    for fields in asked:
        frame = json.dumps({"type": type, **fields})
        assert _read(frame) == _read(frame[:-1] + ',"further":1}'), frame


@each(
    "frame",
    ['{"type":"ping","type":"heartbeat"}', '{"id":[],"type":"ping","id":1}', '{"type":"ping","id":"\\ud800"}'],
)
def test_the_last_of_several_fields_with_one_name_counts(frame: str) -> None:
    assert _read(frame) == _read(frame[:-1] + ',"further":1}')


# -- what is asked -----------------------------------------------------------------------------------------------------


async def both(relay: Running, peer: Peer, type: str, **fields: Any) -> tuple[Any, Any]:
    """Ask b's websocket, and the route of that name in b's name; return both answers."""
    acts = {"from_agent": "b"} if type in ("send", "delegate", "broadcast", "respond") else {"agent_id": "b"}
    return await peer.ask(type, **fields), await ok(relay.post(f"/{type}", {**fields, **acts}))


def alike(one: Any, other: Any) -> bool:
    """Tell whether two answers differ in ids and times alone."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            key in ("message_id", "last_heartbeat", "age", "receipt") or alike(one[key], other[key]) for key in one
        )
    return bool(one == other)


@each(
    ("type", "fields"),
    [
        ("heartbeat", {}),
        ("send", {"to_agent": "a", "content": {"any": ["thing", None, 1.5]}, "thread": "t", "priority": "urgent"}),
        ("delegate", {"to_agent": "Ann", "task": "sum", "context": {"n": 1}, "deadline": 60}),
        ("delegate", {"capability": "python", "task": "sum"}),
        ("broadcast", {"content": "news", "topic": "build.main", "tags": ["ci"]}),
        ("ack", {"receipts": ["unknown"]}),
        ("nack", {"receipts": ["unknown"], "delay": 5}),
        ("extend", {"receipts": ["unknown"], "lease": 60}),
    ],
)
@memory
async def test_a_frame_is_answered_as_its_route_answers(pair: Running, type: str, fields: dict[str, Any]) -> None:
    async with websocket(pair, "b", lease=30) as peer:
        one, other = await both(pair, peer, type, **fields)
        assert alike(one, other), (one, other)


async def test_what_is_sent_and_delegated_arrives(pair: Running) -> None:
    async with websocket(pair, "b", lease=30) as peer:
        told = await peer.ask("send", to_agent="a", content="hello")
        got = await claim_one(pair, "a")
        assert (got.message["from_agent"], got.message["content"]) == ("b", "hello")
        assert got.message["message_id"] == told["message_id"]
        asked = await peer.ask("delegate", to_agent="a", task="sum")
        assert (await claim_one(pair, "a")).message["message_id"] == asked["message_id"]
        await peer.ask("broadcast", content="news")
        assert (await claim_one(pair, "a")).message["content"] == "news"


async def test_a_task_is_answered_over_the_connection_it_came_by(pair: Running) -> None:
    task = await delegate(pair, "a", "b")
    async with websocket(pair, "b", lease=30) as peer:
        assert (await peer.message())["message_id"] == task
        reply = await peer.ask("respond", message_id=task, status="in_progress", progress=40, note="on it")
        assert reply["task_status"] == "in_progress"
        reply = await peer.ask("respond", message_id=task, result={"sum": 3})
        assert reply["task_status"] == "completed"
        assert (await task_of(pair, "a", task))["result"] == {"sum": 3}
        assert (await peer.refused("respond", "wrong_state", message_id=task))["current"] == "completed"


async def test_acks_nacks_and_extensions_take_effect(pair: Running) -> None:
    id = await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30) as peer:
        first = await peer.message()
        reply = await peer.ask("extend", receipts=[receipt_of(first)], lease=300)
        (result,) = reply["results"]
        assert (result["status"], result["message_id"]) == ("extended", id)
        assert result["lease_expires_at"] > first["delivery"]["lease_expires_at"]
        reply = await peer.ask("nack", receipts=[receipt_of(first), "unknown"])
        assert [r["status"] for r in reply["results"]] == ["nacked", "lease_lost"]
        second = await peer.message()
        assert (second["message_id"], attempt_of(second)) == (id, 2)
        await peer.ack(second)
        await peer.ack(second)
        await peer.silent()


@memory
async def test_which_broadcasts_come_can_be_said_anew(pair: Running) -> None:
    async with websocket(pair, "b", lease=30) as peer:
        reply = await peer.ask("subscribe", subscriptions=["build.*", "build.*", "docs"])
        assert reply == {"status": "subscribed", "subscriptions": ["build.*", "docs"]}
        for topic in ("other", "build.main", "docs"):
            await ok(pair.post("/broadcast", {"from_agent": "a", "content": topic, "topic": topic}))
        assert [m["content"] for m in await peer.messages(2)] == ["build.main", "docs"]
        assert (await peer.ask("subscribe", subscriptions=[]))["subscriptions"] == []
        await ok(pair.post("/broadcast", {"from_agent": "a", "content": "docs", "topic": "docs"}))
        await peer.silent()


async def test_a_ping_tells_the_time(pair: Running) -> None:
    async with websocket(pair, "b") as peer:
        reply = await peer.ask("ping")
        assert reply["status"] == "pong"
        assert reply["server_time"].endswith("+00:00")


@each("id", ["x", "", "ü☃𝄞", "x" * 128, 0, 1, -7, 2**53, 10**40])
@memory
async def test_any_string_and_whole_number_is_an_id(pair: Running, id: Any) -> None:
    async with websocket(pair, "b") as peer:
        await peer.say("ping", id=id)
        assert (await peer.frame())["id"] == id
        await peer.say("send", id=id)
        frame = await peer.frame()
        assert (frame["type"], frame["id"]) == ("error", id)


async def test_a_frame_without_an_id_is_answered_only_if_it_fails(pair: Running) -> None:
    async with websocket(pair, "b") as peer:
        for type, fields in (
            ("heartbeat", {}),
            ("delegate", {"to_agent": "a", "task": "sum"}),
            ("broadcast", {"content": "news"}),
            ("send", {"to_agent": "nobody", "content": 1}),
            ("ping", {"id": None}),
        ):
            await peer.say(type, **fields)
        frame = await peer.frame()
        assert (frame["type"], frame["id"], frame["code"], frame["field"]) == (
            "error",
            None,
            "unknown_agent",
            "to_agent",
        )
        await peer.silent()


async def test_frames_are_handled_and_answered_in_order(pair: Running) -> None:
    async with websocket(pair, "b", lease=30) as peer:
        for n in range(0, 60, 3):
            await peer.say("send", id=n, to_agent="a", content=n)
            await peer.say("nonsense", id=n + 1)
            await peer.say("ping", id=n + 2)
        frames = [await peer.frame() for _ in range(60)]
        assert [f["id"] for f in frames] == list(range(60))
        assert [f["type"] for f in frames] == ["reply", "error", "reply"] * 20
        sent = [f["reply"]["message_id"] for f in frames[::3]]
    async with websocket(pair, "a", lease=30) as other:
        assert [m["message_id"] for m in await other.messages(20)] == sent


async def test_one_idempotency_key_over_both_ways_is_one_message(pair: Running) -> None:
    fields = {"to_agent": "a", "content": 1, "idempotency_key": "k" * 16}
    async with websocket(pair, "b") as peer:
        first = await peer.ask("send", **fields)
        again = await peer.ask("send", **fields)
        other = await ok(pair.post("/send", {"from_agent": "b", **fields}))
        assert first["message_id"] == again["message_id"] == other["message_id"]


# -- what makes no sense -----------------------------------------------------------------------------------------------

DEEP = '{"type":"send","id":7,"to_agent":"a","content":' + "[" * 65 + "]" * 65 + "}"
BAD = [
    ("", "bad_json", None, None),
    ("{", "bad_json", None, None),
    ('{"type":"ping"} x', "bad_json", None, None),
    ('{"type":"ping","id":"\\ud800"}', "bad_json", None, None),
    ('{"type":"send","id":1,"to_agent":"a","content":"\\udc00x"}', "bad_json", None, None),
    ("[]", "bad_request", None, None),
    ('"ping"', "bad_request", None, None),
    ("null", "bad_request", None, None),
    (DEEP, "bad_request", "content", None),
    ("[" * 100_000, "bad_request", None, None),
    ("[" * 65 + '"' + "a" * 30, "bad_request", None, None),
    ('{"type":"send","id":2,"to_agent":"a","content":1e999}', "bad_request", None, None),
    ("{}", "bad_request", "type", None),
    ('{"id":1}', "bad_request", "type", 1),
    ('{"type":"pong","id":1}', "bad_request", "type", 1),
    ('{"type":"register","id":1,"name":"x"}', "bad_request", "type", 1),
    ('{"type":["ping"],"id":1}', "bad_request", "type", 1),
    ('{"type":{},"id":1}', "bad_request", "type", 1),
    ('{"type":"ping","id":1.5}', "bad_request", "id", None),
    ('{"type":"ping","id":true}', "bad_request", "id", None),
    ('{"type":"ping","id":[1]}', "bad_request", "id", None),
    ('{"type":"ping","id":{}}', "bad_request", "id", None),
    (json.dumps({"type": "ping", "id": "x" * 129}), "bad_request", "id", None),
    ('{"type":"send","id":1,"to_agent":"a"}', "bad_request", "content", 1),
    ('{"type":"send","id":1,"to_agent":5,"content":1}', "bad_request", "to_agent", 1),
    ('{"type":"send","id":1,"to_agent":"a","content":1,"priority":"x"}', "bad_request", "priority", 1),
    ('{"type":"ack","id":"q"}', "bad_request", "receipts", "q"),
    ('{"type":"ack","id":"q","receipts":[]}', "bad_request", "receipts", "q"),
    ('{"type":"ack","id":"q","receipts":[1]}', "bad_request", "receipts[0]", "q"),
    ('{"type":"extend","id":1,"receipts":["r"],"lease":4}', "bad_request", "lease", 1),
    ('{"type":"subscribe","id":1,"subscriptions":["a*b"]}', "bad_request", "subscriptions[0]", 1),
    ('{"type":"send","id":1,"from_agent":"a","to_agent":"b","content":1}', "not_allowed", "from_agent", 1),
    ('{"type":"send","id":1,"from_agent":null,"to_agent":"b","content":1}', "not_allowed", "from_agent", 1),
    ('{"type":"heartbeat","id":1,"agent_id":"a"}', "not_allowed", "agent_id", 1),
    ('{"type":"ack","id":1,"agent_id":"a","receipts":["r"]}', "not_allowed", "agent_id", 1),
    ('{"type":"subscribe","id":1,"agent_id":"","subscriptions":[]}', "not_allowed", "agent_id", 1),
]


@memory
async def test_what_makes_no_sense_is_refused_saying_why_and_the_connection_goes_on(pair: Running) -> None:
    await send(pair, "a", "b")
    async with websocket(pair, "b", lease=30) as peer:
        message = await peer.message()
        for text, code, field, id in BAD:
            await peer.ws.send_str(text)
            frame = await peer.frame()
            told = (frame["type"], frame["code"], frame.get("field"), frame["id"])
            assert told == ("error", code, field, id), (text[:100], frame)
            assert len(frame["error"]) > 8
            assert len(json.dumps(frame)) < 1000
        await peer.ack(message)


@memory
async def test_a_number_that_no_json_reader_takes_is_refused(pair: Running) -> None:
    async with websocket(pair, "b") as peer:
        for number in ("9" * 5000, "1e400", "-" + "9" * 5000, "NaN"):
            await peer.ws.send_str('{"type":"ping","id":' + number + "}")
            frame = await peer.frame()
            assert (frame["type"], frame["id"]) == ("error", None)
            assert frame["code"] in ("bad_request", "bad_json")
        await peer.ask("ping")


async def test_a_binary_frame_is_refused_and_the_connection_goes_on(pair: Running) -> None:
    async with websocket(pair, "b") as peer:
        await peer.ws.send_bytes(b'{"type":"ping","id":1}')
        frame = await peer.frame()
        assert (frame["type"], frame["id"], frame["code"]) == ("error", None, "bad_request")
        await peer.ask("ping")


async def test_what_another_may_not_is_refused_as_over_http(pair: Running) -> None:
    task = await delegate(pair, "b", "a")
    async with websocket(pair, "b", lease=30) as peer:
        await peer.refused("respond", "not_allowed", message_id=task, result=1)
        await peer.refused("delegate", "unknown_agent", to_agent="nobody", task="t")
        await peer.refused("respond", "unknown_task", message_id="unknown")


async def test_a_ping_is_ponged_with_what_it_carried(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        for data in (b"", b"\x00\xff" * 62):
            await peer.send(PING, data)
            assert await peer.next(PONG) == data


async def test_pongs_that_nobody_asked_for_are_ignored(pair: Running) -> None:
    async with wire(pair, "b", lease=30) as peer:
        for data in (b"", b"-1", b"9" * 125, "²".encode(), b"\xff", b"1.0", b" 1"):
            await peer.send(PONG, data)
        await send(pair, "a", "b")
        assert attempt_of(await peer.message()) == 1
        peer.reset()
    assert (await claim_one(pair, "b")).attempt == 1


async def test_a_frame_may_come_in_pieces(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        await peer.send(TEXT, '{"type":', flags=MORE)
        await peer.send(PING, b"x")
        await peer.send(CONTINUED, '"ping","id":1', flags=MORE)
        await peer.send(CONTINUED, "}")
        assert await peer.next(PONG) == b"x"
        assert (await peer.message())["id"] == 1


# -- what is too much --------------------------------------------------------------------------------------------------


async def test_the_answers_to_what_came_before_the_end_come_before_the_end(pair: Running) -> None:
    for end, code in ((packed(CLOSE, b"\x03\xe8"), 1000), (packed(TEXT, "x" * 1_100_000), 1009)):
        async with wire(pair, "b") as peer:
            await peer.connection.send(packed(TEXT, '{"type":"ping","id":1}') * 3 + end)
            for _ in range(3):
                assert (await peer.message())["id"] == 1
            assert int.from_bytes((await peer.next(CLOSE))[:2], "big") == code


async def test_a_frame_as_large_as_a_body_may_be_is_taken(pair: Running) -> None:
    text = '{"type":"send","id":1,"to_agent":"a","content":""}'
    content = "x" * (1024 * 1024 - len(text))
    async with websocket(pair, "b", lease=30) as peer:
        await peer.ws.send_str(text[:-2] + content + '"}')
        assert (await peer.frame())["type"] == "reply"
    async with websocket(pair, "a", lease=30) as other:
        assert (await other.message())["content"] == content


async def test_a_frame_that_is_too_large_ends_its_connection_and_no_other(pair: Running) -> None:
    id = await send(pair, "a", "b")
    async with websocket(pair, "a", lease=30) as other:
        async with websocket(pair, "b", lease=30) as peer:
            assert (await peer.message())["message_id"] == id
            await peer.ws.send_str("x" * (1024 * 1024 + 1))
            code, _ = await peer.closed()
            assert code == 1009
        assert (await claim_one(pair, "b")).message["message_id"] == id
        await other.ask("ping")


async def test_a_frame_that_is_too_large_in_pieces_is_too_large(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        await peer.send(TEXT, "x" * 600_000, flags=MORE)
        await peer.send(CONTINUED, "x" * 600_000, flags=MORE)
        assert int.from_bytes((await peer.next(CLOSE))[:2], "big") == 1009


async def test_the_limit_of_a_frame_is_that_of_a_body(serve: Serve) -> None:
    relay = await serve(limits={"max_body_bytes": 4096})
    await relay.register("Bob", agent_id="b")
    async with websocket(relay, "b") as peer:
        await peer.ws.send_str(" " * 4097)
        assert (await peer.closed())[0] == 1009


async def test_text_that_is_no_utf_8_ends_its_connection(pair: Running) -> None:
    async with wire(pair, "b") as peer:
        await peer.send(TEXT, b'{"type":"ping","id":"\xff"}')
        assert int.from_bytes((await peer.next(CLOSE))[:2], "big") == 1007


@pytest.fixture
def nowhere_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have peers on this machine treated as those on others, with which frames may be compressed."""
    monkeypatch.setattr("clawlink.server.websocket.LOOPBACK_HOSTS", ())


@pytest.mark.usefixtures("nowhere_local")
async def test_large_messages_are_compressed_for_peers_elsewhere_that_offer_it(pair: Running) -> None:
    contents = ["small", "x" * 5000, "y" * 100_000, "z" * 900_000]
    for content in contents:
        await send(pair, "a", "b", content)
    async with pair.session.ws_connect(pair.url + "/ws/b?lease=30", compress=15) as ws:
        assert ws.compress
        peer = Peer(ws)
        messages = await peer.messages(4)
        assert sorted(m["content"] for m in messages) == sorted(contents)
        await peer.ack(*messages)
        await ws.send_json({"type": "send", "id": 1, "to_agent": "a", "content": "w" * 10_000}, compress=15)
        assert (await peer.answer(1))["type"] == "reply"


@pytest.mark.usefixtures("nowhere_local")
async def test_what_was_compressed_and_not_read_is_due_again(pair: Running) -> None:
    for n in range(3):
        await send(pair, "a", "b", f"{n}" * 50_000)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
    async with wire(pair, "b", headers=offer, lease=30) as peer:
        await peer.frame()
        peer.reset()
    got = [await claim_one(pair, "b", max=1) for _ in range(3)]
    assert [g.attempt for g in got] == [1, 1, 1]


@pytest.mark.usefixtures("nowhere_local")
@memory
async def test_a_small_frame_that_inflates_beyond_the_limit_is_too_large(pair: Running) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(200)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 300_000
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    async with wire(pair, "b", headers=offer) as peer, websocket(pair, "a") as other:
        tracemalloc.start()
        try:
            await peer.send(TEXT, bomb[:-4], flags=PACKED)
            assert int.from_bytes((await peer.next(CLOSE))[:2], "big") == 1009
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()
        await other.ask("ping")


@memory
async def test_one_that_asks_without_end_leaves_others_their_turn(
    pair: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12,000 frames that are there to be read, no more than a few thousand are answered in a row."""
    handled = longest = 0

    def counted(text: str, agent_id: str) -> Frame:
        nonlocal handled
        handled += 1
        return read_frame(text, agent_id)

    monkeypatch.setattr("clawlink.server.websocket.read_frame", counted)
    async with wire(pair, "b") as peer:
        flood = packed(TEXT, '{"type":"ping"}') * 12_000 + packed(TEXT, '{"type":"ping","id":"last"}')
        sending = asyncio.create_task(peer.connection.send(flood))
        reading = asyncio.create_task(peer.message())
        while not reading.done():
            before = handled
            await asyncio.sleep(0)
            longest = max(longest, handled - before)
        await sending
        assert reading.result()["id"] == "last"
    assert handled == 12_001
    assert longest < 6000


@memory
async def test_one_that_pings_without_end_and_never_reads_is_read_no_more(pair: Running) -> None:
    async with wire(pair, "b", receive_buffer=4096) as peer:
        pings, transport = packed(PING, b"x" * 125) * 500, peer.connection.writer.transport
        sent = 0
        while transport.get_write_buffer_size() < 1 << 20:  # until the relay reads no more
            transport.write(pings)
            sent += len(pings)
            for _ in range(20):
                await asyncio.sleep(0)
            assert sent < 32 << 20, "it reads on, and keeps a pong for each ping"
        peer.reset()
