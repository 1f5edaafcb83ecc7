"""The server that takes the writes is found: among replicas, in a cluster, behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from pathlib import Path

import pytest
from redis.crc import key_slot

from clawlink.domain.delivery import Delivery
from clawlink.relay.timestamps import steady_clock
from clawlink.store.base import Failed
from clawlink.store.valkey.mesh import Mesh
from clawlink.store.valkey.primary import NoPrimary, Primary
from clawlink.store.valkey.server import StoreError
from clawlink.store.valkey.store import LAYOUT, ValkeyStore
from clawlink.store.valkey.wire import Wire
from tests.store.contract import NOW, delivery, due, put
from tests.valkey import ALL_SLOTS, Server, cluster_node, program, running, sentinel
from tests.waiting import PATIENCE, until, wait_until

pytestmark = pytest.mark.skipif(program() is None, reason="there is no valkey-server here")

CERT = Path(__file__).parents[1] / "data" / "tls-cert.pem"


def test_an_address_may_name_several_servers_and_is_shown_without_password() -> None:
    for url, shown in (
        ("redis://h", "redis://h"),
        ("rediss://ann:s3,c%2Fret@h:1,i:2/3?ssl_ca_certs=/x", "rediss://h:1,i:2/3"),
        ("unix://ann:s3cret@/run/a,b.sock?db=2", "unix:///run/a,b.sock"),
    ):
        assert Primary(url, "m").shown == shown


async def test_a_server_is_reached_by_a_socket_of_this_machine() -> None:
    with tempfile.TemporaryDirectory() as folder, running("--unixsocket", f"{folder}/s") as server:
        mesh = await Mesh.open(f"unix://{folder}/s", steady=steady_clock())
        assert server.ask("HGET", "{clawlink}:meta", "layout") == b"%d" % LAYOUT
        await mesh.close()


async def test_a_server_that_loses_messages_at_its_restart_is_warned_of() -> None:
    async def warned(server: Server, url: str = "") -> list[str]:
        mesh = await Mesh.open(url or server.patient_url, steady=steady_clock())
        await mesh.close()
        return mesh.warnings

    with running() as server:
        assert await warned(server) == []  # it has appendonly yes
        server.ask("CONFIG", "SET", "appendonly", "no")
        (said,) = await warned(server)
        assert "loses all agents, messages and files; set appendonly yes" in said
        server.ask("CONFIG", "SET", "save", "3600 1")
        (said,) = await warned(server)
        assert "loses what came after its last snapshot; set appendonly yes" in said
        server.ask("CONFIG", "SET", "save", "")
        server.ask("ACL", "SETUSER", "relay", "on", "nopass", "~*", "&*", "+@all", "-config")
        (said,) = await warned(server, f"redis://relay:any@127.0.0.1:{server.port}")
        assert "last snapshot" in said  # the server does not tell this user more


async def test_a_sentinel_is_refused_with_a_sentence() -> None:
    """It tells of no role, as a server does, and keeps no records."""
    with sentinel() as url:
        with pytest.raises(
            StoreError, match="is a Sentinel, which keeps no records; give the addresses of the primary"
        ):
            await Mesh.open(url, steady=steady_clock())
        with pytest.raises(StoreError, match="is no address of a server"):
            await Mesh.open(url.replace("redis:", "redis+sentinel:"), steady=steady_clock())


async def test_the_primary_among_replicas_is_found_and_followed() -> None:
    with running() as a, running("--replicaof", f"127.0.0.1 {a.port}") as b:
        wire = Wire(f"redis://127.0.0.1:{b.port},127.0.0.1:{a.port}?socket_timeout={PATIENCE}", "m", replicas=1)
        await wire.open()
        assert wire.primary.place == ("127.0.0.1", a.port)
        store = ValkeyStore(wire, "m")
        wait_until(lambda: b.ask("ROLE")[3] == b"connected")
        await put(store, delivery("d"))
        a.stop()
        with pytest.raises(Failed):
            await put(store, delivery("e"))
        assert wire.away is not None
        await until(lambda: "replica" in str(wire.away))
        b.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: wire.away is None)
        assert wire.primary.place == ("127.0.0.1", b.port)
        assert await due(store, NOW) == ["d"]  # a replica had it, and has it now
        with pytest.raises(Failed, match="0 of the 1 replicas"):
            await put(store, delivery("e"))
        a.start()
        with pytest.raises(NoPrimary, match="call themselves primaries"):
            await wire.primary.find()
        a.ask("REPLICAOF", "127.0.0.1", b.port)
        wait_until(lambda: a.ask("ROLE")[:1] == [b"slave"] and a.ask("ROLE")[3] == b"connected")
        await wire.primary.find()
        await put(store, delivery("f"))
        assert await due(store, NOW) == ["d", "e", "f"]
        await wire.close()


async def test_as_many_replicas_as_are_asked_for_must_be_there(valkey: Server) -> None:
    with pytest.raises(StoreError, match="has 0 replicas"):
        await Mesh.open(valkey.url, steady=steady_clock(), replicas=1)


async def test_a_slot_that_moves_to_another_master_is_followed() -> None:
    with cluster_node() as a, cluster_node() as b:
        a.ask("CLUSTER", "ADDSLOTSRANGE", *ALL_SLOTS)
        a.ask("CLUSTER", "MEET", "127.0.0.1", b.port, int(b.option("--cluster-port")))
        wait_until(lambda: all(b"cluster_state:ok" in server.ask("CLUSTER", "INFO") for server in (a, b)))
        wait_until(lambda: b.ask("CLUSTER", "NODES").count(b" connected") == 2)
        wire = Wire(b.url, "m")  # not the master of the slot, and it tells of it
        await wire.open()
        assert wire.primary.place == ("127.0.0.1", a.port)
        slot, of_a, of_b = key_slot(b"m"), a.ask("CLUSTER", "MYID"), b.ask("CLUSTER", "MYID")
        b.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", of_a)  # by that its word counts for more than that of the other
        a.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", of_b)
        for server in (b, a):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", of_b)
        store = ValkeyStore(wire, "m")
        with pytest.raises(Failed):
            await put(store, delivery("d"))
        await until(lambda: wire.away is None)
        assert wire.primary.place == ("127.0.0.1", b.port)
        await put(store, delivery("d"))
        assert await store.get(Delivery, "d") == delivery("d")
        await wire.close()


@pytest.mark.both_loops
async def test_a_server_behind_tls_is_trusted_by_its_authority_alone(valkey: Server) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", valkey.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while piece := await source.read(65536):
                target.write(piece)
            target.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(copy(reader, back), copy(there, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERT, CERT.with_name("tls-key.pem"))
    async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        mesh = await Mesh.open(f"rediss://{address}?ssl_ca_certs={CERT}", prefix="tls", steady=steady_clock())
        assert (await mesh.leads())[0]
        await mesh.close()
        with pytest.raises(StoreError, match=r"cannot read /nowhere/ca\.pem, the ssl_ca_certs of the address"):
            await Mesh.open(f"rediss://{address}?ssl_ca_certs=/nowhere/ca.pem", steady=steady_clock())
        for url in (f"rediss://{address}", f"redis://{address}"):
            with pytest.raises(StoreError, match="cannot be used"):
                await Mesh.open(url, steady=steady_clock())


@pytest.mark.parametrize("turns", range(5))
async def test_commits_under_way_fail_when_the_store_is_closed(valkey: Server, turns: int) -> None:
    wire = Wire(valkey.url, "closing")
    store = ValkeyStore(wire, "closing")
    works = [asyncio.ensure_future(put(store, delivery(f"{turns}"))), asyncio.ensure_future(store.get(Delivery, "x"))]
    for _ in range(turns):
        await asyncio.sleep(0)
    works[0].cancel()
    await asyncio.wait_for(wire.close(), 10)
    _, left = await asyncio.wait(works, timeout=PATIENCE)
    assert not left
    assert works[1].exception() is None or isinstance(works[1].exception(), Failed)
    with pytest.raises(Failed, match="closed"):
        await store.get(Delivery, "x")
