"""A stand-in for the server of ClawLink 1.0.2: register, delegate, poll and respond, with queues in memory.

Run as ``python -m clawlink.bench.legacy``. Like the old server, a poll empties the queue before its reply is written.
With ``--least`` it does the least for this round that a server on aiohttp can do: no routes, no times, no defaults.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import datetime, timezone
from typing import Any

import msgspec
from aiohttp import web

_agents: dict[str, dict[str, Any]] = {}
_queues: dict[str, list[dict[str, Any]]] = {}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _queue(to: str, message: dict[str, Any]) -> str:
    _queues.setdefault(to, []).append({**message, "queued_at": _now()})
    return "queued"


async def _register(request: web.Request) -> web.Response:
    body = await request.json()
    agent_id = body.get("agent_id") or uuid.uuid4().hex
    _agents[agent_id] = {"agent_id": agent_id, "name": body.get("name", agent_id), "last_heartbeat": _now()}
    return web.json_response({"status": "registered", "agent": _agents[agent_id], "server_time": _now()})


async def _delegate(request: web.Request) -> web.Response:
    body = await request.json()
    message = {
        "type": "task_delegation",
        "message_id": uuid.uuid4().hex,
        **{name: body[name] for name in ("from_agent", "to_agent", "task")},
        "context": body.get("context", {}),
        "priority": body.get("priority", "normal"),
        "timestamp": _now(),
    }
    delivery = _queue(body["to_agent"], message)
    return web.json_response({"status": "delegated", "delivery": delivery, "message_id": message["message_id"]})


async def _respond(request: web.Request) -> web.Response:
    body = await request.json()
    answer = {name: body.get(name) for name in ("message_id", "from_agent", "to_agent", "result")}
    status = body.get("status", "completed")
    told = {"type": "task_response", **answer, "response_id": uuid.uuid4().hex, "status": status, "timestamp": _now()}
    return web.json_response({"status": "response_sent", "delivery": _queue(body["to_agent"], told)})


async def _poll(request: web.Request) -> web.Response:
    agent_id = request.match_info["agent_id"]
    if agent_id in _agents:
        _agents[agent_id]["last_heartbeat"] = _now()
    messages = _queues.pop(agent_id, [])
    return web.json_response({"messages": messages, "count": len(messages)})


async def _least(request: web.BaseRequest) -> web.Response:
    if request.path.startswith("/poll/"):
        messages = _queues.pop(request.path.removeprefix("/poll/"), [])
        reply: dict[str, Any] = {"messages": messages, "count": len(messages)}
    elif request.path == "/register":
        reply = {"status": "registered"}
    else:
        message = msgspec.json.decode(await request.read())
        message.setdefault("message_id", uuid.uuid4().hex)
        _queues.setdefault(message["to_agent"], []).append(message)
        reply = {"message_id": message["message_id"]}
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


def _runner(least: bool) -> web.BaseRunner:
    if least:
        return web.ServerRunner(web.Server(_least, access_log=None))
    app = web.Application()
    posts = {"/register": _register, "/delegate": _delegate, "/respond": _respond}
    app.add_routes([web.post(path, serve) for path, serve in posts.items()])
    app.add_routes([web.get("/poll/{agent_id}", _poll)])
    return web.AppRunner(app, access_log=None)


async def _run(least: bool) -> None:
    runner = _runner(least)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run("--least" in sys.argv))
