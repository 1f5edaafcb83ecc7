"""The floor: a bare aiohttp application that answers bodies, echoes, passes frames on, reads and hashes, or writes.

The difference to this is the relay's own cost. Run as ``python -m clawlink.bench.floor --port 0``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
from typing import Any

import msgspec
from aiohttp import web

_PATH = "/delegate"
_ECHO = "/echo"
_PASSED_ON = "/ws/{name}"
_SINK = "/sink"
_SOURCE = "/source"
_PIECE = bytes(256 * 1024)


class _Body(msgspec.Struct):
    """The body of a delegation, decoded and not looked at."""

    from_agent: str
    to_agent: str
    task: str
    context: dict[str, Any] = {}
    priority: str = "normal"


class _Frame(msgspec.Struct):
    """A frame of a websocket that sends a message or acks some."""

    type: str
    id: int
    to_agent: str = ""
    content: Any = None
    receipts: list[str] = []


class _Answer(msgspec.Struct):
    status: str
    message_id: str


_decoder = msgspec.json.Decoder(_Body)
_frames = msgspec.json.Decoder(_Frame)
_encoder = msgspec.json.Encoder()
_peers: dict[str, web.WebSocketResponse] = {}


async def _serve(request: web.Request) -> web.Response:
    body = _decoder.decode(await request.read())
    return web.Response(body=_encoder.encode(_Answer("delegated", body.to_agent)), content_type="application/json")


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def _pass_on(request: web.Request) -> web.WebSocketResponse:
    """Do for each frame what a relay cannot do without: decode, pass on, answer. Nothing is stored or checked."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    name = request.match_info["name"]
    _peers[name] = socket
    async for message in socket:
        frame = _frames.decode(message.data)
        if frame.type == "send":
            told = {"from_agent": name, "content": frame.content, "delivery": {"receipt": "0-0"}}
            await _peers[frame.to_agent].send_str(_encoder.encode(told).decode())
            reply: Any = {"status": "sent"}
        else:
            reply = {"results": [{"receipt": receipt, "status": "acked"} for receipt in frame.receipts]}
        answer = {"type": "reply", "id": frame.id, "reply": reply}
        await socket.send_str(_encoder.encode(answer).decode())
    return socket


async def _sink(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    async for part in request.content.iter_any():
        digest.update(part)
    return web.Response(text=digest.hexdigest())


async def _source(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = left = int(request.query["bytes"])
    await response.prepare(request)
    while left:
        await response.write(_PIECE[:left])
        left -= min(left, len(_PIECE))
    return response


async def _run(port: int) -> None:
    app = web.Application()
    app.router.add_post(_PATH, _serve)
    app.router.add_get(_ECHO, _echo)
    app.router.add_get(_PASSED_ON, _pass_on)
    app.router.add_put(_SINK, _sink)
    app.router.add_get(_SOURCE, _source)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"floor listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed, on the same event loop that a relay would use."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    with contextlib.suppress(KeyboardInterrupt):
        try:
            import uvloop
        except ImportError:
            asyncio.run(_run(port))
        else:
            uvloop.run(_run(port))


if __name__ == "__main__":
    main()
