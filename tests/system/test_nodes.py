"""Nodes of one mesh that differ or die: clocks apart, versions apart, a lead that lapses, a websocket that is gone."""

from __future__ import annotations

import contextlib
from itertools import count

import msgspec
import pytest

from clawlink.domain.agent import Agent
from clawlink.relay.timestamps import steady_clock
from clawlink.store.base import Failed
from clawlink.store.events import Event
from clawlink.store.valkey.mesh import Mesh
from clawlink.store.valkey.store import LAYOUT
from clawlink.store.valkey.wire import Wire
from tests.conftest import UNPACED, Running, Serve
from tests.server.asks import NEWS, ok, poll, refused, send
from tests.server.sockets import path_of
from tests.system.raw import Clock
from tests.torture.network import CUT, OPEN, Network
from tests.valkey import Server, running
from tests.waiting import eventually, until
from tests.websockets import connected

_names = count()
_APART = 60.0


async def joined(server: Server, prefix: str, *, ahead: float = 0.0) -> Mesh:
    """Join a mesh on a machine whose clock is ahead."""
    steady = steady_clock()
    return await Mesh.open(server.url, prefix=prefix, steady=lambda: steady() + ahead)


async def leave(*nodes: Running) -> None:
    """Stop relays that joined a mesh by themselves."""
    for node in nodes:
        await node.session.close()
        await node.app.stop()
        assert node.app.mesh is not None
        await node.app.mesh.close()


async def test_clocks_that_are_apart_turn_no_order_and_end_no_lease(serve: Serve, valkey: Server) -> None:
    name = f"apart{next(_names)}"
    meshes = [await joined(valkey, name), await joined(valkey, name, ahead=_APART)]
    a, b = [await serve(mesh=mesh, limits=UNPACED) for mesh in meshes]
    before = meshes[0].clock()
    ahead = meshes[1].clock()
    assert before - _APART / 2 < ahead < meshes[0].clock() + _APART / 2
    for agent in ("mia", "otto"):
        await a.register(agent, agent_id=agent, notices=False)
    sent = [await send(relay, "otto", "mia", n) for n in range(4) for relay in (b, a)]
    first = (await poll(a, "mia", lease=_APART, max=4))["messages"]  # a lease as long as the clocks are apart
    rest = (await poll(b, "mia", lease=_APART, max=8))["messages"]
    got = [message["message_id"] for message in (*first, *rest) if message["type"] not in NEWS]
    assert got == sent
    await leave(a, b)


async def test_two_meshes_share_a_server_and_know_nothing_of_each_other(serve: Serve) -> None:
    a, b = [await serve(mesh=f"own{next(_names)}", limits=UNPACED) for _ in range(2)]
    for relay in (a, b):
        await relay.register("Mia", agent_id="mia", claim=True, notices=False)
    await a.register("otto", agent_id="otto", notices=False)
    found = await ok(b.get("/discover", params={"status": "all"}))
    assert {agent["agent_id"] for agent in found["agents"]} == {"mia"}


async def test_the_lead_of_a_relay_that_was_killed_lapses(valkey: Server) -> None:
    name = f"lead{next(_names)}"
    first, second = await joined(valkey, name), await joined(valkey, name)
    assert [(await first.leads())[0], (await second.leads())[0]] == [True, False]
    lasts = valkey.ask("PTTL", f"{{{name}}}:lead")
    assert 0 < lasts <= 10_000
    valkey.ask("PEXPIRE", f"{{{name}}}:lead", 1)  # as if it were over

    async def leads() -> bool:
        return (await second.leads())[0]

    await eventually(leads)
    assert not (await first.leads())[0]
    for mesh in (first, second):
        await mesh.close()


async def test_a_server_that_lost_its_records_has_the_same_mesh_again(caplog: pytest.LogCaptureFixture) -> None:
    with running("--appendonly", "no") as server:
        first, second = await joined(server, "kept"), await joined(server, "kept")
        server.stop()
        server.start()

        async def goes_on() -> bool:
            with contextlib.suppress(Failed):
                return bool(await second.leads())
            return False

        await eventually(goes_on)
        assert "has lost the records of this mesh" in caplog.text
        caplog.clear()
        await first.leads()
        third = await joined(server, "kept")
        assert first.secret == second.secret == third.secret
        assert "has lost" not in caplog.text
        assert (first.store.broken, second.store.broken) == (None, None)
        for mesh in (first, second, third):
            await mesh.close()


@pytest.mark.parametrize(("field", "value"), [("secret", "of-another-mesh"), ("layout", LAYOUT + 1)])
async def test_a_relay_leaves_a_mesh_that_became_another(valkey: Server, field: str, value: object) -> None:
    name = f"another{next(_names)}"
    mesh = await joined(valkey, name)
    await mesh.leads()
    valkey.ask("HSET", f"{{{name}}}:meta", field, value)
    with pytest.raises(Failed, match="another mesh or version"):
        await mesh.leads()
    assert mesh.store.broken is not None
    assert mesh.secret.decode() not in mesh.store.broken
    with pytest.raises(Failed, match="another mesh or version"):
        await mesh.store.get(Agent, "mia")
    assert mesh.away == mesh.store.broken
    await mesh.close()


async def test_messages_of_a_websocket_whose_relay_was_killed_are_due_at_another(serve: Serve, valkey: Server) -> None:
    name = f"killed{next(_names)}"
    meshes = [await joined(valkey, name) for _ in range(2)]
    later = Clock()
    a = await serve(mesh=meshes[0], limits=UNPACED)
    b = await serve(mesh=meshes[1], limits=UNPACED, clock=later)
    await a.register("mia", agent_id="mia", notices=False)
    await b.register("otto", agent_id="otto", notices=False)
    sent = await send(b, "otto", "mia")
    async with connected(a.session, a.url.replace("http", "ws") + path_of("mia", lease=60)) as socket:
        assert (await socket.frame())["message_id"] == sent
        await meshes[0].close()  # from now on the relay changes nothing: as one that was killed
    assert (await poll(b, "mia", lease=60))["messages"] == []
    later.skip(61)
    assert [message["message_id"] for message in (await poll(b, "mia", lease=60))["messages"]] == [sent]
    await leave(a, b)


async def test_records_of_a_later_version_are_refused_and_stay_as_they_are(serve: Serve, valkey: Server) -> None:
    relay = await serve(mesh=f"later{next(_names)}", limits=UNPACED)
    assert relay.app.mesh is not None
    for agent in ("mia", "otto"):
        await relay.register(agent, agent_id=agent, notices=False)
    sent = await send(relay, "otto", "mia")
    records = f"{relay.app.mesh.store.base}:r:delivery"
    wire = Wire(valkey.url)
    name, version, fields = msgspec.msgpack.decode(await wire.call("HGET", records, sent))
    later = msgspec.msgpack.encode((name, version + 1, fields))
    await wire.call("HSET", records, sent, later)
    await refused(relay.get(f"/messages/{sent}", params={"agent_id": "otto"}), 503, "store_unavailable")
    await refused(relay.get("/poll/mia", params={"lease": 60}), 503, "store_unavailable")
    assert await wire.call("HGET", records, sent) == later
    assert await send(relay, "mia", "otto")
    assert (await poll(relay, "otto", lease=60))["messages"]
    await wire.close()


async def test_events_that_could_not_be_sent_have_the_others_look_at_everything(valkey: Server) -> None:
    way, name = Network(), f"lost{next(_names)}"
    await way.start(valkey.port)
    teller = await Mesh.open(f"redis://127.0.0.1:{way.port}", prefix=name, steady=steady_clock())
    hearer = await joined(valkey, name)
    heard: list[object] = []
    await hearer.listen(heard.append, lambda: heard.append("missed"))
    await teller.listen(lambda event: None, lambda: None)
    assert heard == ["missed"]  # at the start
    teller.tell(Event("mia"))
    await until(lambda: heard == ["missed", Event("mia")])
    way.change(CUT)
    teller.tell(Event("eve"))
    await until(lambda: teller.away is not None)
    way.change(OPEN)
    await until(lambda: heard[2:] == ["missed"])
    for mesh in (teller, hearer):
        await mesh.close()
    await way.stop()
