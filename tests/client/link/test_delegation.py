"""Delegating by a link: results, questions, failures, and waiting on others when all hands are busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clawlink import Link, errors
from clawlink.client.link.delegation import Delegation, TaskFailed
from clawlink.client.link.task import Task
from clawlink.client.sync import Client
from clawlink.client.wait_steps import StillPending
from clawlink.domain.message import TaskDelegation
from tests.client.link.conftest import MakeLink
from tests.client.restartable import Restartable
from tests.waiting import PATIENCE, wait_until

Running = Callable[[Link], Link]


def claim(worker: Client) -> str:
    """Claim a task, and return its id."""
    for _ in range(20):
        for one in worker.poll(wait=5):
            worker.ack([one.receipt])
            if isinstance(one.message, TaskDelegation):
                return one.message_id
    raise AssertionError("no task came")


@pytest.fixture
def planner(make_link: MakeLink, running: Running) -> Link:
    return running(make_link("planner"))


def test_the_result_is_waited_for_and_what_is_known_is_told(planner: Link, boss: Client) -> None:
    news: list[tuple[str, float | None, str | None]] = []

    def told(delegation: Delegation) -> None:
        news.append((delegation.status, delegation.progress, delegation.note))

    delegation = planner.delegate("boss", "count", context={"to": 3}, on_progress=told)
    assert delegation.receipt.result(PATIENCE).status == "delegated"
    assert not delegation.done()
    with pytest.raises(StillPending, match="the task is still to come"):
        delegation.result(0.05)
    assert claim(boss) == delegation.task_id
    boss.respond(delegation.task_id, status="in_progress", progress=40, note="half")
    wait_until(lambda: news == [("in_progress", 40, "half")])
    boss.respond(delegation.task_id, {"n": 3})
    assert delegation.result(PATIENCE) == {"n": 3}
    assert (delegation.status, delegation.done(), delegation.result()) == ("completed", True, {"n": 3})


@pytest.mark.parametrize("status", ["failed", "rejected"])
def test_a_task_that_fails_raises_with_what_was_said(planner: Link, boss: Client, status: str) -> None:
    delegation = planner.delegate("boss", "count")
    boss.respond(claim(boss), "there is no such page", status=status)
    with pytest.raises(TaskFailed, match=f"is {status}: there is no such page") as failed:
        delegation.result(PATIENCE)
    assert (failed.value.current, failed.value.result) == (status, "there is no such page")
    assert failed.value.task_id == delegation.task_id


def test_a_delegation_can_be_cancelled(planner: Link, boss: Client) -> None:
    delegation = planner.delegate("boss", "count")
    delegation.receipt.result(PATIENCE)
    assert delegation.cancel("no need").result(PATIENCE).status == "cancelled"
    with pytest.raises(TaskFailed, match="is cancelled"):
        delegation.result(PATIENCE)


def test_a_delegation_that_is_refused_fails(planner: Link) -> None:
    delegation = planner.delegate("nobody", "count")
    with pytest.raises(errors.UnknownAgent):
        delegation.result(PATIENCE)
    with pytest.raises(errors.UnknownAgent):
        delegation.receipt.result(PATIENCE)
    with pytest.raises(errors.BadRequest):
        planner.delegate("boss", "count", priority="asap")


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_questions_are_answered(make_link: MakeLink, running: Running, planner: Link, kind: str) -> None:
    worker = make_link("worker")

    def plain(task: Task) -> list[Any]:
        return [task.ask("which?").result(PATIENCE), task.ask({"and": "how"}).result(PATIENCE)]

    async def coroutine(task: Task) -> list[Any]:
        return [await task.ask("which?"), await task.ask({"and": "how"})]

    handler: Callable[[Task], Any] = plain if kind == "plain" else coroutine
    worker.on_task(handler)
    running(worker)

    async def answer(question: Any) -> Any:
        return [question]

    assert planner.delegate("worker", "x", on_question=answer).result(PATIENCE) == [["which?"], [{"and": "how"}]]


def test_one_question_is_open_at_a_time(make_link: MakeLink, running: Running, planner: Link) -> None:
    worker = make_link("worker")

    @worker.on_task
    async def work(task: Task) -> list[Any]:
        first, second = task.ask("q1"), task.ask("q2")
        with pytest.raises(errors.BadRequest, match="wait for that before you ask another"):
            await second
        return [await first, await task.ask("q3")]

    running(worker)
    assert planner.delegate("worker", "x", on_question=str.upper).result(PATIENCE) == ["Q1", "Q3"]


def test_what_is_asked_or_told_must_be_right(make_link: MakeLink, running: Running, planner: Link) -> None:
    worker = make_link("worker")
    wrong: list[str | None] = []

    @worker.on_task
    def work(task: Task) -> None:
        for tell in (
            lambda: task.ask({1, 2}),
            lambda: task.progress(101),
            lambda: task.progress(note="x" * 2000),
            lambda: task.ask(float("nan")),
        ):
            with pytest.raises(errors.BadRequest) as refused:
                tell()
            wrong.append(refused.value.field)

    running(worker)
    planner.delegate("worker", "x").result(PATIENCE)
    assert wrong == ["result", "progress", "note", "result"]


def test_handlers_that_wait_for_others_do_not_lock_each_other_out(
    make_link: MakeLink, running: Running, planner: Link
) -> None:
    """All handlers of the middle wait for the end; what they wait for must come all the same."""
    middle, end = make_link("middle", concurrency=2), make_link("end")
    all_wait = threading.Barrier(2, timeout=20)

    @middle.on_task
    def hand_on(task: Task) -> Any:
        part = middle.delegate("end", "part")
        all_wait.wait()
        answer = task.ask("go on?").result(PATIENCE)
        return [answer, part.result(PATIENCE)]

    @end.on_task
    def finish(task: Task) -> str:
        return task.text

    running(middle)
    running(end)
    work = [planner.delegate("middle", "x", on_question=lambda question: question + " yes") for _ in range(2)]
    assert [one.result(40) for one in work] == [["go on? yes", "part"]] * 2


async def test_all_of_it_can_be_awaited(make_link: MakeLink, boss: Client) -> None:
    async with make_link("planner") as planner:
        delegation = planner.delegate("boss", "count")
        assert (await delegation.receipt).status == "delegated"
        id = await asyncio.to_thread(claim, boss)
        await asyncio.to_thread(boss.respond, id, 3)
        assert await asyncio.wait_for(asyncio.ensure_future(_value(delegation)), 30) == 3
        assert [agent.name for agent in (await planner.discover(name="boss")).agents] == ["boss"]
        assert (await planner.task(id)).status == "completed"
        with pytest.raises(errors.UnknownTask):
            await planner.task("nothing")


async def _value(delegation: Delegation) -> Any:
    return await delegation


def test_an_answer_that_came_before_is_not_lost(planner: Link, restartable: Restartable, boss: Client) -> None:
    """A result that nobody has heard of yet because the connection was away comes when it is back."""
    delegation = planner.delegate("boss", "count")
    id = claim(boss)
    restartable.stop()
    wait_until(lambda: planner.transport is None)
    restartable.start()
    boss.respond(id, "3")
    assert delegation.result(PATIENCE) == "3"


def test_a_relay_that_has_forgotten_the_task_says_so(planner: Link, restartable: Restartable, boss: Client) -> None:
    delegation = planner.delegate("boss", "count")
    delegation.receipt.result(PATIENCE)
    restartable.stop()
    restartable.forget()
    wait_until(lambda: planner.transport is None)
    restartable.start()
    wait_until(lambda: planner.transport is not None)
    with pytest.raises(errors.UnknownTask):
        planner.task(delegation.task_id).result(PATIENCE)


def test_an_end_of_the_link_is_told_to_who_waits(make_link: MakeLink, boss: Client) -> None:
    with make_link("planner") as planner:
        delegation = planner.delegate("boss", "count")
        delegation.receipt.result(PATIENCE)
    with pytest.raises(errors.ClawLinkError, match="it goes on"):
        delegation.result(PATIENCE)
    with pytest.raises(errors.ClawLinkError, match="ended"):
        planner.send("boss", 1).result(PATIENCE)
    with pytest.raises(errors.ClawLinkError, match="ended"):
        planner.discover().result(PATIENCE)
