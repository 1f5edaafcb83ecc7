"""The life of a link: how it begins and ends, comes back, and gets through where websockets do not."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clawlink
from clawlink import Link, errors
from clawlink.client.aio import AsyncClient
from clawlink.client.identity import Identities
from clawlink.client.link import engine
from clawlink.client.link import transport as lines
from clawlink.client.link.task import Received, Task
from clawlink.client.sync import Client
from tests.client.link.conftest import MakeLink
from tests.client.proxy import Proxy
from tests.client.restartable import Restartable
from tests.processes import Popen, run
from tests.tables import each
from tests.waiting import PATIENCE, forever, wait_until

Running = Callable[[Link], Link]
ROOT = Path(__file__).parent.parent.parent.parent


def echo(link: Link) -> Link:
    """Have a link return what it is given."""
    link.on_task(lambda task: task.text)
    return link


def works(boss: Client, name: str = "worker") -> None:
    """Have the worker do a task, and see that it was done."""
    assert boss.wait_for(boss.delegate(name, "x").message_id, 30).result == "x"


# -- beginning and end -------------------------------------------------------------------------------------------------


def test_the_package_offers_it() -> None:
    assert clawlink.Link is Link


def test_in_a_with_block_it_runs_beside(make_link: MakeLink, boss: Client) -> None:
    worker = echo(make_link("worker"))
    assert (worker.agent_id, worker.transport) == (None, None)
    with worker as same:
        assert same is worker
        assert worker.transport == "websocket"
        works(boss)
        assert worker.agent_id is not None
    assert worker.transport is None


async def test_in_an_async_with_block_handlers_run_in_that_loop(make_link: MakeLink, boss: Client) -> None:
    worker = make_link("worker")
    loops: list[object] = []

    @worker.on_task
    async def work(task: Task) -> str:
        loops.append(asyncio.get_running_loop())
        return task.text

    async with worker:
        await asyncio.to_thread(works, boss)
    assert loops == [asyncio.get_running_loop()]


def test_run_ends_when_a_handler_says_so(make_link: MakeLink, boss: Client) -> None:
    worker = make_link("worker", capabilities=["last"])

    @worker.on_task
    def work(task: Task) -> str:
        worker.stop()
        return "the last"

    id = boss.delegate(capability="last", task="x").message_id
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert boss.wait_for(id, 20).result == "the last"
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_before_and_after_it_runs_it_says_so(make_link: MakeLink) -> None:
    worker = make_link("worker")
    worker.stop()
    with pytest.raises(RuntimeError, match="does not run yet"):
        worker.send("boss", 1)
    with worker:
        pass
    with pytest.raises(RuntimeError, match="runs once"):
        worker.__enter__()


@each("wrong", [{"concurrency": 0}, {"concurrency": 1001}, {"lease": 1}, {"lease": 4000}], ids=lambda wrong: str(wrong))
def test_what_makes_no_sense_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"concurrency|lease"):
        Link("worker", **wrong)


def test_what_keeps_it_from_beginning_is_raised(make_link: MakeLink, guarded: str, boss: Client) -> None:
    with pytest.raises(errors.NotAuthenticated, match=f"; this is the relay at {guarded}$"):
        make_link("worker", relay=guarded).run()
    with pytest.raises(errors.RelayUnreachable):
        make_link("worker", relay="http://127.0.0.1:9").run()
    with pytest.raises(errors.NameTaken):
        make_link("boss").run()
    with pytest.raises(errors.NameTaken):
        make_link("boss").__enter__()
    with pytest.raises(errors.NotARelay):
        make_link("worker", relay="http://[nonsense").run()


def test_relay_and_token_come_from_the_environment(
    clawlink_home: Path, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_RELAY", guarded + "/")
    monkeypatch.setenv("CLAWLINK_TOKEN", "schlüssel-☃")
    with Link("from the environment") as link:
        assert link.relay == guarded
        assert link.info().result(10).auth_required
    (saved,) = Identities(clawlink_home).all()
    assert (saved.name, saved.relay, saved.token) == ("from the environment", guarded, "schlüssel-☃")
    monkeypatch.delenv("CLAWLINK_TOKEN")
    with Link("from the environment") as again:
        assert again.agent_id == saved.agent_id


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_it_goes_on_as_the_same_agent_and_its_mail_is_there(make_link: MakeLink, boss: Client, tmp_path: Path) -> None:
    with echo(make_link("worker", capabilities=["a"])) as worker:
        first = worker.agent_id
    (file,) = (tmp_path / "identities").rglob("*.json")
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    id = boss.delegate("worker", "x").message_id
    with echo(make_link("Worker", capabilities=["b"])) as worker:
        assert worker.agent_id == first
        assert boss.wait_for(id, 20).result == "x"
    assert boss.discover(status="all", capability="b").count == 1


def test_without_a_folder_nothing_is_kept(make_link: MakeLink, boss: Client) -> None:
    with make_link("worker", identities=None) as worker:
        assert worker.agent_id
    with pytest.raises(errors.NameTaken):
        make_link("worker", identities=None).run()


def test_a_relay_that_has_forgotten_it_gets_to_know_it_again(
    make_link: MakeLink, running: Running, restartable: Restartable, tmp_path: Path
) -> None:
    worker = running(echo(make_link("worker", capabilities=["a"])))
    before = worker.agent_id
    restartable.stop()
    restartable.forget()
    restartable.start()
    with Client(restartable.url) as boss:
        boss.register("boss")
        wait_until(lambda: boss.discover(capability="a").count == 1)
        works(boss)
    assert worker.agent_id == before
    (saved,) = Identities(tmp_path / "identities").all()
    with Client(restartable.url, agent_id=before, agent_key=saved.agent_key) as same:
        same.heartbeat()


def test_who_had_to_register_again_is_back_at_once(
    make_link: MakeLink, running: Running, boss: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_LEAST_PAUSE_SECONDS", 600.0)
    monkeypatch.setattr(engine, "_MOST_PAUSE_SECONDS", 600.0)
    running(echo(make_link("worker")))
    (me,) = Identities(tmp_path / "identities").all()
    with Client(boss.relay, agent_id=me.agent_id, agent_key=me.agent_key) as same:
        same.leave()
    wait_until(lambda: boss.discover(name="worker").count == 1)
    works(boss)


def test_it_says_on_which_machine_it_is(make_link: MakeLink, running: Running, boss: Client) -> None:
    running(make_link("worker"))
    (found,) = boss.discover(name="worker").agents
    assert found.machine == socket.gethostname()


def test_an_address_without_a_scheme_is_one(make_link: MakeLink, running: Running, boss: Client) -> None:
    worker = running(echo(make_link("worker", relay=boss.relay.removeprefix("http://"))))
    assert worker.relay == boss.relay
    works(boss)


# -- the connection ----------------------------------------------------------------------------------------------------


def test_it_comes_back_when_the_relay_does(
    make_link: MakeLink, running: Running, restartable: Restartable, boss: Client
) -> None:
    worker = running(echo(make_link("worker")))
    for _ in range(3):
        works(boss)
        restartable.stop()
        wait_until(lambda: worker.transport is None)
        restartable.start()
    works(boss)
    assert worker.transport == "websocket"


@pytest.mark.parametrize("trouble", ["refuse", "mute", "hang"])
def test_where_websockets_are_blocked_it_polls(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client, trouble: str
) -> None:
    proxy.websockets = trouble
    worker = make_link("worker", relay=proxy.url, timeout=1.0, concurrency=2)
    got: list[Any] = []

    @worker.on_task
    def work(task: Task) -> Any:
        task.progress(50)
        return [task.text, task.ask("sure?").result(20)]

    worker.on_message(lambda message: got.append(message.content))
    running(worker)
    assert worker.transport == "poll"
    seen: list[str] = []
    ids = [boss.delegate("worker", str(n)).message_id for n in range(4)]

    def answer(task: Any) -> None:
        seen.append(task.status)
        if task.status == "input_required":
            boss_too.answer(task.task_id, "yes")

    with Client(boss.relay, agent_id=boss.agent_id, agent_key=boss.agent_key) as boss_too:
        results = {task.task_id: task.result for task in boss.as_completed(ids, 40, answer)}
    assert results == {id: [str(n), "yes"] for n, id in enumerate(ids)}
    for n in range(5):
        boss.send("worker", n)
    wait_until(lambda: sorted(got) == list(range(5)))
    sent = [worker.send("boss", n) for n in range(5)]
    assert len({one.result(10).message_id for one in sent}) == 5
    assert proxy.sockets == 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the endpoints that links asked for."""
    names: list[str] = []
    send = AsyncClient._send

    async def count(self: AsyncClient, call: Any, patience: float) -> Any:
        names.append(call.endpoint.name)
        return await send(self, call, patience)

    monkeypatch.setattr(AsyncClient, "_send", count)
    return names


def test_without_a_websocket_the_next_poll_acks(
    make_link: MakeLink,
    proxy: Proxy,
    running: Running,
    boss: Client,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "_NEXT_POLL_SECONDS", 60.0)  # a busy machine may take as long as this is otherwise
    proxy.websockets = "refuse"
    worker = make_link("worker", relay=proxy.url, concurrency=1)
    got: list[Any] = []
    worker.on_message(lambda message: got.append(message.content))
    running(worker)
    ids = [boss.send("worker", n).message_id for n in range(5)]
    for id in ids:
        assert boss.wait_message(id, timeout=30).state == "acked"
    assert got == list(range(5))
    assert (asked.count("poll_and_ack"), asked.count("ack")) == (5, 0)


def test_without_a_websocket_an_ack_does_not_wait_for_a_poll_that_does_not_come(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client, asked: list[str]
) -> None:
    """A poll waits while the handler ends, and the next is far off."""
    proxy.websockets = "refuse"
    worker = make_link("worker", relay=proxy.url, concurrency=3)
    free = threading.Event()
    began: list[Any] = []

    @worker.on_message
    def work(message: Received) -> None:
        began.append(message.content)
        assert message.content != "slow" or free.wait(PATIENCE)

    running(worker)
    boss.send("worker", "slow")
    wait_until(lambda: "slow" in began)
    quick = boss.send("worker", "quick").message_id
    assert boss.wait_message(quick, timeout=20).state == "acked"  # less than a poll takes
    assert asked.count("ack") == 1
    free.set()


def test_a_link_that_polls_loses_no_ack_when_it_ends(
    make_link: MakeLink, proxy: Proxy, boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_NEXT_POLL_SECONDS", 60.0)  # only the end can send it
    proxy.websockets = "refuse"
    worker = make_link("worker", relay=proxy.url, concurrency=1)
    handled = threading.Event()

    @worker.on_message
    def end(message: Received) -> None:
        worker.stop()
        handled.set()

    with worker:
        id = boss.send("worker", "the last").message_id
        assert handled.wait(PATIENCE)
    assert boss.message(id).state == "acked"


def test_whoever_polls_looks_now_and_then_for_a_websocket(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_TRY_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(lines, "_POLL_SECONDS", 0.1)
    proxy.websockets = "refuse"
    worker = running(echo(make_link("worker", relay=proxy.url)))
    works_by_poll = worker.transport
    proxy.websockets = "pass"
    wait_until(lambda: worker.transport == "websocket")
    assert works_by_poll in ("poll", None)
    works(boss)


def test_a_running_handler_survives_a_cut_and_its_result_counts_once(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client
) -> None:
    worker = make_link("worker", relay=proxy.url, capabilities=["a"])
    began: list[str] = []
    free = threading.Event()

    @worker.on_task
    def work(task: Task) -> str:
        began.append(task.id)
        assert free.wait(PATIENCE)
        return "done"

    running(worker)
    ids = [boss.delegate("worker", "x").message_id, boss.delegate(capability="a", task="y").message_id]
    wait_until(lambda: sorted(began) == sorted(ids))
    for _ in range(2):
        tried = proxy.sockets
        proxy.cut()
        wait_until(lambda before=tried: proxy.sockets > before and worker.transport == "websocket")  # type: ignore[misc]
    free.set()
    assert [boss.wait_for(id, 20).result for id in ids] == ["done", "done"]
    assert sorted(began) == sorted(ids)


def test_over_many_cuts_nothing_is_lost_or_handled_twice_and_order_is_kept(
    make_link: MakeLink, restartable: Restartable, proxy: Proxy, running: Running
) -> None:
    other = Proxy(restartable.url)
    try:
        receiver = make_link("receiver", relay=proxy.url, concurrency=1)
        got: list[int] = []
        receiver.on_message(lambda message: got.append(message.content))
        running(receiver)
        sender = running(make_link("sender", relay=other.url))
        chance = random.Random(7)
        proxy.limit = other.limit = lambda: chance.randrange(300, 12_000)
        sent = [sender.send("receiver", n) for n in range(150)]
        proxy.cut()
        other.cut()
        receipts = {one.result(120).message_id for one in sent}
        wait_until(lambda: len(got) >= 150)
        assert len(receipts) == 150
        assert [n for n, times in Counter(got).items() if times > 1] == []
        assert got == list(range(150))
        assert proxy.cuts + other.cuts > 5
    finally:
        other.close()


def test_a_message_that_comes_twice_is_handled_once(
    make_link: MakeLink, proxy: Proxy, running: Running, boss: Client
) -> None:
    """The ack is lost with the connection: the message comes again, and is known."""
    worker = make_link("worker", relay=proxy.url)
    got: list[str] = []

    @worker.on_message
    def hear(message: Received) -> None:
        proxy.cut()
        got.append(message.id)

    running(worker)
    id = boss.send("worker", "x").message_id
    assert boss.wait_message(id, "acked", 20).attempts >= 1
    assert got == [id]


# -- the end -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import logging, os, pathlib, sys, time
from clawlink import Link

class Draining(logging.Handler):
    def emit(self, record):
        if record.msg.startswith("ending"):
            print("draining", flush=True)

if sys.argv[4:] == ["tell"]:
    log = logging.getLogger("clawlink.link")
    log.addHandler(Draining())
    log.setLevel(logging.INFO)

link = Link("worker", capabilities=["work"], relay=sys.argv[1], identities=sys.argv[2], drain=float(sys.argv[3]))
released = pathlib.Path(sys.argv[2]) / "released"

@link.on_task
{}def work(task):
    print("began", flush=True)
    while not released.exists():
        time.sleep(0.01)
    return "finished"

print("ready", flush=True)
link.run()
print("ended", flush=True)
"""


@pytest.fixture
def start_worker(restartable: Restartable, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(kind: str = "", drain: float = 20.0, *tell: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT.format(kind), restartable.url, str(tmp_path), str(drain), *tell]
        process = Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ))
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def began(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send to a process")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["", "async "])
def test_at_a_signal_it_finishes_what_it_began_even_if_that_blocks_the_loop(
    start_worker: Callable[..., subprocess.Popen[str]], boss: Client, tmp_path: Path, kind: str, number: int
) -> None:
    process = start_worker(kind, 20.0, "tell")
    id = boss.delegate(capability="work", task="x").message_id
    began(process)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"  # a signal takes its time to arrive
    later = boss.delegate(capability="work", task="y").message_id
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    (tmp_path / "released").touch()
    assert process.wait(PATIENCE) == 0
    assert process.stdout.read() == "ended\n"
    assert boss.wait_for(id, 10).result == "finished"
    assert boss.task(later).status == "queued"  # what was not begun waits for the next


@posix
def test_a_handler_that_does_not_end_is_given_up_after_the_time_for_draining(
    start_worker: Callable[..., subprocess.Popen[str]], boss: Client
) -> None:
    process = start_worker(drain=0.2)
    id = boss.delegate(capability="work", task="x").message_id
    began(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    wait_until(lambda: boss.task(id).status == "queued")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(
    start_worker: Callable[..., subprocess.Popen[str]], boss: Client, number: signal.Signals
) -> None:
    process = start_worker("", 600.0, "tell")
    boss.delegate(capability="work", task="x")
    began(process)
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"  # two signals that come before the first is handled are one
    process.send_signal(number)
    assert process.wait(PATIENCE) == -number


@posix
def test_a_signal_that_comes_to_another_thread_ends_it_too(
    restartable: Restartable, boss: Client, tmp_path: Path
) -> None:
    """The system chooses the thread, and the main one may be asleep; so may it if a signal comes before it sleeps."""
    script = """
import signal, sys, threading
from clawlink import Link

link = Link("worker", relay=sys.argv[1], identities=sys.argv[2])

@link.on_task
def work(task):
    signal.pthread_kill(threading.get_ident(), int(task.text))
    return "done"

link.run()
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-c", script, restartable.url, str(tmp_path)]
        process = Popen(command, cwd=ROOT)
        try:
            wait_until(lambda: bool(boss.discover(name="worker").agents))
            boss.delegate("worker", str(int(number)))
            assert process.wait(PATIENCE) == 0, number
        finally:
            process.kill()
            process.wait()


# A signal comes at each line that a link passes until it waits for its connection.
_EACH_LINE = """
import itertools, signal, sys
from clawlink import Link
from clawlink.client.link import link as module

class End(KeyboardInterrupt):
    pass

def end(number, frame):
    raise End

def trace(frame, event, argument):
    code = frame.f_code
    if code.co_filename != module.__file__:
        return None
    if event == "line":
        lines[0] -= 1
        last = code.co_name == "__aenter__" and "engine" in frame.f_locals
        if lines[0] == 0 or last:
            sys.settrace(None)
            signal.raise_signal(signal.SIGTERM)
    return trace

signal.signal(signal.SIGTERM, end)
ended = []
for line in itertools.count(1):
    link = Link("worker", relay=sys.argv[1], identities=sys.argv[2])
    lines = [line]
    sys.settrace(trace)
    try:
        link.run()
        ended.append("returned")
    except End:
        ended.append("raised")
    finally:
        sys.settrace(None)
    if lines[0] > 0:
        break
print(ended.count("returned"), ended.count("raised"))
"""


@posix
def test_a_signal_before_it_is_connected_ends_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run([sys.executable, "-c", _EACH_LINE, url, str(tmp_path)], cwd=ROOT, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    returned, _ = map(int, done.stdout.split())
    assert returned > 10


@posix
def test_another_loop_still_hears_of_signals_after_it(make_link: MakeLink) -> None:
    heard = asyncio.Event()
    loop = asyncio.new_event_loop()
    try:
        loop.add_signal_handler(signal.SIGUSR1, heard.set)
        link = make_link("worker")

        def stop() -> None:
            try:
                wait_until(lambda: link.transport is not None)
            finally:
                link.stop()

        stopping = threading.Thread(target=stop)
        stopping.start()
        link.run()
        stopping.join()
        signal.raise_signal(signal.SIGUSR1)
        loop.run_until_complete(asyncio.wait_for(heard.wait(), PATIENCE))
    finally:
        loop.close()


async def test_a_cancelled_coroutine_gives_its_task_back_at_the_end(make_link: MakeLink, boss: Client) -> None:
    worker = make_link("worker", drain=0.1)
    started = asyncio.Event()
    ended: list[str] = []

    @worker.on_task
    async def work(task: Task) -> None:
        started.set()
        try:
            await forever()
        finally:
            ended.append(task.id)

    async with worker:
        id = (await asyncio.to_thread(boss.delegate, "worker", "x")).message_id
        await asyncio.wait_for(started.wait(), 30)
    await asyncio.to_thread(wait_until, lambda: boss.task(id).status == "queued")
    assert ended == [id]


async def test_what_was_sent_is_delivered_before_it_ends(make_link: MakeLink, boss: Client) -> None:
    async with make_link("sender") as sender:
        sent = [sender.send("boss", n) for n in range(50)]
    assert all(one.done() for one in sent)
    assert len({(await one).message_id for one in sent}) == 50


def test_a_link_whose_relay_is_at_another_address_is_the_same_agent(
    restartable: Restartable, make_link: MakeLink, tmp_path: Path
) -> None:
    there = restartable.url.replace("127.0.0.1", "localhost")
    ids = []
    for relay in (restartable.url, there, there):
        with make_link("worker", relay=relay):
            pass
        (saved,) = Identities(tmp_path / "identities").all()
        ids.append(saved.agent_id)
        assert saved.relay == relay
    assert len(set(ids)) == 1
