"""Two relays over one Valkey server: agents at one work with those at the other as if it were one relay."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import clawlink
from clawlink.client.address import address
from clawlink.client.aio import AsyncClient
from clawlink.relay.timestamps import steady_clock
from clawlink.store.valkey.mesh import Mesh
from clawlink.store.valkey.server import StoreError
from clawlink.store.valkey.wire import Wire
from tests.conftest import UNPACED, RelayProcess, Running, Serve, Start
from tests.effort import size
from tests.server import blobs
from tests.server.asks import (
    NEWS,
    ack,
    claim_one,
    delegate,
    ok,
    poll,
    pool_task,
    refused,
    respond,
    send,
    task_of,
)
from tests.server.sockets import path_of
from tests.system import mesh as storm
from tests.valkey import Server, running
from tests.waiting import PATIENCE, eventually
from tests.websockets import connected

_names = count()


async def pair(serve: Serve, **options: Any) -> tuple[Running, Running]:
    """Start two relays of one mesh."""
    options.setdefault("limits", UNPACED)
    name = f"pair{next(_names)}"
    return await serve(mesh=name, **options), await serve(mesh=name, **options)


async def waiting(relay: Running, listeners: int = 1) -> None:
    """Wait until somebody waits at a relay."""
    await eventually(lambda: _is(relay.app.relay.waiting >= listeners))


async def _is(fact: bool) -> bool:
    return fact


async def quick(waiter: asyncio.Task[Any]) -> Any:
    """Return what a waiter got, which waits for longer than this unless it is woken."""
    return await asyncio.wait_for(waiter, 15)


async def test_an_agent_of_one_relay_is_found_delegated_to_and_woken_from_the_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.store.valkey.mesh._PING_SECONDS", 0.02)  # so that silences are seen, too
    a, b = await pair(serve)
    await a.register("mia", agent_id="mia", capabilities=["go"], notices=False)
    await b.register("otto", agent_id="otto", notices=False)
    for relay in (a, b):
        found = await ok(relay.get("/discover", params={"status": "all"}))
        assert {agent["agent_id"] for agent in found["agents"]} == {"mia", "otto"}
    await refused(b.post("/register", {"name": "Mia", "agent_id": "other", "claim": True}), 409, "name_taken")

    polling = asyncio.create_task(poll(a, "mia", wait=60, lease=60))
    await waiting(a)
    task = await delegate(b, "otto", "mia", idempotency_key="once")
    reply = await quick(polling)
    assert [message["message_id"] for message in reply["messages"]] == [task]
    assert await delegate(a, "otto", "mia", idempotency_key="once") == task

    following = asyncio.create_task(task_of(b, "otto", task, wait=60, until="done"))
    watching = asyncio.create_task(
        ok(b.get(f"/messages/{task}", params={"agent_id": "otto", "wait": 60, "until": "acked"}))
    )
    listening = asyncio.create_task(poll(b, "otto", wait=60, lease=60))
    await waiting(b, 3)
    await ack(a, "mia", reply["deliveries"][0]["receipt"])
    await quick(watching)
    await respond(a, "mia", task, "the answer")
    assert (await quick(following))["status"] == "completed"
    answered = await quick(listening)
    assert [message["result"] for message in answered["messages"]] == ["the answer"]

    await ok(a.ask("DELETE", "/agents/mia"))
    found = await ok(b.get("/discover", params={"status": "all"}))
    assert {agent["agent_id"] for agent in found["agents"]} == {"otto"}


async def test_websockets_and_event_streams_are_woken_from_the_other_relay(serve: Serve) -> None:
    a, b = await pair(serve)
    for name in ("mia", "eve"):
        await a.register(name, agent_id=name, notices=False)
    await b.register("otto", agent_id="otto", notices=False)
    async with connected(a.session, a.url.replace("http", "ws") + path_of("mia")) as socket:
        await waiting(a)
        sent = await send(b, "otto", "mia")
        assert (await socket.frame())["message_id"] == sent
    async with a.session.get(a.url + path_of("eve", kind="events")) as stream:
        assert stream.status == 200, await stream.text()
        await waiting(a)
        sent = await send(b, "otto", "eve")
        while sent.encode() not in await asyncio.wait_for(stream.content.readline(), PATIENCE):
            pass


async def test_work_of_a_pool_goes_to_a_worker_at_any_relay_and_is_taken_over_there(serve: Serve) -> None:
    a, b = await pair(serve, limits={**UNPACED, "stale_after": 1.0})
    await a.register("mia", agent_id="mia", capabilities=["python"], notices=False)
    await b.register("otto", agent_id="otto", notices=False)
    polling = asyncio.create_task(poll(a, "mia", wait=60, lease=5))
    await waiting(a)
    task = await pool_task(b, "otto")
    assert [message["message_id"] for message in (await quick(polling))["messages"]] == [task]
    await b.register("eve", agent_id="eve", capabilities=["python"], notices=False)
    taken = (await claim_one(b, "eve", wait=20)).message  # mia says nothing more, so its lease ends
    assert taken["message_id"] == task
    await respond(b, "eve", task)
    assert (await task_of(a, "otto", task))["status"] == "completed"


async def test_every_message_goes_to_one_of_those_who_claim_at_both_relays(serve: Serve) -> None:
    a, b = await pair(serve)
    await a.register("mia", agent_id="mia", notices=False)
    await b.register("otto", agent_id="otto", notices=False)
    sent = [await send(relay, "otto", "mia", n) for n in range(20) for relay in (a, b)]
    got: list[str] = []

    async def consume(relay: Running) -> None:
        while len(got) < len(sent):
            found = (await poll(relay, "mia", lease=60, max=3))["messages"]
            got.extend(message["message_id"] for message in found if message["type"] not in NEWS)

    await asyncio.gather(*(consume(relay) for relay in (a, b) * 4))
    assert sorted(got) == sorted(sent)


@pytest.mark.parametrize("length", [100, 3 * 1024 * 1024], ids=["on the server", "in the folder"])
async def test_a_file_of_one_relay_is_read_at_the_other(serve: Serve, length: int) -> None:
    a, b = await pair(serve)
    for name in ("a", "b"):
        await a.register(name, agent_id=name, notices=False)
    data = random.Random(length).randbytes(length)
    assert await blobs.saved(a, "k", data) == 1
    assert await blobs.content(b, "k") == data
    following = asyncio.create_task(ok(a.get("/blobs/k", params={"versions": "true", "since": 1, "wait": 60})))
    await waiting(a)
    assert await blobs.saved(b, "k", data[::-1], agent="b") == 2
    assert (await quick(following))["version"] == 2
    assert await blobs.content(a, "k") == data[::-1]


async def test_of_writers_at_both_relays_one_wins(serve: Serve) -> None:
    a, b = await pair(serve)
    await a.register("a", agent_id="a", notices=False)
    assert await blobs.saved(a, "k", b"first") == 1
    answers = await asyncio.gather(
        *(blobs.put(relay, "k", b"%d" % n, If_Match='"1"') for n, relay in enumerate((a, b) * 4))
    )
    assert sorted(told.status for told in answers) == [200, *[412] * 7], answers
    won = b"%d" % [told.status for told in answers].index(200)
    assert [await blobs.content(relay, "k") for relay in (a, b)] == [won, won]


async def test_a_file_for_one_reader_is_read_at_one_relay(serve: Serve) -> None:
    a, b = await pair(serve)
    for name in ("a", "b", "c"):
        await a.register(name, agent_id=name, notices=False)
    await blobs.saved(a, "k", b"secret", ClawLink_Burn_After_Read="1")
    answers = await asyncio.gather(
        *(blobs.ask(relay, "GET", "/blobs/k", ClawLink_Agent=agent) for relay, agent in ((a, "b"), (b, "c")))
    )
    assert sorted(told.status for told in answers) == [200, 409], answers
    relay, agent = ((a, "b"), (b, "c"))[[told.status for told in answers].index(200)]
    assert (await blobs.ask(relay, "DELETE", "/blobs/k?read=true", ClawLink_Agent=agent)).status == 200
    for relay in (a, b):
        assert (await blobs.ask(relay, "GET", "/blobs/k", ClawLink_Agent="b")).status == 404


async def test_one_relay_leads_and_another_when_it_ends(serve: Serve) -> None:
    a, b = await pair(serve)
    first, second = (relay.app.mesh for relay in (a, b))
    assert first is not None
    assert second is not None
    assert [await first.leads(), await second.leads()] == [(True, 0.0), (False, 0.0)]
    await a.app.stop()
    await first.close()
    await eventually(lambda: _leads(second))


async def _leads(mesh: Mesh) -> bool:
    return (await mesh.leads())[0]


async def test_a_store_that_is_away_is_a_503_and_nothing_is_lost(serve: Serve) -> None:
    with running("--appendfsync", "always") as server:
        meshes = [await Mesh.open(server.patient_url, steady=steady_clock()) for _ in range(2)]
        a, b = [await serve(mesh=mesh, limits=UNPACED) for mesh in meshes]
        for name in ("mia", "eve", "otto"):
            await a.register(name, agent_id=name, notices=False)
        kept = await send(a, "otto", "mia")

        async def patient() -> Any:
            while True:
                status, reply = await a.get("/poll/eve", params={"wait": 60, "lease": 60})
                if status == 200:
                    return reply
                assert (status, reply["code"]) == (503, "store_unavailable")

        polling = asyncio.create_task(patient())
        await waiting(a)
        server.stop()
        for relay in (a, b) * 2:
            async with relay.session.get(f"{relay.url}/poll/mia") as response:
                assert (response.status, (await response.json())["code"]) == (503, "store_unavailable")
                assert int(response.headers["Retry-After"]) >= 1
            await refused(relay.get("/readyz"), 503, "store_unavailable")
        server.start()

        async def back() -> Any:
            status, reply = await b.get("/poll/mia", params={"lease": 60})
            return status == 200 and reply

        reply = await eventually(back)
        assert [message["message_id"] for message in reply["messages"]] == [kept]
        await waiting(a)
        sent = await send(b, "otto", "eve")
        assert [message["message_id"] for message in (await quick(polling))["messages"]] == [sent]
        for relay, mesh in zip((a, b), meshes, strict=True):
            await relay.session.close()
            await relay.app.stop()
            await mesh.close()


async def test_event_streams_go_on_after_the_store_was_away(serve: Serve) -> None:
    with running() as server:
        mesh = await Mesh.open(server.patient_url, steady=steady_clock())
        relay = await serve(mesh=mesh, limits=UNPACED)
        address = relay.url + "/admin/events"
        async with relay.session.get(address) as first:
            await told(first, b'"agents_online":0')
            server.stop()
            await eventually(lambda: answers(relay, 503))
            async with relay.session.get(address) as second:
                assert await second.content.readline() == b"retry: 1000\n"
                server.start()
                await eventually(lambda: answers(relay, 200))
                await relay.register("mia", agent_id="mia", notices=False)
                for stream in (first, second):
                    await told(stream, b'"agents_online":1')
        await relay.session.close()
        await relay.app.stop()
        await mesh.close()


async def told(stream: aiohttp.ClientResponse, words: bytes) -> None:
    """Wait until an event stream has a line with these words."""
    while words not in (line := await asyncio.wait_for(stream.content.readline(), PATIENCE)):
        assert line, "the stream has ended"


async def answers(relay: Running, status: int) -> bool:
    """Return True if the overview has this status."""
    return bool((await relay.get("/admin/overview"))[0] == status)


async def test_a_silence_of_all_relays_is_not_one_of_the_agents(valkey: Server) -> None:
    async def joined() -> Mesh:
        return await Mesh.open(valkey.url, prefix="silent", steady=steady_clock())

    first = await joined()
    assert await first.leads() == (True, 0.0)
    wire = Wire(valkey.url)
    alive = float(await wire.call("HGET", "{silent}:meta", "alive"))
    await wire.call("HSET", "{silent}:meta", "alive", alive - 100)
    second = await joined()
    leads, away = await second.leads()
    assert leads
    assert 100 <= away < 160
    assert await first.leads() == (False, 0.0)
    for mesh in (first, second):
        await mesh.close()
    await wire.close()


async def test_servers_that_lose_messages_are_refused_with_a_sentence(valkey: Server) -> None:
    async def why(url: str, **options: Any) -> str:
        with pytest.raises(StoreError) as refused:
            await Mesh.open(url, steady=steady_clock(), **options)
        return refused.value.message

    wire = Wire(valkey.url)
    for command, undo, word in (
        ("CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction", "noeviction"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "replica"),
        ("HSET {odd}:meta layout 99", "DEL {odd}:meta", "layout 99"),
    ):
        await wire.call(*command.split())
        assert word in await why(valkey.url, prefix="odd"), command
        await wire.call(*undo.split())
    said = await why("redis://:s3cret@127.0.0.1:1/0")
    assert "127.0.0.1:1" in said
    assert "s3cret" not in said
    for odd in (
        "127.0.0.1:not-a-port",
        "h,i:not-a-port",
        ":s3cret/s@h",
        ":s3cret@h?socket_timeout=s3cret",
        "h?s3cret=1",
    ):
        said = await why(f"redis://{odd}")
        assert "no address" in said, odd
        assert "s3cret" not in said
    await wire.close()


async def test_contents_that_no_file_names_go_and_others_stay(
    serve: Serve, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.store.valkey.mesh._SWEEP_SECONDS", float("nan"))  # never by itself
    monkeypatch.setattr("clawlink.store.valkey.contents._FRESH_SECONDS", -1)
    monkeypatch.setattr("clawlink.store.valkey.contents._UNNAMED_SECONDS", 0)
    a, b = await pair(serve)
    await a.register("a", agent_id="a", notices=False)
    large = 2 * 1024 * 1024
    for key, data in (("small", b"1"), ("small gone", b"2"), ("large", b"3" * large), ("large gone", b"4" * large)):
        await blobs.saved(a, key.replace(" ", "-"), data)
    for key in ("small-gone", "large-gone"):
        await blobs.ask(a, "DELETE", f"/blobs/{key}", ClawLink_Agent="a")
    assert a.app.mesh is not None
    assert a.app.mesh.blobs.folder is not None
    assert files_below(a.app.mesh.blobs.folder) == 2
    await a.app.mesh.blobs.sweep()
    assert files_below(a.app.mesh.blobs.folder) == 1
    wire = Wire(valkey.url)
    assert len(await wire.call("KEYS", f"{a.app.mesh.store.base}:content:*")) == 1
    await wire.close()
    assert (await blobs.content(b, "small"), await blobs.content(b, "large")) == (b"1", b"3" * large)
    await blobs.saved(b, "again", b"4" * large)
    assert await blobs.content(a, "again") == b"4" * large


def files_below(folder: Path) -> int:
    """Return how many contents there are."""
    return len([path for path in folder.rglob("*") if path.is_file() and path.name != "mesh"])


async def test_a_folder_that_is_not_that_of_the_mesh_is_refused(valkey: Server, tmp_path: Path) -> None:
    async def open_with(prefix: str, folder: Path | None) -> Mesh:
        return await Mesh.open(
            valkey.url, prefix=prefix, blobs=None if folder is None else str(folder), steady=steady_clock()
        )

    async def why(prefix: str, folder: Path) -> str:
        with pytest.raises(StoreError) as refused:
            await open_with(prefix, folder)
        return refused.value.message

    shared, empty = tmp_path / "shared", tmp_path / "not-mounted"
    opened = [await open_with("folder", None), await open_with("folder", shared), await open_with("folder", shared)]
    assert [mesh.warnings for mesh in opened] == [[], [], []]
    opened.append(await open_with("folder", None))
    assert "other relays of this mesh have --blobs" in opened[-1].warnings[0]
    said = await why("folder", empty)
    assert f"{empty / 'mesh'} is missing" in said
    assert "contents of another mesh" in await why("another", shared)
    (empty / "mesh").write_text(said.split()[-4] + "\n")  # as it says
    opened.append(await open_with("folder", empty))
    for mesh in (opened[0], opened[1]):  # without a folder, and with one
        valkey.ask("DEL", "{folder}:meta")  # as if the server had lost its records
        await mesh.leads()
        await opened[1].leads()
        assert "is missing" in await why("folder", tmp_path / "not-mounted-either")
    file = tmp_path / "file"
    file.touch()
    assert "cannot be used" in await why("third", file)
    for mesh in opened:
        await mesh.close()


async def test_clients_of_a_relay_that_ends_go_on_at_the_other(serve: Serve, tmp_path: Path) -> None:
    a, b = await pair(serve)
    await b.register("otto", agent_id="otto", notices=False)
    both = f"{a.url.removeprefix('http://')}, {b.url}/"
    assert address(both) == f"{a.url},{b.url}"
    link = clawlink.Link("mia", relay=both, identities=tmp_path / "home")
    link.on_task(lambda task: f"{task.text} done")
    async with link, AsyncClient(both, agent_id="otto") as client:
        first = await client.delegate("mia", "one")
        assert (await client.wait_for(first.message_id, timeout=PATIENCE)).result == "one done"
        await a.app.stop()
        assert a.app.mesh is not None
        await a.app.mesh.close()
        second = await client.delegate("mia", "two")
        assert (await client.wait_for(second.message_id, timeout=PATIENCE)).result == "two done"
        assert client.relay == b.url
    blocking = clawlink.Client(both, agent_id="otto", timeout=20)
    third = await asyncio.to_thread(blocking.send, "otto", "to myself")
    assert third.message_id
    assert blocking.relay == b.url
    blocking.close()


class TwoRelays(storm.Mesh):
    """Senders and workers that ask either of two relays, and the other one if there is no answer."""

    def __init__(self, *urls: str, seed: int) -> None:
        super().__init__(urls[0], seed, each=size(8, 60, 200))
        self.urls = list(urls)

    async def ask(self, agent: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self.url = self.dice.choice(self.urls)
        return await super().ask(agent, method, path, body)


@pytest.mark.storm
async def test_nothing_is_lost_or_doubled_while_relays_are_killed(start_relay: Start, valkey: Server) -> None:
    env = {"CLAWLINK_STORE": valkey.url, "CLAWLINK_STORE_PREFIX": f"kills{next(_names)}"}
    relays: list[RelayProcess] = [start_relay(*storm_flags(), env=env) for _ in range(2)]
    mesh = TwoRelays(*(relay.url for relay in relays), seed=20261129)

    async def kill() -> None:
        at = mesh.dice.randrange(2)
        relays[at].process.kill()
        relays[at].process.wait()
        port = relays[at].url.rpartition(":")[2]
        relays[at] = await asyncio.to_thread(start_relay, "--port", port, *storm_flags(), env=env)

    try:
        await mesh.register()
        await mesh.run(kill, kills=size(2, 20, 200))
        await mesh.account()
    finally:
        await mesh.close()


def storm_flags() -> tuple[str, ...]:
    """Return the flags of a relay whose agents are not slowed down."""
    return ("--rate-agent", "0", "--rate-pair", "0", "--rate-register", "0", "--log-level", "error")
