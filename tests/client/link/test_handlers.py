"""The fate of a handler's result, of its failure, and of a handler that does as it likes."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from clawlink import Link
from clawlink.client.calls import Claimed
from clawlink.client.link import dispatcher
from clawlink.client.link.runner import Runner
from clawlink.client.link.task import Received, Task
from clawlink.client.sync import Client
from clawlink.domain.message import KnowledgeBroadcast, PlainMessage
from tests.client.link.conftest import MakeLink
from tests.waiting import PATIENCE, forever, wait_until

Running = Callable[[Link], Link]


def outcome(boss: Client, text: str = "do it") -> tuple[str, Any]:
    """Delegate to the worker, and return how that ends."""
    view = boss.wait_for(boss.delegate("worker", text).message_id, 20)
    return view.status, view.result


def said(boss: Client) -> list[Claimed]:
    """Return what was said to the boss, once something was."""
    for _ in range(20):
        claimed = boss.poll(wait=5)
        boss.ack([one.receipt for one in claimed])
        found = [one for one in claimed if isinstance(one.message, PlainMessage)]
        if found:
            return found
    raise AssertionError("nothing was said")


@pytest.mark.parametrize("result", [None, "text", 3, 1.5, True, ["a", {"b": None}], {"ключ": "☃"}, ""])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_a_handler_returns_is_the_result(
    make_link: MakeLink, running: Running, boss: Client, kind: str, result: Any
) -> None:
    worker = make_link("worker")

    def plain(task: Task) -> Any:
        return result

    async def coroutine(task: Task) -> Any:
        await asyncio.sleep(0)
        return result

    handler: Callable[[Task], Any] = plain if kind == "plain" else coroutine
    worker.on_task(handler)
    running(worker)
    assert outcome(boss) == ("completed", result)


def test_a_handler_may_be_any_callable(make_link: MakeLink, running: Running, boss: Client) -> None:
    class Agent:
        async def __call__(self, task: Task) -> str:
            return task.text + "!"

        async def work(self, suffix: str, task: Task) -> str:
            return task.text + suffix

    handlers: dict[str, Callable[[Task], Any]] = {
        "object": Agent(),
        "partial": functools.partial(Agent().work, "?"),
        "lambda": lambda task: Agent()(task),
    }
    for name, handler in handlers.items():
        worker = make_link(name)
        worker.on_task(handler)
        running(worker)
        task = boss.wait_for(boss.delegate(name, "x").message_id, 20)
        assert task.result == ("x?" if name == "partial" else "x!")


def test_a_task_has_what_its_handler_needs(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", capabilities=["count"])
    seen: list[Task] = []

    @worker.on_task
    def count(task: Task) -> int:
        seen.append(task)
        told = task.progress(40, "half").result(10)
        assert told.task_status == "in_progress"
        return int(task.context["to"])

    running(worker)
    id = boss.delegate(capability="count", task="Count", context={"to": 3}, priority="high", deadline=1000).message_id
    view = boss.wait_for(id, 20)
    (task,) = seen
    assert (view.result, task.id, task.text, task.context) == (3, id, "Count", {"to": 3})
    assert (task.from_agent, task.from_name, task.priority) == (boss.agent_id, "boss", "high")
    assert (task.attempt, task.reported, task.cancelled) == (1, [], False)
    assert task.deadline is not None
    assert task.deadline.isoformat(timespec="milliseconds") == view.deadline_at
    assert id in repr(task)
    assert [(event.progress, event.note) for event in view.history if event.note] == [(40, "half")]


class Silent(Exception):
    """Says nothing."""


FAILURES = [
    (ValueError("there is no such page"), "there is no such page"),
    (ValueError("no"), "ValueError: no"),
    (KeyError("a page"), "KeyError: 'a page'"),
    (Silent(), "Silent"),
    (SystemExit(3), "SystemExit: 3"),
    (asyncio.CancelledError(), "CancelledError"),
    (GeneratorExit(), "GeneratorExit"),
    (TimeoutError("it took too long"), "it took too long"),
]


@pytest.mark.parametrize(("error", "sentence"), FAILURES, ids=lambda one: str(one))
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_what_a_handler_raises_makes_the_task_failed(
    make_link: MakeLink, running: Running, boss: Client, kind: str, error: BaseException, sentence: str
) -> None:
    worker = make_link("worker")

    def plain(task: Task) -> str:
        if task.text == "fail":
            raise error
        return "well"

    async def coroutine(task: Task) -> str:
        return plain(task)

    handler: Callable[[Task], Any] = plain if kind == "plain" else coroutine
    worker.on_task(handler)
    running(worker)
    assert outcome(boss, "fail") == ("failed", sentence)
    assert outcome(boss) == ("completed", "well")  # and the agent lives on


def circle() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    "result",
    [{1, 2}, b"bytes", object(), float("nan"), {"x": [float("inf")]}, {(1, 2): 3}, "\ud800", circle(), Silent],
    ids=lambda result: type(result).__name__,
)
def test_a_result_that_is_not_json_makes_the_task_failed(
    make_link: MakeLink, running: Running, boss: Client, result: Any
) -> None:
    worker = make_link("worker")
    worker.on_task(lambda task: result)
    running(worker)
    status, said = outcome(boss)
    assert status == "failed"
    assert said.startswith(f"the result of the handler is not JSON ({type(result).__name__}): ")


def test_a_result_that_the_relay_does_not_take_makes_the_task_failed(
    make_link: MakeLink, running: Running, boss: Client, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_link("worker")
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    worker.on_task(lambda task: "x" * 2_000_000 if task.text == "large" else deep)
    running(worker)
    for text in ("large", "deep"):
        status, said = outcome(boss, text)
        assert status == "failed"
        assert said.startswith("the result could not be delivered: ")
    assert caplog.text.count("could not be delivered") == 2


def test_a_handler_may_ask_to_be_told_the_end(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker")
    ends: list[tuple[str | None, str | None]] = []

    @worker.on_task
    def work(task: Task) -> str:
        task.when_over(lambda status, why: ends.append((status, why)))
        if task.text == "fail":
            raise ValueError("it cannot be")
        if task.text == "cancel":
            boss_too.cancel(task.id)
            wait_until(lambda: task.cancelled)
        return "x" * 2_000_000 if task.text == "large" else "fine"

    running(worker)
    with Client(boss.relay, agent_id=boss.agent_id, agent_key=boss.agent_key) as boss_too:
        for n, text in enumerate(("do it", "fail", "large", "cancel"), 1):
            outcome(boss, text)
            wait_until(lambda n=n: len(ends) == n)  # type: ignore[misc]
    assert ends[:2] == [("completed", None), ("failed", "it cannot be")]
    assert ends[2][0] == "failed"
    assert str(ends[2][1]).startswith("the result could not be delivered: ")
    assert ends[3] == (None, None)


@pytest.mark.parametrize("kind", ["plain", "async", "blocking"])
def test_a_handler_that_hangs_is_reported_if_there_is_a_limit(
    make_link: MakeLink, running: Running, boss: Client, kind: str
) -> None:
    worker = make_link("worker", handler_timeout=1.5, concurrency=1)
    free = threading.Event()
    cancelled = threading.Event()
    seen: list[bool] = []

    def plain(task: Task) -> str:
        if task.text == "hang":
            before = task.cancelled
            free.wait(PATIENCE)
            seen[:] = before, task.cancelled
        return "well"

    async def coroutine(task: Task) -> str:
        if task.text == "hang":
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return "well"

    async def blocking(task: Task) -> str:
        return plain(task)

    worker.on_task({"plain": plain, "async": coroutine, "blocking": blocking}[kind])
    running(worker)
    assert outcome(boss, "hang") == ("failed", "the handler did not end within 1.5 s")
    if kind == "async":
        assert cancelled.wait(PATIENCE)
    if kind == "blocking":
        free.set()  # until then no other coroutine of this agent can run
    assert outcome(boss) == ("completed", "well")
    free.set()
    if kind == "plain":
        wait_until(lambda: seen == [False, True])


def test_threads_that_hang_do_not_become_ever_more(
    make_link: MakeLink, running: Running, boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_MOST_HUNG", 0)
    worker = make_link("worker", handler_timeout=1.5, concurrency=1)
    free = threading.Event()
    began: list[str] = []

    @worker.on_task
    def hang(task: Task) -> None:
        began.append(task.text)
        if task.text == "hang":
            assert free.wait(PATIENCE)

    running(worker)
    assert outcome(boss, "hang")[0] == "failed"
    second = boss.delegate("worker", "more").message_id
    boss.wait_message(second, "delivered", 10)
    assert began == ["hang"]
    free.set()
    assert boss.wait_for(second, 10).status == "completed"


def test_leases_go_on_while_handlers_run_even_if_they_block_the_loop(
    make_link: MakeLink, running: Running, boss: Client
) -> None:
    free = threading.Event()
    began: list[str] = []

    def plain(task: Task) -> int:
        began.append(task.id)
        assert free.wait(PATIENCE)
        return task.attempt

    async def blocking(task: Task) -> int:
        return plain(task)

    for name, handler in {"plain": plain, "blocking": blocking}.items():
        worker = make_link(name, capabilities=[f"long {name}"], lease=5)
        worker.on_task(handler)
        running(worker)
    ids = [boss.delegate(capability=f"long {name}", task="wait").message_id for name in ("plain", "blocking")]
    wait_until(lambda: set(began) == set(ids))
    with Client(boss.relay) as rival:
        rival.register("rival", capabilities=["long plain", "long blocking"], subscriptions=[])
        # Longer than the lease, and whoever could have taken them gets neither.
        assert [one.message_id for one in rival.poll(wait=8) if one.message_id in ids] == []
    free.set()
    assert [boss.wait_for(id, 20).result for id in ids] == [1, 1]
    assert sorted(began) == sorted(ids)


def test_no_more_handlers_run_at_once_than_are_allowed(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", concurrency=3)
    lock = threading.Lock()
    now, most = 0, 0
    free = threading.Event()

    @worker.on_task
    def work(task: Task) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        assert free.wait(PATIENCE)
        with lock:
            now -= 1

    running(worker)
    ids = [boss.delegate("worker", str(n)).message_id for n in range(10)]
    wait_until(lambda: now == 3)
    assert [boss.task(id).status for id in ids].count("queued") == 7  # the rest is left to others
    free.set()
    for task in boss.as_completed(ids, 20):
        assert task.status == "completed"
    assert most == 3


def test_a_task_for_an_agent_without_a_handler_is_rejected(make_link: MakeLink, running: Running, boss: Client) -> None:
    running(make_link("worker"))
    assert outcome(boss) == ("rejected", "'worker' takes no tasks: it has no handler for them")


def test_a_task_that_is_cancelled_cancels_its_handler(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", concurrency=2)
    began, ended = threading.Event(), threading.Event()

    @worker.on_task
    async def work(task: Task) -> None:
        began.set()
        try:
            await forever()
        finally:
            assert task.cancelled
            ended.set()

    running(worker)
    id = boss.delegate("worker", "wait").message_id
    assert began.wait(PATIENCE)
    boss.cancel(id)
    assert ended.wait(PATIENCE)
    assert boss.task(id).status == "cancelled"


def test_a_plain_handler_sees_that_its_task_is_cancelled(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", concurrency=2)
    seen = threading.Event()

    @worker.on_task
    def work(task: Task) -> str:
        wait_until(lambda: task.cancelled)
        seen.set()
        return "too late"

    running(worker)
    id = boss.delegate("worker", "wait").message_id
    boss.wait_message(id, "delivered", 10)
    boss.cancel(id)
    assert seen.wait(PATIENCE)
    assert boss.task(id).status == "cancelled"


def test_messages_are_handled_and_answered(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker")
    got: list[Received] = []

    @worker.on_message
    async def hear(message: Received) -> None:
        got.append(message)
        await message.reply({"heard": message.content})

    running(worker)
    id = boss.send("worker", "hello", thread="t").message_id
    (claimed,) = said(boss)
    assert (claimed.raw["content"], claimed.raw["in_reply_to"], claimed.raw["thread"]) == ({"heard": "hello"}, id, "t")
    wait_until(lambda: boss.message(id).state == "acked")
    (message,) = got
    assert (message.id, message.from_name, message.thread, message.in_reply_to) == (id, "boss", "t", None)
    assert id in repr(message)


def test_a_message_whose_handler_fails_comes_again(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker")
    tries: list[str] = []

    @worker.on_message
    def hear(message: Received) -> None:
        tries.append(message.id)
        if len(tries) == 1:
            raise OSError("the disk is full")

    running(worker)
    id = boss.send("worker", "hello").message_id
    assert boss.wait_message(id, "acked", 20).attempts == 2
    assert tries == [id, id]


def test_a_message_without_a_handler_is_acked_and_logged(
    make_link: MakeLink, running: Running, boss: Client, caplog: pytest.LogCaptureFixture
) -> None:
    running(make_link("worker"))
    assert boss.wait_message(boss.send("worker", "hello").message_id, "acked", 10).state == "acked"
    assert "a message from 'boss' is dropped" in caplog.text


def test_broadcasts_go_to_the_handlers_of_their_topics(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", concurrency=1)
    got: list[tuple[str, str]] = []

    @worker.on_broadcast("build.*")
    def build(news: KnowledgeBroadcast) -> None:
        got.append(("build", news.content))
        if news.content == "red":
            raise ValueError("I cannot see this")

    @worker.on_broadcast("build.main")
    async def main(news: KnowledgeBroadcast) -> None:
        got.append(("main", news.content))

    running(worker)
    ids = [
        boss.broadcast(content, topic=topic).message_id
        for content, topic in (("red", "build.main"), ("blue", "weather"), ("green", "build.side"))
    ]
    wait_until(lambda: ("build", "green") in got)
    assert got == [("build", "red"), ("main", "red"), ("build", "green")]
    assert [boss.message(id).recipients for id in ids] == [1, 0, 1]
    wait_until(lambda: boss.message(ids[0]).counts == {"acked": 1})


def test_all_broadcasts_can_be_asked_for(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = make_link("worker", concurrency=1)
    got: list[str] = []

    @worker.on_broadcast
    def news(news: KnowledgeBroadcast) -> None:
        got.append(news.topic)

    running(worker)
    boss.broadcast("a", topic="one")
    boss.broadcast("b", topic="two")
    wait_until(lambda: got == ["one", "two"])


def test_handlers_are_registered_once_and_before_the_link_runs(make_link: MakeLink, running: Running) -> None:
    worker = make_link("worker")
    worker.on_task(print)
    worker.on_message(print)
    with pytest.raises(ValueError, match="tasks already"):
        worker.on_task(print)
    with pytest.raises(ValueError, match="messages already"):
        worker.on_message(print)
    running(worker)
    for register in (worker.on_task, worker.on_message, worker.on_broadcast):
        with pytest.raises(RuntimeError):
            register(print)


def test_new_work_names_the_task_that_it_is_done_for(make_link: MakeLink, running: Running, boss: Client) -> None:
    for kind in ("plain", "async"):
        worker = make_link(kind)

        def plain(task: Task, worker: Link = worker) -> str:
            return worker.send("boss", "about it").result(10).message_id

        async def coroutine(task: Task, worker: Link = worker) -> str:
            return (await worker.send("boss", "about it")).message_id

        handler: Callable[[Task], Any] = plain if kind == "plain" else coroutine
        worker.on_task(handler)
        running(worker)
        id = boss.delegate(kind, "x").message_id
        sent = boss.wait_for(id, 20).result
        (one,) = [one for one in said(boss) if one.message_id == sent]
        assert one.raw["chain"]["parent_task"] == id
        boss.send(kind, "no handler")
        assert worker.send("boss", "of itself").result(10).status == "sent"


def test_coroutines_of_plain_functions_that_return_together_run_in_one_loop() -> None:
    together = threading.Barrier(8)

    async def its_loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def plain(_: object) -> Any:
        together.wait(PATIENCE)
        return its_loop()

    runner = Runner(None)
    runs = [runner.start(plain, None) for _ in range(8)]
    loops = {run.outcome.result(PATIENCE).result for run in runs}
    runner.close()
    assert [loop.is_closed() for loop in loops] == [True]


def test_an_interrupt_gives_the_task_back_and_goes_on_to_whoever_runs_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        run = Runner(asyncio.get_running_loop()).start(interrupted, None)
        await forever()
        run.cancel()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run())

    loop = asyncio.new_event_loop()
    started = Runner(loop).start(interrupted, None)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert started.outcome.result(5).stopped
    loop.close()
    assert Runner(loop).start(interrupted, None).outcome.result(5).stopped  # a loop that is closed runs nothing
    caplog.set_level(logging.INFO)
