"""A store whose connection breaks, seen over Agent Link: told, logged, and over when the store is back."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from clawlink.doors.agentlink.server import door, fan_out, receipts, service
from clawlink.store.memory import MemoryStore
from tests.doors.agentlink.conftest import DialNew, Joined, ServeLink, Sign, door_of
from tests.server.test_store_failures import Unplugged
from tests.waiting import eventually


@pytest.mark.parametrize("store_kind", ["memory"])  # it brings a store of its own
async def test_a_broken_connection_of_the_store_is_not_taken_for_a_peer_that_hung_up(
    serve_link: ServeLink,
    sign_in: Sign,
    dial_new: DialNew,
    join: Joined,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in (service, receipts):
        monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(fan_out, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(door, "EXTEND_SECONDS", 0.01)
    store = Unplugged(MemoryStore(), Random(1))
    relay = await serve_link(store=store)
    a, c, d = await join(relay, "a"), await sign_in(relay, "c", "carol"), await sign_in(relay, "d", "dan")
    await a.send("ann", "d/dan", "I am ann")
    await d.ack((await d.next("message"))["receipt"])
    await a.next("delivered")
    before = await c.write("a/ann", "before")
    assert before["type"] == "queued"

    async def is_held() -> bool:  # nobody reads at a, so no pong says that it has arrived
        return bool(door_of(relay).copies["a/ann"]._held)

    await eventually(is_held)
    store.unplugged = True

    error = await c.write("d/dan", "not stored", id="7")
    assert (error["type"], error["code"], error["id"]) == ("error", "internal_error", "7")
    late = await dial_new(relay, "c")
    assert (await late.join("late"))["code"] == "internal_error"
    assert await late.closed() == 1000
    relay.app.relay.look_again()

    async def all_go_on() -> bool:
        told = Counter(record.getMessage() for record in caplog.records)
        twice = all(told[f"{what} messages failed; it goes on"] > 3 for what in ("bringing", "holding"))
        return twice and told["following a message failed; it goes on"] > 0

    await eventually(all_go_on)
    store.unplugged = False
    assert (await a.next("message"))["message"] == "before"
    await a.put({"type": "ping"})
    assert (await a.next("pong"))["type"] == "pong"
    assert (await c.next("delivered"))["message_id"] == before["message_id"]
    for to, reader in (("d/dan", d), ("a/ann", a)):
        assert (await c.write(to, f"after, to {to}"))["type"] == "queued", to
        assert (await reader.next("message"))["message"] == f"after, to {to}"
