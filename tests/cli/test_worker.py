"""``clawlink work``: a command does the tasks, in a process of its own, and nothing that others wrote is ever typed."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clawlink.cli import running
from clawlink.client.sync import Client
from clawlink.protocol.replies import TaskView
from tests.cli.conftest import COMMAND, Run
from tests.processes import Popen
from tests.tables import each
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups and signals are of POSIX")

PATIENCE = 30.0  # less than a lease: a task that was lost would come again
Fresh = Callable[[str], str]


def python(program: str, *arguments: object) -> str:
    """Return the command that runs a program of Python."""
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


@dataclass
class Worker:
    """A worker that is connected."""

    process: subprocess.Popen[bytes]
    name: str
    folder: Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text("utf-8")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text("utf-8")

    def until(self, said: str) -> None:
        """Wait until it has said this on standard error."""
        wait_until(lambda: said in self.err or self.process.poll() is not None, say=lambda: self.err)
        assert said in self.err

    def until_told(self, line: str) -> None:
        """Wait until it has said this on standard output: it does so a moment after the relay has the result."""
        wait_until(lambda: line in self.out, say=lambda: self.out)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Start = Callable[..., Worker]


@pytest.fixture
def start(relay: str, fresh: Fresh, tmp_path: Path) -> Iterator[Start]:
    """Start workers: ``start(command, "--concurrency", "2")``."""
    workers: list[Worker] = []

    def start(command: str, *flags: str, name: str | None = None) -> Worker:
        name = name or fresh("worker")
        folder = tmp_path / fresh(name)
        folder.mkdir()
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = Popen([*COMMAND, "work", "--name", name, "--exec", command, *flags], stdout=out, stderr=err)
        worker = Worker(process, name, folder)
        workers.append(worker)
        worker.until("connected to")
        return worker

    yield start
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def boss(relay: str, fresh: Fresh) -> Iterator[Client]:
    with Client(relay) as client:
        client.register(fresh("boss"))
        yield client


def done(boss: Client, worker: Worker, task: str = "do it", **context: Any) -> TaskView:
    """Delegate a task to the worker, and return what came of it."""
    return boss.wait_for(boss.delegate(worker.name, task, context=context).message_id, timeout=PATIENCE)


def test_a_task_is_the_commands_input_and_its_output_the_result(start: Start, boss: Client) -> None:
    worker = start(python("import sys; print(sys.stdin.read(), end='')"))
    view = done(boss, worker, "sagt \u00e4 \U0001f980", file="parser.py")
    assert view.status == "completed"
    task = json.loads(view.result)
    assert task["type"] == "task_delegation"
    assert task["message_id"] == view.task_id
    assert (task["task"], task["context"]) == ("sagt \u00e4 \U0001f980", {"file": "parser.py"})
    assert task["from_agent"] == boss.agent_id
    worker.until_told(f"task {view.task_id} done")
    assert f'task {view.task_id} began, from "boss-' in worker.err
    assert f"({boss.agent_id})" in worker.err


def test_lines_of_progress_are_reports_and_others_are_the_workers_own(start: Start, boss: Client) -> None:
    program = """
import sys
for line in ("progress 40 half of it", "progress 101 is none", "\\x1b[2Jprogressing", "progress 99.5%"):
    print(line, file=sys.stderr, flush=True)
"""
    worker = start(python(program))
    view = done(boss, worker)
    told = [(event.progress, event.note) for event in view.history if event.status == "in_progress"]
    assert told[0] == (40, "half of it")
    assert told[-1] == (99.5, None)
    assert f"{view.task_id}: progress 101 is none" in worker.err
    assert f"{view.task_id}: \u241b[2Jprogressing" in worker.err
    assert "half of it" not in worker.err


@pytest.mark.parametrize(
    ("output", "result"),
    [('{"words": [1, 2.5]}', {"words": [1, 2.5]}), ("six words", "six words"), ("NaN", "NaN"), ("", ""), ("6\n", 6)],
)
def test_a_result_is_json_where_it_reads_as_such(start: Start, boss: Client, output: str, result: Any) -> None:
    assert done(boss, start(python("import sys; print(end=sys.argv[1])", output), "--json-result")).result == result


def test_without_being_asked_a_result_is_text(start: Start, boss: Client) -> None:
    assert done(boss, start(python("print(6, end='\\r\\n')"))).result == "6"


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("print('first', file=sys.stderr); sys.exit('no such branch: main')", "no such branch: main"),
        ("print('progress 5', file=sys.stderr); sys.exit('boom')", "boom (exit code 1)"),
        ("print('ignored'); sys.exit(3)", "the command failed (exit code 3)"),
        ("import os; os.kill(os.getpid(), 9)", "the command failed (signal SIGKILL)"),
    ],
)
def test_the_exit_code_decides(start: Start, boss: Client, program: str, sentence: str) -> None:
    worker = start(python(f"import sys; {program}"))
    view = done(boss, worker)
    assert (view.status, view.result) == ("failed", sentence)
    worker.until_told(f"task {view.task_id} failed: {sentence}")
    assert "Traceback" not in worker.err


def test_what_others_write_is_never_part_of_the_command(start: Start, boss: Client, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f'\'; touch {trap}; "$(touch {trap})" `touch {trap}` | touch {trap}\n-rf --help'
    for flags in ([], ["--shell"]):
        view = done(boss, start("cat", *flags), evil, **{f"$(touch {trap})": evil})
        assert json.loads(view.result)["task"] == evil
    assert not trap.exists()


def test_a_shell_understands_more(start: Start, boss: Client) -> None:
    assert done(boss, start("cat >/dev/null && echo one | tr a-z A-Z; exit 0", "--shell")).result == "ONE"


# A child that nobody waits for, in the command's group and deaf to SIGTERM; its connection ends when it does.
_FAMILY = """
import signal, socket, subprocess, sys
child = '''
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as here:
    here.sendall(b"child")
    here.recv(1)
'''
subprocess.Popen([sys.executable, "-c", child, sys.argv[1]])
"""
_AND_WAIT = "import threading; threading.Event().wait()"


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Listen for what commands start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def port(door: socket.socket) -> int:
    number: int = door.getsockname()[1]
    return number


@contextlib.contextmanager
def caller(door: socket.socket) -> Iterator[socket.socket]:
    """Take the connection of what a command has started."""
    connection, _ = door.accept()
    with connection:
        connection.settimeout(PATIENCE)
        assert connection.recv(5) == b"child"
        yield connection


def ended(connection: socket.socket) -> bool:
    """Wait until what connected has ended."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_command_that_takes_too_long_ends_with_all_that_it_started(
    start: Start, boss: Client, door: socket.socket
) -> None:
    worker = start(python(_FAMILY + _AND_WAIT, port(door)), "--timeout", "5")
    task = boss.delegate(worker.name, "hang")
    with caller(door) as child:
        view = boss.wait_for(task.message_id, timeout=PATIENCE)
        assert ended(child)
    assert (view.status, view.result) == ("failed", "the command did not end within 5 s")
    assert done(boss, start("echo next")).result == "next"


def test_what_a_command_leaves_running_ends_with_it(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_FAMILY + "print('done')", port(door)))
    task = boss.delegate(worker.name, "leave something")
    with caller(door) as child:
        assert boss.wait_for(task.message_id, timeout=PATIENCE).result == "done"
        assert ended(child)


def test_a_command_ends_with_a_worker_that_is_killed(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_FAMILY + _AND_WAIT, port(door)))
    boss.delegate(worker.name, "work on")
    with caller(door) as child:
        worker.process.kill()
        assert ended(child)


def test_a_task_that_is_cancelled_takes_its_command_with_it(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_FAMILY + _AND_WAIT, port(door)))
    task = boss.delegate(worker.name, "never mind")
    with caller(door) as child:
        boss.cancel(task.message_id)
        assert ended(child)


_WAIT_FOR_DOOR = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as here:
    here.sendall(b"child")
    here.recv(1)
print("finished")
"""


def test_sigterm_lets_what_runs_finish_and_begins_nothing_more(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_WAIT_FOR_DOOR, port(door)))
    first = boss.delegate(worker.name, "under way")
    with caller(door) as running:
        second = boss.delegate(worker.name, "too late")
        worker.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(0.5)  # it waits for what runs
        worker.until("ending: waiting up to 60 s for handlers under way: 1")
        running.sendall(b"!")
        assert worker.process.wait(PATIENCE) == 0
    assert boss.task(first.message_id).result == "finished"
    assert boss.task(second.message_id).status == "queued"


def test_an_idle_worker_does_not_say_that_it_waits(start: Start) -> None:
    worker = start("echo")
    assert worker.stop() == 0
    worker.until("ending: no handlers are under way")


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once_and_the_task_waits_for_another(
    start: Start, boss: Client, door: socket.socket, first: signal.Signals
) -> None:
    worker = start(python(_FAMILY + _AND_WAIT, port(door)))
    task = boss.delegate(worker.name, "do not lose this")
    with caller(door) as child:
        worker.process.send_signal(first)
        worker.until("ending: waiting up to 60 s for handlers under way: 1")  # two signals that come at once are one
        assert worker.process.poll() is None
        assert worker.stop(first) == 130
        assert ended(child)
    start("echo done by another", name=worker.name)
    assert boss.wait_for(task.message_id, timeout=PATIENCE).result == "done by another"


def test_what_does_not_end_in_time_is_given_back(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_FAMILY + _AND_WAIT, port(door)), "--drain", "0.2")
    task = boss.delegate(worker.name, "do not lose this")
    with caller(door) as child:
        assert worker.stop() == 0
        assert ended(child)
    assert boss.task(task.message_id).status == "queued"


def test_several_tasks_at_once(start: Start, boss: Client, door: socket.socket) -> None:
    worker = start(python(_WAIT_FOR_DOOR, port(door)), "--concurrency", "2")
    tasks = [boss.delegate(worker.name, text).message_id for text in ("one", "two")]
    with caller(door) as one, caller(door) as two:  # both are under way, and neither is finished
        one.sendall(b"!")
        two.sendall(b"!")
        assert [view.result for view in boss.as_completed(tasks, PATIENCE)] == ["finished", "finished"]


def test_a_result_that_the_relay_does_not_take_is_a_failure(start: Start, boss: Client) -> None:
    worker = start(python("print('x' * 2_000_000)"))
    view = done(boss, worker)
    assert view.status == "failed"
    assert "could not be delivered" in view.result
    worker.until_told(f"task {view.task_id} failed: the result could not be delivered")
    worker.until(f"the result of task {view.task_id} could not be delivered")
    assert worker.stop() == 0
    assert "done" not in worker.out


def test_what_is_not_utf_8_is_no_result(start: Start, boss: Client) -> None:
    view = done(boss, start(python("import os; os.write(1, b'caf\\xe9')")))
    assert (view.status, view.result) == ("failed", "what the command printed is not UTF-8 (at byte 3)")


def test_too_much_output_is_no_result(start: Start, boss: Client) -> None:
    worker = start(python("import os\nwhile True: os.write(1, b'x' * 65536)"))
    view = done(boss, worker)
    assert (view.status, view.result) == ("failed", f"the command printed more than {running.MOST_OUTPUT_BYTES} bytes")


def test_a_clawlink_in_the_command_is_the_same_agent_at_work_on_the_task(
    start: Start, boss: Client, peer: Client
) -> None:
    inner = shlex.join([*COMMAND, "delegate", "--to", str(peer.agent_id), "--task", "a part of it", "--json"])
    worker = start(inner, "--json-result")
    view = done(boss, worker)
    assert view.status == "completed", view.result
    (claimed,) = [one for one in peer.poll(wait=5) if one.raw["type"] == "task_delegation"]
    assert claimed.raw["from_name"] == worker.name
    assert claimed.raw["chain"]["parent_task"] == view.task_id
    assert view.result["message_id"] == claimed.message_id


def test_messages_and_broadcasts_are_shown_and_not_lost(call: Run, start: Start, boss: Client, fresh: Fresh) -> None:
    name = fresh("listener")
    call("register", "--name", name, "--subscribe", "build.*").ok()
    worker = start("cat", name=name)
    boss.send(name, "hello\x1b[2J\nclawlink: not me")
    boss.broadcast("green", topic="build.main")
    worker.until("green")
    worker.until("hello")
    assert "    \u2502 hello\u241b[2J\n    \u2502 clawlink: not me\n" in worker.err
    assert worker.stop() == 0
    (kept,) = [one for one in call("whoami", "--json", "--offline").ok().json["identities"] if one["name"] == name]
    assert kept["claimed"]
    boss.broadcast("red", topic="build.main")
    assert [one["content"] for one in call("--as", name, "poll", "--json").ok().json["messages"]] == ["red"]


def test_for_scripts_there_is_json(start: Start, boss: Client) -> None:
    worker = start(python("import sys; sys.exit('it is over')"), "--json")
    view = done(boss, worker)
    worker.until_told("\n")
    (line,) = worker.out.splitlines()
    told = json.loads(line)
    assert (told["task_id"], told["exit_code"], told["error"]) == (view.task_id, 1, "it is over")
    assert all(json.loads(line) for line in worker.err.splitlines() if not line.startswith(view.task_id))


def test_the_identity_that_is_kept_works(call: Run, relay: str, fresh: Fresh, boss: Client, tmp_path: Path) -> None:
    name = fresh("kept")
    call("register", "--name", name, "--caps", "counting").ok()
    process = Popen([*COMMAND, "work", "--exec", "echo one"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        task = boss.delegate(capability="counting", task="count")
        assert boss.wait_for(task.message_id, timeout=PATIENCE).result == "one"
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@each(
    ("flags", "code", "said"),
    [
        ([], 2, "--exec"),
        (["--exec", " "], 2, "empty"),
        (["--exec", " ", "--shell"], 2, "empty"),
        (["--exec", "no-such-program-here | cat"], 2, "--shell"),
        (["--exec", "cat 'unfinished"], 2, "--exec is no command"),
        (["--exec", "cat", "--concurrency", "0"], 2, "--concurrency"),
        (["--exec", "cat", "--timeout", "soon"], 2, "--timeout"),
        (["--exec", "cat"], 5, "no identity is kept here"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_done(
    call: Run, relay: str, flags: list[str], code: int, said: str
) -> None:
    assert said in call("work", *flags).failed(code).err


def test_without_a_relay_it_does_not_begin(call: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert address in call("--relay", address, "work", "--name", "ada", "--exec", "cat").failed(3).err
