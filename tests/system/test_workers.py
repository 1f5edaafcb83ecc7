"""Worker processes that are killed, put to sleep or left alone by their relay: no task is lost, and none done twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest

from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.errors import ClawLinkError, Draining, RelayUnreachable
from tests.effort import size
from tests.processes import Popen
from tests.server.asks import ack, metrics, ok, poll, pool_task, refused, respond, task_of, tasks_of
from tests.system.conftest import Live, Starting
from tests.system.worker import CAPABILITY, LEASE
from tests.waiting import eventually

pytestmark = pytest.mark.storm

ROOT = Path(__file__).parents[2]
TASKS = size(60, 120, 200)
WORKERS = size(6, 6, 10)
KILLS = 4  # of each worker
SECONDS = 0.4  # of work on one task, at most
SEED = 20261121

posix = pytest.mark.skipif(os.name != "posix", reason="sends signals of POSIX")
Worker = subprocess.Popen[str]
Hire = Callable[[str, str, float], Awaitable[Worker]]


@pytest.fixture
def complaints(tmp_path: Path) -> Iterator[IO[str]]:
    """The standard error of the workers; no traceback may be in it."""
    path = tmp_path / "stderr"
    with path.open("w") as file:
        yield file
    assert "Traceback" not in path.read_text()


@pytest.fixture
async def hire(complaints: IO[str]) -> AsyncIterator[Hire]:
    """Start workers: ``await hire(url, agent_id, seconds)``; they are killed when the test ends."""
    hired: list[Worker] = []

    async def start(url: str, agent_id: str, seconds: float) -> Worker:
        command = [sys.executable, "-m", "tests.system.worker", url, agent_id, str(seconds)]
        hired.append(Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=complaints, text=True))
        return hired[-1]

    yield start
    for process in hired:
        process.kill()
        process.communicate()


async def says(process: Worker, word: str) -> str:
    """Wait until a worker says something that begins so, and return the rest of that line."""
    assert process.stdout is not None
    while line := await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30):
        first, _, rest = line.strip().partition(" ")
        if first == word:
            return rest
    raise AssertionError(f"the worker ended and never said {word!r}")


async def collected(relay: Live, requester: str, count: int) -> dict[str, list[dict[str, Any]]]:
    """Claim and ack messages until this many tasks have their final response; return all of those, by task."""
    found: dict[str, list[dict[str, Any]]] = {}
    while len(found) < count:
        reply = await poll(relay, requester, wait=10, lease=60, max=100)
        for message in reply["messages"]:
            if message["type"] == "task_response" and message["status"] != "in_progress":
                found.setdefault(message["message_id"], []).append(message)
        if reply["count"]:
            await ack(relay, requester, *(held["receipt"] for held in reply["deliveries"]))
    return found


async def handed(relay: Live, agent_id: str) -> dict[str, Any]:
    """Poll until a task comes, and return what the relay says of its delivery."""
    while True:
        reply = await poll(relay, agent_id, wait=30, lease=60)
        for held, message in zip(reply["deliveries"], reply["messages"], strict=True):
            if message["type"] == "task_delegation":
                found: dict[str, Any] = held
                return found


@posix
async def test_tasks_of_workers_that_are_killed_at_random_are_done_once(start_live: Starting, hire: Hire) -> None:
    relay = start_live("--max-attempts", "50")
    await relay.register("requester", agent_id="req")
    chance = random.Random(SEED)
    killed: Counter[str] = Counter()

    async def live_and_die(agent_id: str) -> None:
        for _ in range(KILLS):
            process = await hire(relay.url, agent_id, SECONDS)
            await says(process, "claimed")
            await asyncio.sleep(chance.uniform(0, 2 * SECONDS))
            process.send_signal(signal.SIGKILL)
            killed[agent_id] += await asyncio.to_thread(process.wait) == -signal.SIGKILL
        await hire(relay.url, agent_id, SECONDS)

    ids = [await pool_task(relay, "req", CAPABILITY, task=f"number {n}") for n in range(TASKS)]
    working = asyncio.gather(*(live_and_die(f"w{n}") for n in range(WORKERS)))
    answers = await asyncio.wait_for(collected(relay, "req", TASKS), 90)
    await working
    assert sum(killed.values()) == WORKERS * KILLS

    # Every task has its one answer, and no other comes.
    assert {task_id: len(found) for task_id, found in answers.items()} == dict.fromkeys(ids, 1)
    assert sorted(found[0]["result"] for found in answers.values()) == sorted(f"number {n}" for n in range(TASKS))
    late = await poll(relay, "req", lease=60, max=1000)
    assert [m for m in late["messages"] if m["type"] == "task_response" and m["status"] != "in_progress"] == []
    counted = await metrics(relay)
    assert (counted["tasks_answered_total"], counted["tasks_failed_total"], counted["tasks_expired_total"]) == (
        *(TASKS, 0),
        0,
    )
    assert await tasks_of(relay, "req", status="open") == []
    tasks = await tasks_of(relay, "req", status="completed", limit=50)
    assert sorted(task["task_id"] for task in tasks) == sorted(ids)

    # Each history tells who had it, why they lost it, and that the last of them answered.
    takeovers = lapses = 0
    for task in tasks:
        answer = answers[task["task_id"]][0]
        assert (task["result"], task["assignee"]) == (answer["result"], answer["from_agent"])
        steps = task["history"]
        owners = [step["by"] for step in steps if step["status"] == "delivered"]
        assert task["attempts"] == len(owners) >= 1
        assert owners[-1] == task["assignee"] == steps[-1]["by"]
        assert steps[-1]["status"] == "completed"
        owner = None
        for step in steps:
            if step["status"] == "delivered":
                assert owner is None, "it was handed out while somebody had it"
                owner = step["by"]
            elif step["status"] == "queued" and step["at"] != task["created_at"]:
                assert owner is not None
                assert step["by"] is None
                assert "lapsed" in step["note"]
                owner, lapses = None, lapses + 1
            elif step["status"] in ("in_progress", "completed"):
                assert step["by"] == owner, "somebody reported on what was not theirs"
        takeovers += sum(one != other for one, other in pairwise(owners))
    assert lapses > WORKERS  # the killing hit work, more often than not
    assert takeovers > 0
    # A claim whose reply could not be written, because its reader was killed just then, is undone without a trace.
    assert takeovers <= counted["takeovers_total"] <= takeovers + counted["released_total"]
    assert (await ok(relay.get("/")))["takeovers"] == counted["takeovers_total"]


@posix
async def test_a_worker_that_slept_past_its_lease_is_refused_and_the_new_owners_answer_stands(
    start_live: Starting, hire: Hire
) -> None:
    relay = start_live()
    await relay.register("requester", agent_id="req")
    await relay.register("other", agent_id="other", capabilities=[CAPABILITY])
    await ok(relay.get("/poll/other"))
    sleeper = await hire(relay.url, "sleeper", 1)
    version = 0
    task_id = await pool_task(relay, "req", CAPABILITY, task="the sleeper's answer")
    assert await says(sleeper, "claimed") == task_id
    while (await task_of(relay, "req", task_id))["status"] != "in_progress":
        version = (await task_of(relay, "req", task_id, wait=10, since=version))["version"]
    sleeper.send_signal(signal.SIGSTOP)

    held = await handed(relay, "other")
    assert (held["message_id"], held["attempt"]) == (task_id, 2)
    assert "sleeper" in [event["note"] for event in held["reported"]]

    sleeper.send_signal(signal.SIGCONT)
    assert await says(sleeper, "refused") == "lease_lost"
    assert (await task_of(relay, "req", task_id))["assignee"] == "other"
    await respond(relay, "other", task_id, "the new owner's answer", receipt=held["receipt"])
    found = await collected(relay, "req", 1)
    assert [m["result"] for m in found[task_id]] == ["the new owner's answer"]
    ask = {"from_agent": "sleeper", "message_id": task_id, "result": "the sleeper's answer"}
    await refused(relay.post("/respond", ask), 409, "lease_lost")
    task = await task_of(relay, "req", task_id)
    assert (task["status"], task["result"], task["assignee"]) == ("completed", "the new owner's answer", "other")
    # It was no more than asleep: the next task is its own to answer.
    task_id = await pool_task(relay, "req", CAPABILITY, task="the next")
    assert await says(sleeper, "answered") == task_id


@posix
async def test_from_a_workers_death_to_another_workers_hands_it_is_the_lease_and_less_than_a_second(
    start_live: Starting, hire: Hire
) -> None:
    relay = start_live()
    await relay.register("requester", agent_id="req")
    doomed = await hire(relay.url, "doomed", 30)
    task_id = await pool_task(relay, "req", CAPABILITY)
    assert await says(doomed, "claimed") == task_id

    async def reported() -> bool:
        return bool((await task_of(relay, "req", task_id))["status"] == "in_progress")

    await eventually(reported)
    await relay.register("other", agent_id="other", capabilities=[CAPABILITY])
    now = asyncio.get_running_loop().time
    doomed.send_signal(signal.SIGKILL)
    died = now()
    assert (await handed(relay, "other"))["message_id"] == task_id
    assert now() - died < LEASE + 1


@posix
async def test_a_relay_that_is_stopped_in_the_middle_leaves_no_client_hanging(start_live: Starting, hire: Hire) -> None:
    """Workers, polls and requesters that wait, and new work: each says within seconds what has become of the relay."""
    relay = start_live()
    await relay.register("requester", agent_id="req")
    await relay.register("idle", agent_id="idle")
    workers = [await hire(relay.url, f"worker{n}", 20) for n in range(3)]
    task_id = await pool_task(relay, "req", CAPABILITY)

    async def all_there() -> bool:
        listed = await ok(relay.get("/discover"))
        return bool(listed["count"] == 5 and (await task_of(relay, "req", task_id))["status"] == "in_progress")

    await eventually(all_there)
    await ok(relay.get("/poll/req"))
    quick = Backoff(tries=2, first=0.05)

    def asked(act: Callable[[Client], Any]) -> Any:
        with Client(relay.url, agent_id="req", timeout=3, backoff=quick) as client:
            try:
                return act(client)
            except ClawLinkError as error:
                return error

    waiting = [
        asyncio.create_task(asyncio.to_thread(asked, act))
        for act in (
            lambda client: client.poll(wait=60),
            lambda client: client.task(task_id, wait=60),
            lambda client: client.message(task_id, wait=60, until="answered"),
        )
    ]

    async def all_wait() -> bool:
        return (await metrics(relay))["waiting_polls"] == 3 + 2

    await eventually(all_wait)
    relay.relay.process.send_signal(signal.SIGTERM)
    told = await asyncio.wait_for(asyncio.gather(*waiting), 15)
    assert told[0] == []
    assert (told[1].status, told[1].finished_at) == ("in_progress", None)
    assert (told[2].task_status, told[2].answered_at) == ("in_progress", None)

    new = await asyncio.wait_for(asyncio.to_thread(asked, lambda client: client.delegate("idle", "more")), 30)
    assert isinstance(new, Draining | RelayUnreachable)
    assert str(new)
    assert await asyncio.to_thread(relay.relay.process.wait, 10) == 0
    gone = await asyncio.wait_for(asyncio.to_thread(asked, lambda client: client.poll(wait=60)), 30)
    assert isinstance(gone, RelayUnreachable)
    # Two of the three waited for work; the third is at work, and will hear of it when it has something to say.
    ended = await eventually(lambda: _ended(workers))
    for worker in ended:
        assert await says(worker, "stopped") in ("draining", "relay_unreachable")
        assert worker.returncode == 3


async def _ended(workers: list[Worker]) -> list[Worker]:
    """Return those that have ended, once they are all but one."""
    ended = [worker for worker in workers if worker.poll() is not None]
    return ended if len(ended) == len(workers) - 1 else []


async def test_a_client_that_is_patient_finds_the_relay_when_it_is_back(start_live: Starting) -> None:
    relay = start_live()
    port = relay.url.rsplit(":", 1)[1]
    await relay.register("requester", agent_id="req")
    relay.relay.process.terminate()
    await asyncio.to_thread(relay.relay.process.wait, 10)

    def asked() -> Any:
        with Client(relay.url, timeout=5, backoff=Backoff(tries=200, first=0.05, most=0.1)) as client:
            return client.register("back", claim=False)

    waiting = asyncio.create_task(asyncio.to_thread(asked))
    with socket.create_server(("127.0.0.1", int(port))) as nobody:
        for _ in range(3):  # it is taken and hung up on
            (await asyncio.to_thread(nobody.accept))[0].close()
    assert not waiting.done()
    start_live("--port", port)
    assert (await asyncio.wait_for(waiting, 15)).agent.name == "back"
