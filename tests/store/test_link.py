"""The connection to a server: its replies are read as they come, and its end fails what is unanswered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clawlink.store.base import Failed
from clawlink.store.valkey.wire import Wire
from tests.valkey import Server, program
from tests.waiting import PATIENCE, until


@contextlib.asynccontextmanager
async def answering(reply: bytes, seconds: float) -> AsyncIterator[str]:
    """Run a server that says OK to each command but ECHO, and give its address with the seconds of its timeout."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(reply if b"ECHO" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}?socket_timeout={seconds}"


@pytest.mark.both_loops
async def test_a_reply_that_is_none_or_that_does_not_come_is_a_failure() -> None:
    for reply, seconds, said in (
        (b"?what\r\n", PATIENCE, "Protocol error"),
        (b"", 1, "did not answer in time"),
        (b"$9\r\nhal", 1, "in time"),
    ):
        async with answering(reply, seconds) as url:
            wire = Wire(url)
            assert await wire.call("PING") == b"OK"
            with pytest.raises(Failed, match=said):
                await wire.call("ECHO", "x", again=False)
            assert wire.away is not None, reply
            await wire.close()


@pytest.mark.both_loops
async def test_a_server_that_hangs_up_in_the_handshake_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.store.valkey.wire._PROBE_SECONDS", 0.001)
    hangs_up, met, there = False, 0, 0
    info = b"role:master\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met, there
        there += 1
        while not hangs_up and (data := await reader.read(65536)):
            writer.write(
                b"$%d\r\n%b\r\n" % (len(info), info) if b"\r\nINFO\r\n" in data else b"+OK\r\n" * data.count(b"*")
            )
        for _ in range(met % 8):  # at another step of the handshake each time
            await asyncio.sleep(0)
        met += hangs_up
        writer.transport.abort()
        there -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        wire = Wire(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/3")
        await wire.open()
        assert wire.away is None
        hangs_up = True
        with pytest.raises(Failed):
            await wire.call("PING")
        await until(lambda: met >= 32)  # while it is away
        assert wire.away is not None
        hangs_up = False
        await until(lambda: wire.away is None)
        assert await wire.call("PING") == b"OK"
        await wire.close()
        await until(lambda: not there)
        await asyncio.sleep(0)  # the last connection is lost in the next turn


@pytest.mark.both_loops
@pytest.mark.skipif(program() is None, reason="there is no valkey-server here")
async def test_many_replies_come_in_the_order_of_their_commands_and_a_refusal_is_that_of_one(valkey: Server) -> None:
    wire = Wire(valkey.url)
    large = b"x" * 300_000
    asked = [wire.begin("ECHO", large if n == 7 else f"{n}") for n in range(300)]
    refused = wire.begin("NOSUCH", "command")
    unsendable = wire.begin("ECHO", object())
    found = await asyncio.gather(*asked, return_exceptions=True)
    wrong = [n for n, answer in enumerate(found) if answer != (large if n == 7 else b"%d" % n)]
    assert wrong == list(range(256, 300))  # the rest of the batch with a word that cannot be sent
    assert all(isinstance(found[n], Failed) for n in wrong)
    for answer, why in ((refused, "not asked"), (unsendable, "not asked")):
        with pytest.raises(Failed, match=why):
            await answer
    refused, after = wire.begin("NOSUCH", "command"), wire.begin("ECHO", "after")
    with pytest.raises(Failed, match="unknown command"):
        await refused
    assert await after == b"after"
    assert wire.away is None
    await wire.close()


@pytest.mark.skipif(program() is None, reason="there is no valkey-server here")
async def test_what_is_under_way_at_the_close_fails(valkey: Server) -> None:
    wire = Wire(valkey.url)
    await wire.call("PING")
    asked = [wire.begin("BLPOP", "nothing", 5, again=True), wire.begin("PING", again=True)]
    await asyncio.sleep(0)
    await wire.close()
    for answer in (*asked, wire.begin("PING")):
        with pytest.raises(Failed):
            await answer


@pytest.mark.both_loops
async def test_a_close_that_fails_leaves_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    there = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        there += 1
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(b"+OK\r\n" * data.count(b"*"))
        there -= 1
        writer.close()

    connections: list[Any] = []

    async def fail(connection: Any, **options: object) -> None:
        connections.append(connection)
        raise AttributeError("its telemetry is broken")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        wire = Wire(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.setattr("redis.asyncio.connection.AbstractConnection.disconnect", fail)
        link = await wire.link()
        await until(lambda: there == 1)
        await link.close()
        await until(lambda: not there)
        monkeypatch.undo()
        for connection in connections:
            await connection.disconnect(nowait=True)
        await wire.close()
