"""A message that cannot be sent, or is refused unread, fails alone: the link and the others go on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from clawlink.agentlink import Sent
from clawlink.domain.delivery import Delivery
from clawlink.doors.agentlink.client.session import Session
from clawlink.doors.agentlink.server import service, text
from clawlink.errors import BadRequest, NotAllowed, RelayUnreachable, TooLarge
from tests.conftest import Running
from tests.doors.agentlink.conftest import SECONDS, DialNew, Joined, Make, ServeLink, Sign

LIMIT = 100_000
SMALL = 10_000  # so small that the relay has read all of it when it closes, and TCP does not throw its close frame away


@pytest.fixture
async def relay(serve_link: ServeLink) -> Running:
    return await serve_link()


async def answered(sent: Sent) -> Sent:
    return await asyncio.wait_for(sent, SECONDS)


@pytest.mark.parametrize(
    ("to", "message", "field"),
    [
        ("", "x", "to"),
        (None, "x", "to"),
        (b"carol", "x", "to"),
        ("\ud800", "x", "to"),
        ("carol", b"x", "message"),
        ("carol", "\ud800", "message"),
        ("carol", None, "message"),
        ("carol", 5, "message"),
        ("carol", {"a": 1}, "message"),
    ],
)
async def test_what_is_no_text_is_told_at_once(relay: Running, make: Make, to: Any, message: Any, field: str) -> None:
    c = make(relay, "c", "carol")
    with pytest.raises(BadRequest) as refused:
        await c.send(to, message)
    assert refused.value.field == field
    assert field in refused.value.message
    with pytest.raises(BadRequest):
        await asyncio.to_thread(c.send, to, message)
    assert (await answered(c.send("carol", "hello"))).message_id


async def test_a_message_that_cannot_be_signed_fails_alone(
    relay: Running,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    honest = Session.send

    async def send(session: Session, sent: Sent) -> None:
        if sent.message == "cursed":
            raise ValueError("nobody foresaw this")
        await honest(session, sent)

    monkeypatch.setattr(Session, "send", send)
    c = make(relay, "c", "carol")
    await c.connect()
    cursed, good = c.send("carol", "cursed"), c.send("carol", "good")
    with pytest.raises(ValueError, match="nobody foresaw"):
        await answered(cursed)
    assert (await answered(good)).message_id
    assert "a message cannot be sent: ValueError: nobody foresaw this" in caplog.text


async def test_a_message_that_cannot_be_sent_again_fails_alone(
    relay: Running,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    until: Callable[..., Any],
) -> None:
    honest, tries = Session.send, 0

    async def send(session: Session, sent: Sent) -> None:
        nonlocal tries
        if sent.message == "cursed":
            tries += 1
            if tries == 1:  # as if the connection had ended while it was on its way
                await session.close()
                raise RelayUnreachable("gone")
            raise ValueError("nobody foresaw this")
        await honest(session, sent)

    monkeypatch.setattr(Session, "send", send)
    c = make(relay, "c", "carol")
    await c.connect()
    with pytest.raises(ValueError, match="nobody foresaw"):
        await answered(c.send("carol", "cursed"))
    assert (await answered(c.send("carol", "good"))).message_id
    await until(lambda: c.state == "connected")


async def test_a_message_that_cannot_be_written_keeps_no_other_back(
    relay: Running,
    sign_in: Sign,
    join: Joined,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    honest = text.message_frame

    def write(d: Delivery, *args: Any) -> str | None:
        if b"cursed" in d.body:
            raise ValueError("nobody foresaw this")
        return honest(d, *args)

    monkeypatch.setattr(service, "message_frame", write)
    monkeypatch.setattr(service, "_RETRY_SECONDS", 0.0)
    c = await sign_in(relay, "c", "carol")
    for to in ("a/ann", "d/dan"):
        await (await (join(relay, "a") if to == "a/ann" else sign_in(relay, "d", "dan"))).socket.close()
        ids = {}
        for said in ("before", "cursed", "after"):
            await c.put(c.message(to, said))
            ids[(await c.next("queued"))["message_id"]] = said
        client = await join(relay, "a") if to == "a/ann" else await sign_in(relay, "d", "dan")
        for said in ("before", "after"):
            got = await client.next("message")
            assert got["message"] == said
            await client.put({"type": "ack", "receipts": [got["receipt"]]})
        pinged = asyncio.create_task(client.closed())  # whoever reads answers pings
        told = await c.next("error")
        assert (told["code"], ids[told["message_id"]]) == ("not_delivered", "cursed")
        await client.socket.close()
        await pinged
    assert "nobody foresaw this" in caplog.text


async def test_what_is_too_large_fails_before_it_is_sent(serve_link: ServeLink, make: Make) -> None:
    relay = await serve_link(limits={"max_body_bytes": LIMIT})
    c = make(relay, "c", "carol")
    early = c.send("carol", "x" * LIMIT)  # it connects first
    with pytest.raises(TooLarge) as refused:
        await answered(early)
    assert refused.value.limit == LIMIT
    assert str(LIMIT) in refused.value.message
    states: list[str] = []
    c.on_state(states.append)
    large, umlauts, good = c.send("carol", "x" * LIMIT), c.send("carol", "ü" * (LIMIT // 2)), c.send("carol", "good")
    for sent in (large, umlauts):
        with pytest.raises(TooLarge):
            await answered(sent)
    assert (await answered(good)).message_id
    assert states == []  # the connection has stayed
    with pytest.raises(TooLarge):
        await c.respond("some task", "x" * LIMIT)


async def test_a_frame_as_large_as_the_limit_is_taken(serve_link: ServeLink, sign_in: Sign) -> None:
    relay = await serve_link(limits={"max_body_bytes": SMALL})
    c = await sign_in(relay, "c", "carol")
    room = SMALL - len(json.dumps(c.message("carol", "")))
    frame = c.message("carol", "x" * room)
    assert len(json.dumps(frame)) == SMALL
    await c.put(frame)
    assert (await c.next("queued"))["to"] == "carol"
    await c.put(c.message("carol", "x" * (room + 1)))
    assert await c.closed() == 1009


async def test_a_malformed_field_fails_its_message(relay: Running, make: Make) -> None:
    c = make(relay, "c", "carol")
    await c.connect()
    with pytest.raises(BadRequest) as refused:
        await answered(c.send("x" * 200, "x"))
    assert refused.value.field == "to"
    assert (await answered(c.send("carol", "hello"))).message_id


async def test_the_door_names_the_frame_that_it_could_not_read(relay: Running, sign_in: Sign) -> None:
    c = await sign_in(relay, "c", "carol")
    for changed, told in (
        ({"message": {"a": 1}}, {"id": "i", "to": "t"}),
        ({"to": ""}, {"id": "i", "to": ""}),
        ({"type": "of the future"}, {"id": "i", "to": "t"}),
        ({"id": 7, "message": 5}, {"to": "t"}),
        ({"id": "x" * 1001, "task_id": "task"}, {"to": "t", "task_id": "task"}),
    ):
        await c.put({**c.message("carol", "x"), "id": "i", "to": "t", **changed})
        answer = await c.frame()
        assert answer["type"] == "error"
        assert {name: answer[name] for name in ("id", "to", "task_id") if name in answer} == told
    for nonsense in ("{", "[]", "7", "[" * 5000):
        await c.socket.send_str(nonsense)
        assert "id" not in await c.frame()


@pytest.mark.parametrize("instance_id", ["c", "stranger\x1b[31m\n" + "x" * 200])
async def test_the_log_names_who_was_refused(
    relay: Running,
    dial_new: DialNew,
    caplog: pytest.LogCaptureFixture,
    instance_id: str,
) -> None:
    client = await dial_new(relay, instance_id[:50], secret="wrong")
    with caplog.at_level(logging.WARNING, "clawlink.agentlink"):
        assert (await client.join("carol"))["code"] == NotAllowed.code
    (record,) = [vars(r) for r in caplog.records if r.getMessage() == "refused"]
    assert record["address"] == "127.0.0.1"
    assert record["instance"].startswith(instance_id[:8])
    assert record["instance"].isprintable()
    assert len(record["instance"]) <= 100
