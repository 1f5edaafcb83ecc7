"""A link whose task is another agent's by now, or whose result nobody takes yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clawlink import Link
from clawlink.client.link.task import Task
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from tests.client.link.conftest import MakeLink
from tests.client.proxy import Proxy
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE, forever, wait_until

Running = Callable[[Link], Link]


def take_over(worker: Link, boss: Client, proxy: Proxy, began: threading.Event) -> tuple[str, Client]:
    """Have a rival claim the worker's task while the worker's connection is cut; return the task and the rival."""
    id = boss.delegate(capability="long", task="wait").message_id
    assert began.wait(PATIENCE)
    rival = Client(boss.relay)
    rival.register("rival", capabilities=["long"], subscriptions=[])
    with ThreadPoolExecutor(1) as beside:
        claiming = beside.submit(rival.poll, wait=20, max=1)
        proxy.websockets = "hang"  # so that the worker is not back first
        proxy.cut()
        assert [one.message_id for one in claiming.result(30)] == [id]
    proxy.websockets = "pass"
    proxy.cut()
    return id, rival


def test_a_coroutine_whose_task_was_taken_over_is_cancelled(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client
) -> None:
    worker = make_link("worker", relay=proxy.url, capabilities=["long"], lease=5, timeout=1.0)
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
    id, rival = take_over(worker, boss, proxy, began)
    with rival:
        assert ended.wait(PATIENCE)
        rival.respond(id, "by the rival")
        assert boss.wait_for(id, 10).result == "by the rival"


def test_a_result_that_comes_too_late_is_refused_and_that_is_logged(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_link("worker", relay=proxy.url, capabilities=["long"], timeout=1.0)
    began, free = threading.Event(), threading.Event()

    @worker.on_task
    def work(task: Task) -> str:
        began.set()
        assert free.wait(PATIENCE)
        return "late"

    running(worker)
    id, rival = take_over(worker, boss, proxy, began)
    with rival:
        free.set()
        wait_until(lambda: f"the result of task {id} came too late" in caplog.text)
        rival.respond(id, "by the rival")
        assert boss.wait_for(id, 10).result == "by the rival"


def test_a_result_waits_until_there_is_room_for_it(tmp_path: Path) -> None:
    limits = Limits(max_mailbox_messages=4, rate_agent=0, rate_pair=0)
    with relay_in_thread(ServerConfig(port=0, limits=limits)) as url, Client(url) as boss:
        boss.register("boss", subscriptions=[])
        worker = Link("worker", relay=url, identities=tmp_path)
        free = threading.Event()

        @worker.on_task
        def work(task: Task) -> str:
            assert free.wait(PATIENCE)
            return "done"

        with worker, Client(url) as other:
            other.register("other", subscriptions=[])
            id = boss.delegate("worker", "x").message_id
            for n in range(4):
                other.send("boss", n)
            free.set()
            boss.wait_message(id, "delivered", 10)
            claimed = boss.poll(wait=5)
            assert len(claimed) >= 4
            boss.ack([one.receipt for one in claimed])
            assert boss.wait_for(id, 30).result == "done"
