"""The operator's view over HTTP: who may look, and the stream of overviews."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from clawlink.doors.registry import Door, OpenDoor, Opening
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS
from clawlink.relay.relay import Relay
from clawlink.server import json_endpoint, live
from clawlink.server.request import Handler, Request
from tests.conftest import Running, Serve
from tests.server.asks import ok, refused

LOOKS = [e.path for e in ENDPOINTS if e.admin and e.method == "GET"]


def filled(path: str) -> str:
    return path.replace("{agent_id}", "a").replace("{task_id}", "t")


async def test_only_the_operator_may_look(serve: Serve) -> None:
    relay = await serve(token="t", admin_token="boss")
    assert len(LOOKS) >= 8
    for n, path in enumerate(map(filled, LOOKS)):
        for token, status in ((None, 401), ("wrong", 401), ("t", 403))[0 if n < 4 else 2 :]:  # later guesses wait
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            found, body = await relay.get(path, headers=headers)
            assert (found, body["code"]) == (status, "not_allowed" if status == 403 else "not_authenticated"), path
    overview = await ok(relay.get("/admin/overview", headers={"Authorization": "Bearer boss"}))
    assert overview["agents_online"] == 0


async def test_on_loopback_without_a_token_this_machine_looks_but_no_foreign_page(serve: Serve) -> None:
    relay = await serve()
    await ok(relay.get("/admin/overview"))
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example"},
        {"X-Forwarded-For": "1.2.3.4"},
    ):
        await refused(relay.get("/admin/overview", headers=headers), 403, "not_allowed")
    allowed = await serve(allow_origins=("https://page.example",))
    await refused(allowed.get("/admin/overview", headers={"Origin": "https://page.example"}), 403, "not_allowed")


async def test_a_kick_stands_in_the_audit(serve: Serve) -> None:
    relay = await serve(admin_token="boss")
    for name, headers in (("Ann", {}), ("Bob", {"Authorization": "Bearer boss"})):
        await relay.register(name, agent_id=name.lower())
        await ok(relay.post("/kick", {"agent": name}, headers=headers))
    entries = (await ok(relay.get("/admin/audit")))["entries"]
    assert [(e["act"], e["target"], e["by"], e["address"]) for e in entries] == [
        ("kick", "bob", "token", "127.0.0.1"),
        ("kick", "ann", "local", "127.0.0.1"),
    ]
    assert entries[0]["facts"] == {"status": "kicked", "agent_id": "bob", "dropped": 0, "waiting": 0}


async def test_the_acts_survive_a_restart(serve: Serve) -> None:
    first = await serve()
    await first.register("Ann", agent_id="a")
    await ok(first.post("/kick", {"agent": "a"}))
    again = await serve(store=first.app.relay.core.store)
    assert [e["target"] for e in (await ok(again.get("/admin/audit")))["entries"]] == ["a"]


async def event(stream: Any) -> tuple[str, dict[str, Any]]:
    """Read the next event."""
    fields: dict[str, str] = {}
    while True:
        read = await asyncio.wait_for(stream.readline(), 20)
        assert read, "the stream has ended"
        line = read.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif "data" in fields:
            return fields["event"], json.loads(fields["data"])
        else:
            fields = {}


async def test_the_stream_begins_with_the_overview_and_tells_each_change(serve: Serve) -> None:
    relay = await serve()
    async with relay.session.get(relay.url + "/admin/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        name, first = await event(response.content)
        assert (name, first["agents_online"]) == ("overview", 0)
        await relay.register("Ann", agent_id="a")
        _, second = await event(response.content)
        assert second["agents_online"] == 1
        assert second["revision"] > first["revision"]


async def test_a_silent_stream_shows_a_sign_of_life(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "_SIGN_SECONDS", 0.0)
    relay = await serve()
    for query, sign in (("", b":\n"), ("?heartbeats=true", b"event: heartbeat\n")):
        async with relay.session.get(f"{relay.url}/admin/events{query}") as response:
            assert (await event(response.content))[0] == "overview"
            assert await response.content.readline() == sign
    await refused(relay.get("/admin/events?heartbeats=often"), 400, "bad_request")


async def test_there_are_only_so_many_streams(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "MAX_STREAMS", 1)
    relay: Running = await serve()
    async with relay.session.get(relay.url + "/admin/events") as response:
        await event(response.content)
        refusal = await refused(relay.get("/admin/events"), 429, "relay_full")
        assert refusal["limit"] == 1


async def test_streams_over_http_1_0_have_no_chunks(serve: Serve) -> None:
    relay = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(relay.url.rpartition(":")[2]))
    writer.write(b"GET /admin/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"chunked" not in (await reader.readuntil(b"\r\n\r\n")).lower()
    assert (await event(reader))[1]["agents_online"] == 0
    await relay.register("Ann", agent_id="a")
    assert (await event(reader))[1]["agents_online"] == 1
    writer.close()


async def test_all_streams_get_the_same_news(serve: Serve) -> None:
    relay = await serve()
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            (await stack.enter_async_context(relay.session.get(relay.url + "/admin/events"))).content for _ in range(12)
        ]
        for stream in streams:
            await event(stream)
        await relay.register("Ann", agent_id="a")
        assert [(await event(stream))[1]["agents_online"] for stream in streams] == [1] * 12


async def test_a_reader_may_share_an_answer_until_an_event_tells_of_more(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(json_endpoint, "_SHARED_SECONDS", 10**9)
    relay = await serve()
    shares = {"Cache-Control": "max-age=999999999"}

    async def agents(headers: dict[str, str]) -> int:
        return int((await ok(relay.get("/admin/agents", headers=headers)))["count"])

    assert await agents(shares) == 0
    await relay.register("Ann", agent_id="a")
    assert [await agents(h) for h in (shares, {}, {"Cache-Control": "no-cache"})] == [0, 1, 1]
    assert await agents({"Cache-Control": "max-age=0"}) == 1
    async with relay.session.get(relay.url + "/admin/events") as response:
        _, first = await event(response.content)
        await agents(shares)
        await relay.register("Bob", agent_id="b")
        while first["agents_online"] < 2:
            _, first = await event(response.content)
        assert await agents(shares) == 2


async def test_an_answer_is_shared_by_those_alone_that_may_look(serve: Serve) -> None:
    relay = await serve(token="t", admin_token="boss")
    shares = {"Cache-Control": "max-age=5"}
    await ok(relay.get("/admin/overview", headers={"Authorization": "Bearer boss", **shares}))
    await refused(relay.get("/admin/overview", headers=shares), 401, "not_authenticated")
    await refused(relay.get("/admin/overview", headers={"Authorization": "Bearer t", **shares}), 403, "not_allowed")


class Streams(OpenDoor):
    """Streams at ``/now``, and at ``/late`` one that begins as the last of the others ends."""

    def __init__(self) -> None:
        self.waits, self.ended = asyncio.Event(), asyncio.Event()
        self.first: asyncio.Task[Any] | None = None
        self.live = live.Live(self.told)

    def told(self) -> None:
        if self.waits.is_set() and asyncio.current_task() is self.first:
            self.ended.set()

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        ((endpoint, serve),) = self.live.routes

        async def now(relay: Relay, request: Request) -> Any:
            self.first = asyncio.current_task()
            return await serve(relay, request)

        async def late(relay: Relay, request: Request) -> Any:
            self.waits.set()
            await self.ended.wait()
            return await serve(relay, request)

        yield replace(endpoint, name="now", path="/now"), now
        yield replace(endpoint, name="late", path="/late"), late


class StreamsDoor(Door):
    name, settings = "streams", dataclass(frozen=True)(type("Settings", (), {}))

    def open(self, opening: Opening) -> OpenDoor:
        return Streams()


async def test_a_stream_goes_on_that_begins_as_the_last_one_ends(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr("clawlink.server.app.doors", lambda: [StreamsDoor()])
    relay = await serve()
    door: Any = relay.app.doors["streams"]
    async with relay.session.get(relay.url + "/now") as response:
        await event(response.content)
        coming = asyncio.create_task(relay.session.get(relay.url + "/late"))
        await door.waits.wait()
    async with await coming as response:
        assert (await event(response.content))[1]["agents_online"] == 0
        await relay.register("Ann", agent_id="a")
        assert (await event(response.content))[1]["agents_online"] == 1
