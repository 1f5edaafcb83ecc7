"""A request that is refused or breaks off is freed at once: nothing waits for the garbage collector in a circle.

A request of 1 MB that is kept until the collector comes is memory that a storm of refusals fills.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Serve
from tests.system.raw import address, request
from tests.waiting import until

TIMES = int(os.environ.get("CLAWLINK_TEST_REFUSALS") or 300)
# Requests that stand on a connection at once, which is quicker than one at a time.
PIPELINED = 10
# A connection that ends leaves seven small objects of asyncio's own in a circle, and a wait that ends with it up to
# fourteen. None of them knows the request.
OF_A_CONNECTION = 21
pytestmark = pytest.mark.parametrize("store_kind", ["memory"], indirect=True)

TUS = {"Tus_Resumable": "1.0.0", "ClawLink_Agent": "a"}


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def ask(method: str, path: str, content: bytes = b"", **headers: str) -> bytes:
    return request(method, path, content, **headers)


REFUSED: dict[str, bytes] = {
    "a response to no task": ask("POST", "/respond", body(from_agent="a", message_id="no", result="x" * 1000)),
    "a response of nobody": ask("POST", "/respond", body(from_agent="no", message_id="no", receipt="x")),
    "no JSON": ask("POST", "/respond", b"{"),
    "a wrong field": ask("POST", "/respond", body(from_agent=1)),
    "deep JSON": ask("POST", "/respond", b"[" * 70),
    "a delegation to nobody": ask("POST", "/delegate", body(from_agent="a", to_agent="no", task="x")),
    "a message to nobody": ask("POST", "/send", body(from_agent="a", to_agent="no", content="x")),
    "a broadcast for no task": ask("POST", "/broadcast", body(from_agent="a", content="x", parent_task="no")),
    "no task cancelled": ask("POST", "/tasks/no/cancel", body(from_agent="a")),
    "no task answered": ask("POST", "/tasks/no/answer", body(from_agent="a", content="x")),
    "no task": ask("GET", "/tasks/no?agent_id=a"),
    "no message": ask("GET", "/messages/no?agent_id=a"),
    "no route": ask("GET", "/no"),
    "a wrong method": ask("PUT", "/register"),
    "no file": ask("GET", "/files/no"),
    "an old version": ask("PUT", "/blobs/k", b"abc", If_Match='"7"', ClawLink_Agent="a"),
    "no file deleted": ask("DELETE", "/files/no?agent_id=a"),
    "an upload of nothing": request("POST", "/uploads", b"", **TUS),
    "no upload": ask("PATCH", "/uploads/no", b"x", **TUS, Content_Type="application/offset+octet-stream"),
    "a name that is an id": ask("POST", "/register", body(agent_id="c", name="a")),
    "a mailbox of nobody": ask("GET", "/poll/no?lease=30"),
    "events of nobody": ask("GET", "/events/no"),
    "a websocket of nobody": ask("GET", "/ws/no?lease=30", Upgrade="websocket", Connection="Upgrade"),
    "no handshake": ask("GET", "/ws/a", Upgrade="websocket"),
    "another host": ask("GET", "/healthz").replace(b"127.0.0.1", b"evil.example"),
}

HANDSHAKE = request(
    "GET",
    "/ws/a?lease=30",
    Upgrade="websocket",
    Connection="Upgrade",
    Sec_WebSocket_Version="13",
    Sec_WebSocket_Key="eHh4eHh4eHh4eHh4eHh4eA==",
)
BROKEN_OFF: dict[str, bytes] = {
    "a poll": request("GET", "/poll/a?wait=30&lease=30"),
    "a stream of events": request("GET", "/events/a"),
    "half a header": b"GET /healthz HTTP/1.1\r\nHo",
    "no HTTP": b"NONSENSE\r\n\r\n",
    "half a body": ask("POST", "/send", body(from_agent="a", to_agent="a", content="x" * 100))[:-50],
    "half a file": ask("PUT", "/blobs/k", b"x" * 1000, ClawLink_Agent="a")[:-500],
    "half a refused file": ask("PUT", "/blobs/k", b"x" * 1000, If_Match='"7"', ClawLink_Agent="a")[:-500],
    "a wait for a file": request("GET", "/files/k/history?wait=20&agent_id=a"),
    "a websocket": HANDSHAKE,
    "a websocket that sends no frame": HANDSHAKE + b"\xff" * 20,
}

FRAMES: dict[str, str] = {
    "no JSON": "{",
    "an unknown type": '{"type":"x"}',
    "a response to no task": json.dumps({"type": "respond", "id": 1, "message_id": "no", "result": "x"}),
    "a broadcast for no task": json.dumps({"type": "broadcast", "id": 1, "content": "x", "parent_task": "no"}),
    "a field that is missing": json.dumps({"type": "send", "id": 1}),
}

# The answer has a result for each receipt, and its status is 200.
LOST_RECEIPTS: dict[str, bytes] = {
    f"{verb} of {count}": ask("POST", f"/{verb}", body(agent_id="a", receipts=["x-1", "y-2"][:count], **more))
    for verb, more in (("ack", {}), ("nack", {}), ("extend", {"lease": 30}))
    for count in (1, 2)
} | {
    "acks of no tasks": ask("POST", "/ack", body(agent_id="a", tasks=["x", "y"])),
    "a poll": ask("POST", "/poll/a", body(ack=["x-1", "y-2"], nack=["z-3", "z-4"])),
}


async def turns() -> None:
    """Have the loop do what is at hand: accept, read, close."""
    for _ in range(10):
        await asyncio.sleep(0)


async def in_circles(one: Callable[[], Awaitable[object]], times: int) -> tuple[int, Counter[str]]:
    """Do it many times, and return how many objects are left, and which.

    Those are the objects that a collection finds in circles, and those in circles through objects that it does not see.
    """
    tasks = len(asyncio.all_tasks())

    async def quiet() -> None:
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await turns()

    for _ in range(3):
        await one()
    await quiet()
    gc.collect()
    gc.freeze()  # what is there already need not be looked through, now or before the next kind of request
    gc.disable()
    try:
        for _ in range(times):
            await one()
        await quiet()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = gc.get_objects()
        return len(left), Counter(type(thing).__name__ for thing in left)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.fixture
async def at(serve: Serve) -> tuple[str, int]:
    """Return the address of a relay with one agent."""
    relay = await serve(limits={"rate_agent": 0.0, "rate_pair": 0.0, "rate_files": 0.0})
    await relay.register("Ann", agent_id="a")
    return address(relay.url)


async def circles_of(at: tuple[str, int], asks: dict[str, bytes], status: bytes = b"4") -> dict[str, Any]:
    """Send each of these requests many times; return those that leave objects in circles, and which.

    The statuses of all answers begin with ``status``.
    """
    reader, writer = await asyncio.open_connection(*at)
    left = {}
    for what, data in asks.items():

        async def refused(data: bytes = data, what: str = what) -> None:
            writer.write(data * PIPELINED)
            for _ in range(PIPELINED):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head[9:10] == status, (what, head)
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))

        count, kinds = await in_circles(refused, TIMES // PIPELINED)
        if count >= TIMES:
            left[what] = (count, kinds.most_common(5))
    writer.close()
    return left


async def test_a_refused_request_leaves_no_circle(at: tuple[str, int]) -> None:
    left = await circles_of(at, REFUSED)
    assert not left, left


async def test_a_lost_receipt_leaves_no_circle(at: tuple[str, int]) -> None:
    left = await circles_of(at, LOST_RECEIPTS, b"2")
    assert not left, left


async def test_what_breaks_off_leaves_no_circle_of_ours(at: tuple[str, int]) -> None:
    left = {}
    times = TIMES // 10
    for what, data in BROKEN_OFF.items():
        turn = 0

        async def broken_off(data: bytes = data) -> None:
            nonlocal turn
            one = socket.create_connection(at)
            one.sendall(data)
            await turns()
            turn += 1
            if turn % 2:  # a reset
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            await turns()

        count, kinds = await in_circles(broken_off, times)
        if kinds["Request"] > times // 3 or count >= times * (OF_A_CONNECTION + 1):
            left[what] = (count, kinds.most_common(8))
    assert not left, left


async def test_a_refused_frame_leaves_no_circle(serve: Serve) -> None:
    relay = await serve()
    await relay.register("Ann", agent_id="a")
    left = {}
    async with relay.session.ws_connect(f"{relay.url}/ws/a?lease=30") as peer:
        for what, frame in FRAMES.items():

            async def refused(frame: str = frame, what: str = what) -> None:
                await peer.send_str(frame)
                answer = json.loads((await peer.receive()).data)
                assert answer["type"] == "error", (what, answer)

            count, kinds = await in_circles(refused, TIMES)
            if count >= TIMES:
                left[what] = (count, kinds.most_common(5))
    assert not left, left
