"""Count what one request passes: opcodes of Python, and calls and files of the relay's own.

Run as ``python -m tests.bench.opcodes``, with names of flows to count those alone, and with ``--calls`` to list the
calls in their order. The figures do not depend on the other work of the machine. The event loop, the relay's upkeep and
C code do not count. Each time that a coroutine goes on counts as a call.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

import clawlink
from clawlink.config import ServerConfig
from clawlink.server.app import App
from tests.system.raw import Answer, Connection, connect, request

_OWN = str(Path(clawlink.__file__).parent)
_LOOPS = (str(Path(asyncio.__file__).parent), "selectors.py", "_weakrefset.py")
_UPKEEP = ("_tend", "_sweep")
_TUS = {"Tus_Resumable": "1.0.0", "ClawLink_Agent": "ann"}
_WARM = 3  # repetitions before the counted one: caches are filled by then
_SETTLE_SECONDS = 0.2


class Counter:
    """Counts in the thread of the relay's event loop, from ``start`` to ``stop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.opcodes = 0
        self.calls: list[str] = []
        """The calls, each as its function, file and line, indented by the number of own calls around it."""
        self.files: set[str] = set()

    def start(self) -> None:
        """Begin to count."""
        self._loop.call_soon_threadsafe(sys.settrace, self._enter)

    def stop(self) -> None:
        """End."""
        self._loop.call_soon_threadsafe(sys.settrace, None)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if any(part in name for part in _LOOPS) or _is_upkeep(frame):
            return None
        if name.startswith(_OWN):
            code, depth = frame.f_code, _depth(frame)
            self.calls.append(f"{'  ' * depth}{code.co_name}  {name[len(_OWN) + 1 :]}:{code.co_firstlineno}")
            self.files.add(name)
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        self.opcodes += event == "opcode"
        return self._step


def _depth(frame: FrameType) -> int:
    """Return how many calls of the relay's own are around this one."""
    depth, around = 0, frame.f_back
    while around is not None:
        depth += around.f_code.co_filename.startswith(_OWN)
        around = around.f_back
    return depth


def _is_upkeep(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in _UPKEEP:
            return True
        frame = frame.f_back
    return False


async def ask(connection: Connection, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Ask in one piece, and return the answer. Raises AssertionError for a refusal."""
    answer = await connection.ask(request(method, path, body, **headers))
    assert answer.status < 300, answer.body
    return answer


class Flow:
    """The two agents ``ann`` and ``bob`` at a relay, and the steps that are counted."""

    def __init__(self, url: str, anns: Connection, bobs: Connection, counter: Counter) -> None:
        self.url = url
        self.anns = anns
        self.bobs = bobs
        self.counter = counter

    async def post(self, path: str, **body: Any) -> Any:
        """Post JSON and return the reply."""
        return (await ask(self.anns, "POST", path, json.dumps(body).encode())).json

    async def poll(self, wait: float = 0) -> Any:
        """Poll as ``bob``."""
        return (await ask(self.bobs, "GET", f"/poll/bob?lease=60&wait={wait:g}")).json

    async def delegate(self) -> None:
        """Delegate a task of some 500 bytes."""
        await self.post("/delegate", from_agent="ann", to_agent="bob", task="x" * 400, context={"a": 1})

    async def counted(self, step: Callable[[], Awaitable[Any]], *, counts: bool) -> Any:
        """Take a step, with all that the relay does for it soon after."""
        if counts:
            self.counter.start()
        done = await step()
        if counts:
            await asyncio.sleep(_SETTLE_SECONDS)
            self.counter.stop()
        return done


async def _delegation(flow: Flow, counts: bool) -> None:
    await flow.counted(flow.delegate, counts=counts)


async def _waiting_poll(flow: Flow, counts: bool) -> None:
    poll = asyncio.create_task(flow.poll(20))
    await asyncio.sleep(_SETTLE_SECONDS)

    async def step() -> Any:
        await flow.delegate()
        return await poll

    polled = await flow.counted(step, counts=counts)
    await flow.post("/ack", agent_id="bob", receipts=[lease["receipt"] for lease in polled["deliveries"]])


async def _ack(flow: Flow, counts: bool) -> None:
    await flow.delegate()
    polled = await flow.poll()
    receipts = [lease["receipt"] for lease in polled["deliveries"]]
    await flow.counted(lambda: flow.post("/ack", agent_id="bob", receipts=receipts), counts=counts)


async def _websocket(flow: Flow, counts: bool) -> None:
    url = flow.url.replace("http", "ws", 1)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws/ann?lease=60") as ann,
        session.ws_connect(f"{url}/ws/bob?lease=60") as bob,
    ):

        async def step() -> None:
            await ann.send_json({"type": "send", "id": 1, "to_agent": "bob", "content": "x" * 100})
            await ann.receive_json()
            message = await bob.receive_json()
            await bob.send_json({"type": "ack", "id": 1, "receipts": [message["delivery"]["receipt"]]})
            await bob.receive_json()

        await asyncio.sleep(_SETTLE_SECONDS)
        await step()
        await asyncio.sleep(_SETTLE_SECONDS)
        await flow.counted(step, counts=counts)


async def _file(flow: Flow, counts: bool) -> None:
    content = bytes(10_000)
    key = base64.b64encode(b"counted" if counts else b"warm").decode()

    async def step() -> None:
        metadata = {"Upload_Length": str(len(content)), "Upload_Metadata": f"key {key}"}
        address = (await ask(flow.anns, "POST", "/uploads", b"", **_TUS, **metadata)).headers["location"]
        part = {"Upload_Offset": "0", "Content_Type": "application/offset+octet-stream"}
        await ask(flow.anns, "PATCH", urlsplit(address).path, content, **_TUS, **part)
        assert (await ask(flow.bobs, "GET", f"/blobs/{base64.b64decode(key).decode()}")).body == content

    await flow.counted(step, counts=counts)


FLOWS: dict[str, Callable[[Flow, bool], Awaitable[None]]] = {
    "delegation": _delegation,
    "waiting-poll": _waiting_poll,
    "ack": _ack,
    "websocket": _websocket,
    "file": _file,
}


async def _act(name: str, url: str, counter: Counter) -> None:
    flow = Flow(url, await connect(url), await connect(url), counter)
    for agent in ("ann", "bob"):
        await flow.post("/register", agent_id=agent, name=agent)
    for _ in range(_WARM):
        await FLOWS[name](flow, False)
    for agent in ("ann", "bob"):  # else the counted request may have to record a sign of life
        await flow.post("/heartbeat", agent_id=agent)
    await FLOWS[name](flow, True)
    flow.anns.close()
    flow.bobs.close()


async def count(name: str) -> Counter:
    """Count a flow at a relay of its own, in this thread. Its clients act in another."""
    app = App(ServerConfig(host="127.0.0.1", port=0))
    port = await app.start()
    loop = asyncio.get_running_loop()
    counter = Counter(loop)
    await loop.run_in_executor(None, lambda: asyncio.run(_act(name, f"http://127.0.0.1:{port}", counter)))
    await app.stop()
    return counter


def main() -> None:
    """Count the named flows, or all of them."""
    names = [word for word in sys.argv[1:] if word != "--calls"]
    for name in names or FLOWS:
        counter = asyncio.run(count(name))
        calls, files = len(counter.calls), len(counter.files)
        print(f"{name}: {counter.opcodes} opcodes, {calls} calls and {files} files of its own")
        if "--calls" in sys.argv:
            print("\n".join(counter.calls))


if __name__ == "__main__":
    main()
