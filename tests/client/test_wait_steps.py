"""Waiting for tasks and messages, through whatever happens to the relay meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from clawlink import errors
from clawlink.client import wait_steps
from clawlink.client.base_client import BaseClient
from clawlink.client.sync import Client
from clawlink.client.wait_steps import FINAL, StillPending, reached, settled
from clawlink.domain.message import TaskDelegation
from clawlink.errors import ClawLinkError
from clawlink.protocol.mailbox_replies import MessageStatus
from clawlink.protocol.replies import TaskView
from tests.client.conftest import Scripted, http
from tests.client.facade import connect
from tests.client.restartable import Restartable
from tests.waiting import wait_until

Beside = Callable[..., "Future[Any]"]

pytestmark = pytest.mark.usefixtures("each_client")


@pytest.fixture
def beside() -> Iterator[Beside]:
    """Run something in a thread beside the test: ``beside(client.wait_for, id).result(10)``."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def ann(restartable: Restartable) -> Iterator[Client]:
    with connect(restartable.url) as client:
        client.register("ann")
        yield client


@pytest.fixture
def bob(restartable: Restartable, ann: Client) -> Iterator[Client]:
    with connect(restartable.url) as client:
        client.register("bob", capabilities=["python"])
        yield client


def claim(client: Client) -> str:
    """Claim a task, and return its id."""
    for _ in range(20):
        for one in client.poll(wait=5):
            client.ack([one.receipt])
            if isinstance(one.message, TaskDelegation):
                return one.message_id
    raise AssertionError("no task came")


# -- one task ----------------------------------------------------------------------------------------------------------


def test_wait_for_returns_the_task_when_it_is_final_and_tells_each_change(
    ann: Client, bob: Client, beside: Beside
) -> None:
    id = ann.delegate("bob", "count").message_id
    seen: list[tuple[str, float | None, str | None]] = []
    done = beside(ann.wait_for, id, 20, lambda task: seen.append((task.status, task.progress, task.note)))
    wait_until(lambda: len(seen) == 1)
    assert claim(bob) == id
    wait_until(lambda: seen[-1][0] == "delivered")
    bob.respond(id, status="in_progress", progress=40, note="half")
    wait_until(lambda: seen[-1] == ("in_progress", 40, "half"))
    bob.respond(id, {"n": 3})
    task = done.result(10)
    assert isinstance(task, TaskView)
    assert (task.status, task.result, task.finished_at is not None) == ("completed", {"n": 3}, True)
    assert seen[0][0] == "queued"
    assert seen[-1][0] == "completed"
    assert ann.wait_for(id).result == {"n": 3}  # of a task that is finished the answer is there at once


@pytest.mark.parametrize("status", ["failed", "rejected", "cancelled"])
def test_wait_for_returns_a_task_that_ends_in_another_way(
    ann: Client, bob: Client, beside: Beside, status: str
) -> None:
    id = ann.delegate("bob", "count").message_id
    done = beside(ann.wait_for, id, 20)
    if status == "cancelled":
        with connect(ann.relay, agent_id=ann.agent_id, agent_key=ann.agent_key) as same:
            same.cancel(id, note="no need")
    else:
        claim(bob)
        bob.respond(id, "cannot", status=status)
    task = done.result(10)
    assert task.status == status
    assert status in FINAL


def test_when_the_time_is_over_it_says_where_the_task_stands(ann: Client, bob: Client) -> None:
    id = ann.delegate("bob", "count").message_id
    started = time.monotonic()
    with pytest.raises(StillPending, match=f"{id} is still queued after 0.3 s, and goes on") as late:
        ann.wait_for(id, 0.3)
    assert 0.3 <= time.monotonic() - started < 15
    assert late.value.current == "queued"
    with pytest.raises(StillPending):
        ann.wait_for(id, 0)


def test_what_does_not_get_better_by_waiting_is_raised_at_once(
    restartable: Restartable, ann: Client, bob: Client
) -> None:
    with pytest.raises(errors.UnknownTask):
        ann.wait_for("nothing", 20)
    id, other = (ann.delegate("bob", "count").message_id for _ in range(2))
    with connect(restartable.url) as eve:
        eve.register("eve")
        with pytest.raises(errors.NotAllowed):
            eve.wait_for(id, 20)
        with pytest.raises(errors.NotAllowed):
            list(eve.as_completed([id, other], 20))
    with connect(restartable.url) as stranger, pytest.raises(errors.BadRequest):
        stranger.wait_for(id, 20)


def test_it_survives_a_relay_that_restarts_and_says_so_once(
    restartable: Restartable, ann: Client, bob: Client, beside: Beside
) -> None:
    id = ann.delegate("bob", "count").message_id
    claim(bob)
    away: list[ClawLinkError | None] = []
    seen: list[str] = []
    done = beside(ann.wait_for, id, 60, lambda task: seen.append(task.status), on_away=away.append)
    wait_until(lambda: seen == ["delivered"])
    restartable.stop()
    wait_until(lambda: len(away) == 1)
    assert isinstance(away[0], errors.RelayUnreachable)
    restartable.start()
    wait_until(lambda: len(away) == 2)
    assert away[1] is None
    bob.respond(id, "done")
    assert done.result(20).result == "done"
    assert seen == ["delivered", "completed"]


def test_it_begins_before_the_relay_does(restartable: Restartable, ann: Client, bob: Client, beside: Beside) -> None:
    id = ann.delegate("bob", "count").message_id
    claim(bob)
    bob.respond(id, "done")
    restartable.stop()
    away: list[ClawLinkError | None] = []
    done = beside(ann.wait_for, id, 60, on_away=away.append)
    wait_until(lambda: len(away) == 1)
    restartable.start()
    assert done.result(20).result == "done"
    assert away[1:] == [None]


def test_a_relay_that_shuts_down_is_said_to_and_is_not_asked_without_pause(
    restartable: Restartable, ann: Client, bob: Client, beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = ann.delegate("bob", "count").message_id
    asked: list[str] = []
    headers = BaseClient._headers

    def counting(self: BaseClient, call: Any) -> dict[str, str]:
        asked.append(call.path)
        return headers(self, call)

    monkeypatch.setattr(BaseClient, "_headers", counting)
    away: list[ClawLinkError | None] = []
    seen: list[str] = []
    done = beside(ann.wait_for, id, 2.5, lambda task: seen.append(task.status), on_away=away.append)
    wait_until(lambda: len(seen) == 1)
    restartable.drain()
    with pytest.raises(StillPending, match="shutting down"):
        done.result(10)
    assert [type(error) for error in away] == [errors.Draining]
    assert len(asked) <= 12


def test_a_relay_that_was_never_heard_of_is_told_as_such_when_the_time_is_over(scripted: Scripted) -> None:
    scripted.script = [30.0]
    started = time.monotonic()
    with connect(scripted.url, agent_id="a") as client, pytest.raises(errors.RelayUnreachable):
        client.wait_for("t", 0.2)
    assert time.monotonic() - started < 15


def test_what_answers_in_the_place_of_a_relay_is_waited_out_but_must_have_been_one(scripted: Scripted) -> None:
    proxy = http("502 Bad Gateway", "<html>bad gateway</html>")
    scripted.script = [proxy]
    with connect(scripted.url, agent_id="a") as client, pytest.raises(errors.NotARelay):
        client.wait_for("t", 20)
    scripted.script = [view("in_progress", 1), proxy, proxy, view("completed", 2)]
    away: list[ClawLinkError | None] = []
    with connect(scripted.url, agent_id="a") as client:
        assert client.wait_for("t", 20, on_away=away.append).status == "completed"
    assert [type(error) for error in away] == [errors.NotARelay, type(None)]


def view(status: str, version: int) -> bytes:
    """Return a reply of a relay about a task."""
    fields: dict[str, Any] = dict.fromkeys(TaskView.__struct_fields__)
    text = ("task_id", "requester", "task", "priority", "created_at", "queued_at")
    fields |= {**dict.fromkeys(text, "x"), "status": status, "version": version, "attempts": 1, "context": {}}
    fields |= {
        "history": [],
        "history_folded": 0,
        "hops": 0,
        "dead_letter": False,
        "attachments": [],
        "result_attachments": [],
        "woken": [],
    }
    return http("200 OK", msgspec.json.encode(fields))


# -- several tasks -----------------------------------------------------------------------------------------------------


def test_results_come_as_they_are_ready(ann: Client, bob: Client, beside: Beside) -> None:
    ids = [ann.delegate("bob", str(n)).message_id for n in range(3)]
    order = [ids[1], ids[2], ids[0]]
    come: list[TaskView] = []

    def collect() -> None:
        come.extend(ann.as_completed([*ids, ids[0]], 30))

    done = beside(collect)
    for n, id in enumerate(order):
        bob.respond(id, n)
        wait_until(lambda: len(come) > n)  # noqa: B023 - called before the next turn
    done.result(20)
    assert [task.task_id for task in come] == order
    assert [task.result for task in come] == [0, 1, 2]


def test_any_is_the_first_that_is_completed_and_not_one_that_failed(ann: Client, bob: Client, beside: Beside) -> None:
    failed, won, open_one = (ann.delegate("bob", text).message_id for text in ("a", "b", "c"))
    seen: list[tuple[str, str]] = []
    done = beside(ann.wait_any, [failed, won, open_one], 30, lambda task: seen.append((task.task_id, task.status)))
    bob.respond(failed, "no", status="failed")
    wait_until(lambda: (failed, "failed") in seen)
    assert not done.done()
    bob.respond(won, "yes")
    assert done.result(10).task_id == won
    assert ann.task(open_one).status == "queued"


def test_any_of_tasks_that_all_fail_is_the_last(ann: Client, bob: Client) -> None:
    ids = [ann.delegate("bob", text).message_id for text in ("a", "b")]
    for id in ids:
        bob.respond(id, "no", status="rejected")
    assert ann.wait_any(ids, 20).status == "rejected"
    with pytest.raises(errors.BadRequest):
        ann.wait_any([])


def test_when_the_time_is_over_the_open_ones_are_named(ann: Client, bob: Client) -> None:
    first, second, third = (ann.delegate("bob", text).message_id for text in ("a", "b", "c"))
    bob.respond(second, "done")
    results = ann.as_completed([first, second, third], 0.5)
    assert next(results).task_id == second
    with pytest.raises(StillPending, match="2 of them are still open") as late:
        next(results)
    assert late.value.current == {first: "queued", third: "queued"}


def test_no_time_at_all_still_tells_what_is_there(ann: Client, bob: Client) -> None:
    ids = [ann.delegate("bob", text).message_id for text in ("a", "b")]
    for id in ids:
        bob.respond(id, "done")
    assert {task.task_id for task in ann.as_completed(ids, 0)} == set(ids)


def test_several_survive_a_restart_and_it_is_said_once(
    restartable: Restartable, ann: Client, bob: Client, beside: Beside
) -> None:
    ids = [ann.delegate("bob", str(n)).message_id for n in range(5)]
    away: list[ClawLinkError | None] = []
    seen: list[str] = []

    def collect() -> list[str]:
        return [
            t.task_id for t in ann.as_completed(ids, 60, lambda task: seen.append(task.task_id), on_away=away.append)
        ]

    done = beside(collect)
    wait_until(lambda: set(seen) == set(ids))
    restartable.stop()
    wait_until(lambda: len(away) == 1)
    restartable.start()
    for id in ids:
        bob.respond(id, "done")
    assert set(done.result(30)) == set(ids)
    assert (isinstance(away[0], errors.RelayUnreachable), away[1:]) == (True, [None])


def test_more_tasks_than_connections_take_turns(
    ann: Client, bob: Client, beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_steps, "CROWD", 4)
    monkeypatch.setattr(wait_steps, "_TURN_SECONDS", 0.05)
    ids = [ann.delegate("bob", str(n)).message_id for n in range(15)]
    come: list[str] = []
    before = threading.active_count()
    done = beside(lambda: come.extend(task.task_id for task in ann.as_completed(ids, 30)))
    for n, id in enumerate(reversed(ids)):
        bob.respond(id, n)
    assert threading.active_count() <= before + 1 + 4
    done.result(20)
    assert sorted(come) == sorted(ids)
    wait_until(lambda: threading.active_count() <= before + 1)


# -- a message ---------------------------------------------------------------------------------------------------------


def test_a_message_is_waited_for_until_it_is_acked_or_answered(ann: Client, bob: Client, beside: Beside) -> None:
    id = ann.send("bob", "hello").message_id
    seen: list[str] = []
    acked = beside(ann.wait_message, id, "acked", 20, lambda status: seen.append(status.state))
    wait_until(lambda: seen == ["stored"])
    [claimed] = [one for one in bob.poll(wait=5) if one.message_id == id]
    wait_until(lambda: seen == ["stored", "delivered"])
    bob.ack([claimed.receipt])
    assert acked.result(10).acked_at is not None
    answered = beside(ann.wait_message, id, "answered", 20)
    bob.send("ann", "and to you", in_reply_to=id)
    assert answered.result(10).answered_at is not None


def test_a_message_that_will_never_be_acked_ends_the_wait(ann: Client, bob: Client) -> None:
    id = ann.send("bob", "hello").message_id
    with pytest.raises(StillPending, match=f"{id} is still stored"):
        ann.wait_message(id, timeout=0.1)
    bob.leave()
    status = ann.wait_message(id, timeout=20)
    assert status.state == "expired"
    assert settled(status, "acked")
    assert not reached(status, "acked")


def test_a_broadcast_to_no_mailbox_ends_the_wait(ann: Client) -> None:
    status = ann.wait_message(ann.broadcast("news", topic="nobody").message_id, "acked", 20)
    assert (status.recipients, status.counts) == (0, {})
    refused = replace(status, state="refused", recipients=1, counts={"refused": 1})
    assert settled(refused, "delivered")
    assert not reached(refused, "delivered")


def test_a_broadcast_is_acked_when_all_have_it(ann: Client, bob: Client, beside: Beside) -> None:
    id = ann.broadcast("news").message_id
    done = beside(ann.wait_message, id, "acked", 20)
    bob.ack([one.receipt for one in bob.poll(wait=5)])
    status = done.result(10)
    assert isinstance(status, MessageStatus)
    assert status.counts == {"acked": 1}
    assert reached(status, "acked")
    assert reached(status, "delivered")
    assert not reached(status, "answered")
