"""Measure messages over websockets."""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import msgspec

from clawlink.bench.load import measure
from clawlink.bench.scenarios import BODY_BYTES, BenchFailed, Relay, Row, names_for, others_wait, p99, pings
from clawlink.bench.servers import Server, allow_connections
from clawlink.bench.sockets import Socket, open_socket

# How many senders and as many receivers, and how many messages are on their way from each at any moment.
LOADS = ((32, 1), (8, 64))
PACE = 1000  # messages a second where latency is measured
IDLE = 2000
LARGE, LARGE_BYTES = 1000, 100_000
_CREDIT = 200
# Until what was on its way at the end has been acked.
_LAST_SECONDS = 0.2
_LOOK_SECONDS = 0.05
_RECEIPT = re.compile(rb'"receipt":"([^"]+)"')


def _message(to: str, content: str) -> bytes:
    return msgspec.json.encode({"type": "send", "id": 1, "to_agent": to, "content": content})


def _filled(to: str) -> bytes:
    return _message(to, "x" * (BODY_BYTES - len(_message(to, ""))))


def _is_reply(frame: bytes) -> bool:
    if frame.startswith(b'{"type":"error"'):
        raise BenchFailed(f"the relay refused a frame: {frame.decode(errors='replace')}")
    return frame.startswith(b'{"type":"reply"')


def _heed(_: Socket, frames: list[bytes]) -> None:
    for frame in frames:
        _is_reply(frame)


def _receipt(frame: bytes) -> bytes:
    found = _RECEIPT.search(frame, max(0, len(frame) - 300))
    if found is None:
        raise BenchFailed(f"a message came without a receipt: {frame.decode(errors='replace')}")
    return found[1]


def _ack(receipts: list[bytes]) -> bytes:
    return b'{"type":"ack","id":1,"receipts":["%b"]}' % b'","'.join(receipts)


@contextmanager
def _spinning() -> Iterator[None]:
    """Never sleep: on a virtual machine the server would pay for waking us, the more the slower it is."""
    loop = asyncio.get_running_loop()
    spins = True

    def spin() -> None:
        if spins:
            loop.call_soon(spin)

    spin()
    try:
        yield
    finally:
        spins = False


async def messages(
    relay: Relay, floor: Server | None, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Messages a second that are sent, delivered and acked over websockets, of as many bare echoes on their way.

    Each is a frame in and its reply, a frame out, and an ack and its reply. The floor that only passes frames on shows
    the cost of this alone, with aiohttp's own websockets.
    """
    rows = []
    for pairs, depth in LOADS:
        senders, receivers = names_for("sender", pairs), names_for("receiver", pairs)
        await relay.register([*senders, *receivers])
        rates, passed, ratios, most = [], [], [], []
        for turn in range(rounds):
            say(f"messages over websockets, {pairs} x {depth} on their way, round {turn + 1} of {rounds}")
            rates.append(await _exchange(relay.server.url, relay.token, senders, receivers, depth, seconds))
            if floor is not None:
                base = await _echoes(floor, pairs, depth, seconds)
                passed.append(await _exchange(floor.url, None, senders, receivers, depth, seconds))
                ratios.append(rates[-1] / base)
                most.append(passed[-1] / base)
        await relay.leave([*senders, *receivers])
        load = f"{pairs} x {depth} on their way"
        ratio = statistics.median(ratios) if ratios else None
        what = f"messages over websockets, {load}: send, deliver, ack; of a bare echo"
        rows.append(Row(what, statistics.median(rates), "a second", ratio))
        if passed:
            what = f"the same frames only passed on, {load}; of a bare echo"
            rows.append(Row(what, statistics.median(passed), "a second", statistics.median(most)))
    return rows


async def _echoes(floor: Server, pairs: int, depth: int, seconds: float) -> float:
    body, heard, running = _filled("bench-receiver-0000"), 0, True

    def again(socket: Socket, frames: list[bytes]) -> None:
        nonlocal heard
        heard += len(frames)
        if running:
            for _ in frames:
                socket.send(body)

    sockets = [await open_socket(floor.url, "/echo", again) for _ in range(pairs)]
    with _spinning():
        started = time.perf_counter()
        for socket in sockets * depth:
            socket.send(body)
        await measure(seconds, lambda: heard)
        rate = heard / (time.perf_counter() - started)
        running = False
    await asyncio.sleep(_LAST_SECONDS)
    await _close(sockets)
    return rate


async def _exchange(
    url: str, token: str | None, senders: list[str], receivers: list[str], depth: int, seconds: float
) -> float:
    bodies = itertools.cycle([_filled(name) for name in receivers])
    acked, running = 0, True

    def replied(socket: Socket, frames: list[bytes]) -> None:
        for frame in frames:
            if _is_reply(frame) and running:
                socket.send(next(bodies))

    def received(socket: Socket, frames: list[bytes]) -> None:
        nonlocal acked
        receipts = []
        for frame in frames:
            if _is_reply(frame):
                acked += frame.count(b'"status":"acked"')
            else:
                receipts.append(_receipt(frame))
        if receipts:
            socket.send(_ack(receipts))

    query = f"?lease=60&credit={_CREDIT}"
    takers = [await open_socket(url, f"/ws/{name}{query}", received, token) for name in receivers]
    givers = [await open_socket(url, f"/ws/{name}{query}", replied, token) for name in senders]
    with _spinning():
        started = time.perf_counter()
        for socket in givers * depth:
            socket.send(next(bodies))
        await measure(seconds, lambda: acked)
        rate = acked / (time.perf_counter() - started)
        running = False
    await asyncio.sleep(_LAST_SECONDS)
    await _close([*givers, *takers])
    return rate


async def latency(
    relay: Relay,
    *,
    seconds: float,
    say: Callable[[str], None],
    pace: int = PACE,
    to: Relay | None = None,
    spins: bool = True,
) -> list[Row]:
    """From a frame's leaving one socket to the message's arrival at another, at 1,000 messages a second.

    The other socket is at the relay ``to`` if that is given. The load ``spins`` where it has a core to itself.
    """
    sender, receiver = names_for("pacer", 2)
    await relay.register([sender, receiver])
    say(f"{pace} messages a second over websockets")
    left: dict[int, float] = {}
    delays: list[float] = []

    def received(socket: Socket, frames: list[bytes]) -> None:
        now = time.perf_counter()
        receipts = []
        for frame in frames:
            if not _is_reply(frame):
                receipts.append(_receipt(frame))
                delays.append(now - left.pop(msgspec.json.decode(frame)["content"]))
        if receipts:
            socket.send(_ack(receipts))

    url, token = relay.server.url, relay.token
    taker = await open_socket((to or relay).server.url, f"/ws/{receiver}?lease=60&credit={_CREDIT}", received, token)
    giver = await open_socket(url, f"/ws/{sender}?lease=60", _heed, token)
    with _spinning() if spins else nullcontext():
        started = time.perf_counter()
        for number in range(int(pace * seconds)):
            await _until(started + number / pace, spins=spins)
            left[number] = time.perf_counter()
            giver.send(msgspec.json.encode({"type": "send", "id": 1, "to_agent": receiver, "content": number}))
        await _until(started + seconds + 5, lambda: not left, spins=spins)
    await _close([giver, taker])
    await relay.leave([sender, receiver])
    return [
        Row(f"from one websocket to another at {pace} a second, p50", statistics.median(delays) * 1000, "ms"),
        Row(f"from one websocket to another at {pace} a second, p99", p99(delays) * 1000, "ms"),
    ]


async def _until(at: float, done: Callable[[], bool] = lambda: False, *, spins: bool) -> None:
    """Look whether it is done or the time is over: with ``spins`` at every turn of the loop, for a sleep ends late."""
    while (left := at - time.perf_counter()) > 0 and not done():  # noqa: ASYNC110
        await asyncio.sleep(0 if spins else min(left, _LOOK_SECONDS))


async def idle(relay: Relay, *, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """2,000 websockets that are open and silent: what each costs, and what they do to others."""
    number = allow_connections(IDLE)
    names = names_for("idle", 100)
    await relay.register(names)
    sockets: list[Socket] = []

    async def open_them() -> None:
        say(f"{number} idle websockets")
        for i in range(number):
            path = f"/ws/{names[i % len(names)]}?lease=60"
            sockets.append(await open_socket(relay.server.url, path, lambda _, __: None, relay.token))
            if i % 100 == 99:
                await asyncio.sleep(0.01)

    rows = await others_wait(relay, open_them, "idle websocket", number, seconds)
    await _close(sockets)
    await relay.leave(names)
    return rows


async def stuck(relay: Relay, *, say: Callable[[str], None]) -> list[Row]:
    """100 MB for a websocket whose peer does not read: what others notice, beside as much for one that only polls."""
    sender, absent, deaf = names_for("stuck", 3)
    await relay.register([sender, absent, deaf])
    asker = await relay.open()

    async def fill(name: str) -> None:
        body = {"from_agent": sender, "to_agent": name, "content": "x" * LARGE_BYTES}
        request = relay.request("POST", "/send", body)
        for _ in range(LARGE):
            status, answer = await asker.ask(request)
            if status != 200:
                raise BenchFailed(f"POST /send: {answer.decode(errors='replace')}")

    say(f"{LARGE} large messages for one that polls")
    before = relay.server.memory()
    beside_poller = await pings(relay, fill(absent))
    between = relay.server.memory()
    socket = await open_socket(relay.server.url, f"/ws/{deaf}?lease=60&credit=1000", _heed, relay.token)
    socket.transport.pause_reading()
    say(f"{LARGE} large messages for one that does not read")
    beside_deaf = await pings(relay, fill(deaf))
    after = relay.server.memory()
    await _close([socket])
    await asker.close()
    await relay.leave([sender, absent, deaf])
    rows = [
        Row("another request beside 100 MB for one that polls, p99", p99(beside_poller) * 1000, "ms"),
        Row("another request beside 100 MB for one that does not read, p99", p99(beside_deaf) * 1000, "ms"),
    ]
    if before is not None and between is not None and after is not None:
        more = (after - between) - (between - before)
        rows.append(Row("memory that one who does not read takes beside its messages", more / 1e6, "MB"))
    return rows


async def _close(sockets: list[Socket]) -> None:
    for socket in sockets:
        socket.transport.abort()
    await asyncio.gather(*(socket.closed for socket in sockets))
