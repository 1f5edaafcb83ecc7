"""A link while all work is stopped: what it sends is refused, and its handlers get nothing until work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from clawlink import Link
from clawlink.client.link.task import Received, Task
from clawlink.client.sync import Client
from clawlink.errors import Stopped
from tests.client.link.conftest import MakeLink
from tests.client.restartable import Restartable
from tests.waiting import PATIENCE, wait_until

Run = Callable[[Link], Link]


@pytest.fixture
def operator(restartable: Restartable) -> Iterator[Client]:
    """A client of the relay's operator, which is no agent."""
    with Client(restartable.url) as client:
        yield client


def test_work_is_refused_and_a_running_task_is_answered(
    make_link: MakeLink, running: Run, boss: Client, operator: Client
) -> None:
    worker = make_link("worker")
    began, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    @worker.on_task
    def work(task: Task) -> str:
        done.append(task.text)
        if task.text == "long":
            began.set()
            go_on.wait(PATIENCE)
        return f"{task.text}: {task.from_person}"

    running(worker)
    long = boss.delegate("worker", "long").message_id
    assert began.wait(PATIENCE)
    operator.stop_all()
    with pytest.raises(Stopped, match="operator"):  # at once: a person has to resume it
        worker.send("boss", "from the worker").result(30)
    go_on.set()
    assert boss.wait_for(long, timeout=30).result == "long: False"
    assert done == ["long"]
    operator.resume_all()
    worker.send("boss", "from the worker").result(30)
    assert boss.wait_for(boss.delegate("worker", "short").message_id, timeout=30).result == "short: False"


def test_a_handler_knows_that_a_person_asks(make_link: MakeLink, running: Run, boss: Client, operator: Client) -> None:
    worker = make_link("worker")
    heard: dict[str, bool] = {}

    @worker.on_task
    def work(task: Task) -> bool:
        return task.from_person

    @worker.on_message
    def hear(message: Received) -> None:
        heard[message.content] = message.from_person  # handlers run at once: the order may be another

    running(worker)
    task = operator.delegate_as_operator("worker", "sum").message_id
    wait_until(lambda: operator.timeline(task).task.result is True)
    operator.send_as_operator("worker", "by a person")
    boss.send("worker", "by an agent")
    wait_until(lambda: heard == {"by a person": True, "by an agent": False})
