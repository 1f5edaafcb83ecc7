"""The time of each tool over ``/mcp``, and of the same call over HTTP without MCP, in one run, one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from clawlink.bench import servers
from clawlink.bench.load import Asker, request_bytes
from clawlink.bench.scenarios import BenchFailed, Row, names_for
from clawlink.loop_run import run

ROUNDS = 500
_WARM = 30
_ME, _OTHER = "bench-me", "bench-other"
_TASKS, _AGENTS = 50, 98
_TEXT = "x" * 500


class Pair(NamedTuple):
    """A tool, and the request without MCP that does the same."""

    what: str
    tool: str
    arguments: dict[str, Any]
    agent: str
    method: str
    path: str
    body: dict[str, Any] | None = None


def tools(*, rounds: int = ROUNDS, say: Callable[[str], None]) -> list[Row]:
    """Measure each tool, and the same call without MCP."""
    with servers.relay() as server, servers.on_the_other_core():
        return run(_measured(server.url, rounds, say))


async def _measured(url: str, rounds: int, say: Callable[[str], None]) -> list[Row]:
    async with await Asker.open(url) as asker:
        for name in (_ME, _OTHER, *names_for("agent", _AGENTS)):
            await _ask(asker, "POST", "/register", {"agent_id": name, "name": name})
        held = [(await _ask(asker, "POST", "/delegate", _TASK))["message_id"] for _ in range(_TASKS)][-1]
        rows = []
        for pair in _pairs(held):
            say(f"{pair.what} over /mcp and without")
            rows += await _compared(asker, pair, rounds)
        return rows


_TASK = {"from_agent": _ME, "to_agent": _OTHER, "task": _TEXT}


def _pairs(held: str) -> Iterator[Pair]:
    by = f"agent_id={_ME}"
    yield Pair("relay_agents, 100", "relay_agents", {}, _ME, "GET", "/discover?status=online&limit=100")
    yield Pair("relay_tasks, one", "relay_tasks", {"task_id": held}, _ME, "GET", f"/tasks/{held}?{by}")
    yield Pair("relay_tasks, 50", "relay_tasks", {}, _ME, "GET", f"/tasks?{by}&status=open&limit={_TASKS}")
    yield Pair("relay_inbox", "relay_inbox", {"max_messages": 1}, _ME, "GET", f"/poll/{_ME}?limit=1&lease=300")
    report = {"task_id": held, "status": "in_progress", "progress": 5.0}
    as_rest = {"from_agent": _OTHER, "message_id": held, "status": "in_progress", "progress": 5.0}
    yield Pair("relay_report", "relay_report", report, _OTHER, "POST", "/respond", as_rest)
    tell = {"from_agent": _ME, "to_agent": _OTHER, "content": _TEXT}
    yield Pair("relay_tell", "relay_tell", {"to": _OTHER, "text": _TEXT}, _ME, "POST", "/send", tell)
    yield Pair("relay_delegate", "relay_delegate", {"to": _OTHER, "task": _TEXT}, _ME, "POST", "/delegate", _TASK)


async def _compared(asker: Asker, pair: Pair, rounds: int) -> list[Row]:
    """Ask both ways by turns, so that the load of the machine is the same for both."""
    call = {"name": pair.tool, "arguments": pair.arguments}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    by_mcp = request_bytes("POST", "/mcp", msgspec.json.encode(asked), headers={"ClawLink-Agent": pair.agent})
    by_rest = request_bytes(pair.method, pair.path, b"" if pair.body is None else msgspec.json.encode(pair.body))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + _WARM):
        for request, taken in zip((by_mcp, by_rest), times, strict=True):
            if pair.tool == "relay_inbox":
                await _ask(asker, "POST", "/send", {"from_agent": _OTHER, "to_agent": _ME, "content": _TEXT})
            began = time.perf_counter()
            status, answer = await asker.ask(request)
            if turn >= _WARM:
                taken.append(time.perf_counter() - began)
            if status != 200 or b'"isError":true' in answer:
                raise BenchFailed(f"{pair.what}: {answer.decode(errors='replace')[:500]}")
    mcp, rest = map(statistics.median, times)
    return [
        Row(f"{pair.what} over MCP", mcp * 1e6, "us"),
        Row(f"{pair.what} over HTTP", rest * 1e6, "us"),
        Row(f"{pair.what}, MCP to HTTP", mcp / rest, "times"),
    ]


async def _ask(asker: Asker, method: str, path: str, body: Any = None) -> Any:
    status, answer = await asker.ask(request_bytes(method, path, b"" if body is None else msgspec.json.encode(body)))
    if status != 200:
        raise BenchFailed(f"{method} {path}: {answer.decode(errors='replace')}")
    return msgspec.json.decode(answer)
