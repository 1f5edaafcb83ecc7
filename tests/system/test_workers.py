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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
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
from tests.system.worker import CAPABILITY, HELD, LEASE
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.storm

ROOT = Path(__file__).parents[2]
TASKS = size(60, 120, 200)
WORKERS = size(6, 6, 10)
KILLS = 4  # of each worker
SECONDS = 0.4  # of work on one task, at most
SEED = 20261121

posix = pytest.mark.skipif(os.name != "posix", reason="sends signals of POSIX")
Worker = subprocess.Popen[str]
Hire = Callable[..., Coroutine[Any, Any, Worker]]


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

    async def start(url: str, agent_id: str, seconds: float, *, lease: float = LEASE) -> Worker:
        command = [sys.executable, "-m", "tests.system.worker", url, agent_id, str(seconds), str(lease)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
        hired.append(Popen(command, cwd=ROOT, text=True, **streams))
        return hired[-1]

    yield start
    for process in hired:
        process.kill()
        process.communicate()


async def says(process: Worker, word: str) -> str:
    """Wait until a worker says something that begins so, and return the rest of that line."""
    assert process.stdout is not None
    while line := await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE):
        first, _, rest = line.strip().partition(" ")
        if first == word:
            return rest
    raise AssertionError(f"the worker ended and never said {word!r}")


async def collected(relay: Live, requester: str, over: Callable[[int], bool]) -> dict[str, list[dict[str, Any]]]:
    """Claim and ack messages until the number of tasks with a final response is enough; return these, by task."""
    found: dict[str, list[dict[str, Any]]] = {}
    while not over(len(found)):
        reply = await poll(relay, requester, wait=1, lease=60, max=100)
        for message in reply["messages"]:
            if message["type"] == "task_response" and message["status"] != "in_progress":
                found.setdefault(message["message_id"], []).append(message)
        if reply["count"]:
            await ack(relay, requester, *(held["receipt"] for held in reply["deliveries"]))
    return found


async def handed(relay: Live, agent_id: str) -> dict[str, Any]:
    """Poll until a task comes, and return what the relay says of its delivery."""
    while True:
        reply = await poll(relay, agent_id, wait=20, lease=60)
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

    async def more() -> None:
        ids.append(await pool_task(relay, "req", CAPABILITY, task=f"number {len(ids)}"))

    async def live_and_die(agent_id: str) -> None:
        for life in range(1, KILLS + 1):
            last = life == KILLS
            # In its last life it works for longer than it lives, so it surely dies at work.
            process = await hire(relay.url, agent_id, 3600 if last else SECONDS)
            claimed = asyncio.create_task(says(process, "claimed"))
            while not (await asyncio.wait([claimed], timeout=2))[0]:
                await more()  # the others have done all there was
            await claimed
            await asyncio.sleep(0 if last else chance.uniform(0, 2 * SECONDS))
            process.send_signal(signal.SIGKILL)
            killed[agent_id] += await asyncio.to_thread(process.wait) == -signal.SIGKILL
        await hire(relay.url, f"heir-{agent_id}", SECONDS)

    ids: list[str] = []
    for _ in range(TASKS):
        await more()
    working = asyncio.gather(*(live_and_die(f"w{n}") for n in range(WORKERS)))
    collecting = asyncio.create_task(collected(relay, "req", lambda count: working.done() and count >= len(ids)))
    await working
    assert sum(killed.values()) == WORKERS * KILLS
    answers = await asyncio.wait_for(collecting, PATIENCE)

    # Every task has its one answer, and no other comes.
    assert {task_id: len(found) for task_id, found in answers.items()} == dict.fromkeys(ids, 1)
    assert sorted(found[0]["result"] for found in answers.values()) == sorted(f"number {n}" for n in range(len(ids)))
    late = await poll(relay, "req", lease=60, max=1000)
    assert [m for m in late["messages"] if m["type"] == "task_response" and m["status"] != "in_progress"] == []
    counted = await metrics(relay)
    assert (counted["tasks_answered_total"], counted["tasks_failed_total"], counted["tasks_expired_total"]) == (
        *(len(ids), 0),
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
    assert lapses >= WORKERS  # at least each worker's last death
    assert takeovers >= 1  # none of these lived on to take its own again
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
    task_id = await pool_task(relay, "req", CAPABILITY, task=HELD)
    assert await says(sleeper, "claimed") == task_id
    while (await task_of(relay, "req", task_id))["status"] != "in_progress":
        version = (await task_of(relay, "req", task_id, wait=10, since=version))["version"]
    sleeper.send_signal(signal.SIGSTOP)

    held = await handed(relay, "other")
    assert held["message_id"] == task_id
    assert held["attempt"] >= 2
    assert "sleeper" in [event["note"] for event in held["reported"]]

    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.stdin is not None
    sleeper.stdin.write("done\n")
    sleeper.stdin.flush()
    assert await says(sleeper, "refused") == "lease_lost"
    assert (await task_of(relay, "req", task_id))["assignee"] == "other"
    await respond(relay, "other", task_id, "the new owner's answer", receipt=held["receipt"])
    found = await collected(relay, "req", lambda count: count == 1)
    assert [m["result"] for m in found[task_id]] == ["the new owner's answer"]
    ask = {"from_agent": "sleeper", "message_id": task_id, "result": "the sleeper's answer"}
    await refused(relay.post("/respond", ask), 409, "lease_lost")
    task = await task_of(relay, "req", task_id)
    assert (task["status"], task["result"], task["assignee"]) == ("completed", "the new owner's answer", "other")
    # It was no more than asleep: the next task is its own to answer.
    task_id = await pool_task(relay, "req", CAPABILITY, task="the next")
    assert await says(sleeper, "answered") == task_id


@posix
async def test_a_dead_workers_task_ends_the_wait_of_another(start_live: Starting, hire: Hire) -> None:
    relay = start_live()
    await relay.register("requester", agent_id="req")
    doomed = await hire(relay.url, "doomed", 3600)
    task_id = await pool_task(relay, "req", CAPABILITY)
    assert await says(doomed, "claimed") == task_id

    async def reported() -> bool:
        return bool((await task_of(relay, "req", task_id))["status"] == "in_progress")

    await eventually(reported)
    await relay.register("other", agent_id="other", capabilities=[CAPABILITY])
    await ok(relay.get("/poll/other"))
    doomed.send_signal(signal.SIGKILL)
    # The lease of five seconds ends meanwhile, and nobody else does anything. Without an end the wait takes too long.
    (message,) = (await asyncio.wait_for(poll(relay, "other", wait=60, lease=60), 10 * LEASE))["messages"]
    assert message["message_id"] == task_id


@posix
async def test_a_relay_that_is_stopped_in_the_middle_leaves_no_client_hanging(start_live: Starting, hire: Hire) -> None:
    """Workers, polls and requesters that wait, and new work: each says within seconds what has become of the relay."""
    relay = start_live()
    await relay.register("requester", agent_id="req")
    await relay.register("idle", agent_id="idle")
    workers = [await hire(relay.url, f"worker{n}", 3600, lease=600) for n in range(3)]
    task_id = await pool_task(relay, "req", CAPABILITY)

    async def all_there() -> bool:
        listed = await ok(relay.get("/discover"))
        return bool(listed["count"] == 5 and (await task_of(relay, "req", task_id))["status"] == "in_progress")

    await eventually(all_there)
    await ok(relay.get("/poll/req"))
    quick = Backoff(tries=2, first=0.05)

    def asked(act: Callable[[Client], Any]) -> Any:
        with Client(relay.url, agent_id="req", timeout=60, backoff=quick) as client:
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
    told = await asyncio.wait_for(asyncio.gather(*waiting), 50)
    assert told[0] == []
    assert (told[1].status, told[1].finished_at) == ("in_progress", None)
    assert (told[2].task_status, told[2].answered_at) == ("in_progress", None)

    new = await asyncio.wait_for(asyncio.to_thread(asked, lambda client: client.delegate("idle", "more")), PATIENCE)
    assert isinstance(new, Draining | RelayUnreachable)
    assert str(new)
    assert await asyncio.to_thread(relay.relay.process.wait, PATIENCE) == 0
    gone = await asyncio.wait_for(asyncio.to_thread(asked, lambda client: client.poll(wait=60)), PATIENCE)
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
    await asyncio.to_thread(relay.relay.process.wait, PATIENCE)

    def asked() -> Any:
        with Client(relay.url, timeout=60, backoff=Backoff(tries=100_000, first=0.05, most=0.1)) as client:
            return client.register("back", claim=False)

    waiting = asyncio.create_task(asyncio.to_thread(asked))
    with socket.create_server(("127.0.0.1", int(port))) as nobody:
        for _ in range(3):  # it is taken and hung up on
            (await asyncio.to_thread(nobody.accept))[0].close()
    assert not waiting.done()
    start_live("--port", port)
    assert (await asyncio.wait_for(waiting, PATIENCE)).agent.name == "back"
