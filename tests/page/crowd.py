"""A relay that holds thousands of agents and tasks, made from a few that came by its own requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any, NamedTuple, TypeVar

import requests
from msgspec.structs import replace

from clawlink.config import ServerConfig
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, sort_key
from clawlink.domain.task import Task
from clawlink.server.app import App
from clawlink.store.base import Put
from tests.waiting import PATIENCE

R = TypeVar("R")
# The tasks of a hundred in each state; the rest is queued.
_SHARES = (("completed", 80), ("failed", 4), ("in_progress", 4), ("input_required", 2), ("delivered", 2))
_SKILLS = ("review", "build", "research", "translate")


class Crowd(NamedTuple):
    """A relay: its address, its parts, and how to run a coroutine on its event loop."""

    url: str
    app: App
    run: Callable[[Coroutine[Any, Any, Any]], Any]


class Apart(NamedTuple):
    """A relay in a process of its own."""

    url: str
    pid: int


@contextmanager
def crowd(config: ServerConfig, *, agents: int = 0, tasks: int = 0) -> Iterator[Crowd]:
    """Run a relay with this number of agents and tasks for as long as the context lasts."""
    told: Queue[Any] = Queue()

    async def serve() -> None:
        app = App(config)
        port = await app.start(close_seconds=0.1)
        stop = asyncio.Event()
        told.put((f"http://127.0.0.1:{port}", app, asyncio.get_running_loop(), stop))
        await stop.wait()
        await app.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url, app, loop, stop = told.get(timeout=10)

    def run(work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, loop).result(300)

    try:
        if agents:
            run(_more(app, _examples(url), agents, tasks))
        yield Crowd(url, app, run)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@contextmanager
def crowd_apart(agents: int, tasks: int) -> Iterator[Apart]:
    """Run such a relay in a process of its own, whose interpreter no test holds."""
    command = [sys.executable, "-m", __name__, str(agents), str(tasks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Apart(process.stdout.readline().strip(), process.pid)
        finally:
            process.stdin.close()
            process.wait(30)


def _examples(url: str) -> dict[str, str]:
    """Bring a task into each state by requests, and return its id by that state."""

    def ask(path: str, **body: Any) -> Any:
        answer = requests.post(url + path, json=body, timeout=PATIENCE)
        answer.raise_for_status()
        return answer.json()

    ask("/register", agent_id="asks", name="Asks")
    ask("/register", agent_id="works", name="Works", capabilities=["review", "build"], description="Does its part.")
    made = {}
    for state, _ in _SHARES:
        task = ask("/delegate", from_agent="asks", to_agent="works", task=f"Review part {state} of the change")
        made[state] = task["message_id"]
    requests.get(url + "/poll/works?lease=3600", timeout=PATIENCE).raise_for_status()
    for state in ("completed", "failed", "in_progress", "input_required"):
        ask("/respond", from_agent="works", message_id=made[state], status=state, result=f"Read all of it: {state}")
    made["queued"] = ask("/delegate", from_agent="asks", to_agent="works", task="Review the rest")["message_id"]
    return made


async def _more(app: App, examples: dict[str, str], agents: int, tasks: int) -> None:
    """Put copies of agents and tasks into the store, each with an id, a party and a time of its own."""
    core = app.relay.core
    store, now = core.store, core.clock()
    one = await store.get(Agent, "works")
    assert one is not None
    for n in range(agents - 2):
        skills = (_SKILLS[n % len(_SKILLS)],)
        agent = replace(
            one, id=f"agent-{n:04}", name=f"Agent {n:04}", version=1, capabilities=skills, last_heartbeat=now - n / 60
        )
        await store.commit(agent.partition_key, Put(agent))
        app.relay.agents.directory.add(agent.id)
    states = [state for state, share in _SHARES for _ in range(share)]
    states += ["queued"] * (100 - len(states))
    found = {}
    for state, id in examples.items():
        found[state] = (await store.get(Task, id), await store.get(Delivery, id))
    for n in range(tasks):
        task, delivery = found[states[n * 37 % 100]]
        id, asks, works = f"{n:024x}", f"agent-{n * 7 % (agents - 2):04}", f"agent-{n * 11 % (agents - 2):04}"
        if task is not None:
            body = _named(task.body, id, task.id, asks, works)
            copy = replace(task, id=id, version=1, mailbox=works, requester=asks, assignee=works, body=body)
            await store.commit(works, Put(replace(copy, created_at=now - n / 20)))
        else:
            assert delivery is not None
            body = _named(delivery.body, id, delivery.id, asks, works)
            place = sort_key(2, int(now * 1e6) + n)
            new = replace(delivery, id=id, version=1, mailbox=works, sender=asks, body=body, sort_key=place)
            await store.commit(works, Put(new))
        if n % 500 == 0:
            await asyncio.sleep(0)


def _named(body: bytes, id: str, old: str, asks: str, works: str) -> bytes:
    body = body.replace(old.encode(), id.encode())
    return body.replace(b'"asks"', f'"{asks}"'.encode()).replace(b'"works"', f'"{works}"'.encode())


if __name__ == "__main__":
    with crowd(ServerConfig(port=0), agents=int(sys.argv[1]), tasks=int(sys.argv[2])) as made:
        print(made.url, flush=True)
        sys.stdin.read()
