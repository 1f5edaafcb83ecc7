"""Replies that peers do not read: counted by reply, address and relay, given up in time, and never kept for ever."""

from __future__ import annotations

import asyncio
import base64
import select
import socket
import ssl
from pathlib import Path

import pytest

from clawlink.domain.limits import MAX_JSON_FILE_BYTES, MIB, Limits
from clawlink.errors import RelayFull
from clawlink.server.flow import UnreadReplies, has_gone
from tests.conftest import Running, Serve
from tests.server import blobs
from tests.server.asks import refused
from tests.system.raw import Connection, connect, exchange, request
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.both_loops

SMALL = Limits(max_unread_reply=10, max_unread_address=15, max_unread_total=20)


def test_bytes_are_counted_by_reply_address_and_relay() -> None:
    unread = UnreadReplies(SMALL)
    with unread.hold("192.0.2.1", 10), unread.hold("2001:db8::1", 5):
        for address, size, actual, limit, flag in (
            ("192.0.2.9", 11, 11, 10, "--max-unread-reply"),
            ("192.0.2.1", 6, 16, 15, "--max-unread-address"),
            ("192.0.2.2", 6, 21, 20, "--max-unread-total"),
            (None, 6, 21, 20, "--max-unread-total"),
        ):
            with pytest.raises(RelayFull) as told, unread.hold(address, size):
                pass
            error = told.value
            assert (error.actual, error.limit, error.retry_after) == (actual, limit, 5.0), address
            assert flag in error.message
        with unread.hold("192.0.2.1", 5):
            assert unread.total == 20
        with pytest.raises(KeyError), unread.hold(None, 5):
            raise KeyError
    assert unread.total == 0
    with unread.hold("192.0.2.1", 10):
        pass


async def file_of(relay: Running, key: str, size: int, content: bytes = b"") -> bytes:
    """Store a file of this size and return what it has."""
    await relay.register("a", agent_id="a")
    data = content * (size // len(content)) if content else blobs.some(size)
    await blobs.saved(relay, key, data)
    return data


async def unread(relay: Running, key: str, *, version: str = "1.1") -> Connection:
    """Ask for a file as JSON, read the first bytes of the answer, and nothing more."""
    connection = await connect(relay.url, receive_buffer=4096)
    asked = request("GET", f"/files/{key}").replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    await connection.send(asked)
    assert (await asyncio.wait_for(connection.reader.readexactly(12), PATIENCE)).endswith(b" 200")
    return connection


async def test_replies_that_nobody_reads_are_bounded_and_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = await serve(limits={"max_unread_address": 16 * MIB})
    data = await file_of(relay, "big", 5 * MIB)
    opened = [await unread(relay, "big", version=version) for version in ("1.1", "1.0")]
    told = await refused(relay.get("/files/big"), 429, "relay_full")
    assert told["limit"] == 16 * MIB
    assert told["actual"] > told["limit"]
    assert (await relay.get("/healthz"))[0] == 200  # small replies go on
    for connection in opened:
        connection.reset()

    async def read() -> bool:
        status, body = await relay.get("/files/big")
        return status == 200 and base64.b64decode(body["content"]) == data

    await eventually(read)
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 0.2)
    stuck = [await unread(relay, "big", version=version) for version in ("1.1", "1.0")]
    others = relay.app.connections - len(stuck)

    async def given_up() -> bool:
        return relay.app.connections <= others

    await eventually(given_up)
    for connection in stuck:
        connection.close()


async def test_a_peer_that_asks_on_and_reads_nothing_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 0.2)
    relay = await serve()
    before = relay.app.connections
    connection = await connect(relay.url, receive_buffer=4096)

    async def ask_on() -> None:
        while not connection.writer.is_closing():  # until the relay reads no more, or resets the connection
            await connection.send(request("GET", "/openapi.json") * 20)

    asking = asyncio.create_task(ask_on())

    async def connected() -> bool:
        return relay.app.connections > before

    async def given_up() -> bool:
        return relay.app.connections <= before

    try:
        await eventually(connected)
        await eventually(given_up)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        connection.close()


async def test_a_file_as_json_is_exact_in_every_encoding(serve: Serve) -> None:
    relay = await serve()
    await relay.register("a", agent_id="a")
    for number, (content, encoding) in enumerate(
        (
            (b"", "utf-8"),
            (b'{"content":"}\\"\x00\x1f\r\n', "utf-8"),
            ("é\u2028\U0001f600".encode() * 60_000, "utf-8"),  # characters lie across the parts
            (b"\x00" * 600_000, "utf-8"),
            (b"x" * 262_143 + "é".encode()[:1], "base64"),
            (b"\xff" * 262_144, "base64"),
            (blobs.some(1_000_001), "base64"),
        )
    ):
        key = f'k"content":"{number}'
        await blobs.saved(relay, key, content)
        for version in ("1.1", "1.0"):
            asked = request("GET", blobs.path(key, of="files")).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
            body = (await exchange(relay.url, asked)).json
            assert (body["file_key"], body["encoding"], body["size"]) == (key, encoding, len(content)), key
            found = body["content"].encode() if encoding == "utf-8" else base64.b64decode(body["content"])
            assert found == content, key


async def test_a_file_that_is_too_large_for_json_is_told_where_it_is(serve: Serve) -> None:
    relay = await serve()
    await file_of(relay, "a/b c", MAX_JSON_FILE_BYTES + 1, b"x")
    told = await refused(relay.get("/files/a%2Fb%20c"), 413, "too_large")
    assert (told["limit"], told["actual"]) == (MAX_JSON_FILE_BYTES, MAX_JSON_FILE_BYTES + 1)
    assert told["current"] == "/blobs/a%2Fb%20c"
    async with relay.session.get(relay.url + told["current"]) as response:
        assert len(await response.read()) == MAX_JSON_FILE_BYTES + 1


async def test_the_loop_is_free_between_the_parts_of_a_large_file(serve: Serve) -> None:
    relay = await serve()
    await file_of(relay, "big", MAX_JSON_FILE_BYTES, b"\x01")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    file, _ = await relay.app.relay.file_reads.find("big")
    async with relay.app.relay.file_reads.open(file, file.newest, "b") as opened:
        counting = asyncio.create_task(count())
        parts = await relay.app.relay.file_reads.as_json(file, opened)
        counting.cancel()
    assert max(map(len, parts)) <= 256 * 1024 * 6, "no part is longer than 256 KiB of the file"
    assert turns >= 2 * MAX_JSON_FILE_BYTES // (256 * 1024)


async def test_a_connection_has_gone_before_its_tls_cannot_tell_its_bytes() -> None:
    data = Path(__file__).parent.parent / "data"
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(data / "tls-cert.pem", data / "tls-key.pem")
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    made: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    async with await asyncio.start_server(lambda _, writer: made.put_nowait(writer), "127.0.0.1", 0, ssl=own) as server:
        _, peer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=trusting)
        writer = await made.get()  # Python 3.14 closes a connection whose writer is gone
        transport = writer.transport
        assert not has_gone(transport)
        peer.transport.abort()

        async def gone() -> None:
            while not has_gone(transport):
                transport.get_write_buffer_size()
                await asyncio.sleep(0)

        await asyncio.wait_for(gone(), 10)
        assert has_gone(None)
        transport.abort()


def _taken_unread() -> int:
    """Return how many bytes the system takes for a peer that reads nothing, as ``unread`` connects."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(server.getsockname())
        sender, _ = server.accept()
        with sender:
            sender.setblocking(False)
            taken = 0
            while True:
                try:
                    taken += sender.send(bytes(64 * 1024))
                except BlockingIOError:
                    if not select.select((), (sender,), (), 0.2)[1]:
                        return taken


async def test_the_end_of_a_last_reply_is_given_up_if_nobody_reads_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is so short that the relay does not wait for it, and ends the connection once it is written."""
    monkeypatch.setattr("clawlink.server.flow.IDLE_BODY_SECONDS", 0.2)
    relay = await serve()
    taken = await asyncio.get_running_loop().run_in_executor(None, _taken_unread)
    await file_of(relay, "first", 1)
    sizes = [taken + more * 1024 for more in range(-128, 129, 16)]
    for size in sizes:
        await blobs.saved(relay, f"of-{size}", bytes(size))
    before = relay.app.connections
    opened = []
    for size in sizes:
        connection = await connect(relay.url, receive_buffer=4096)
        await connection.send(request("GET", f"/blobs/of-{size}").replace(b"HTTP/1.1", b"HTTP/1.0"))
        opened.append(connection)

    async def given_up() -> bool:
        return relay.app.connections <= before

    await eventually(given_up)
    for connection in opened:
        connection.close()
