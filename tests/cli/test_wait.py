"""Waiting for tasks and messages: live on stderr, the result on stdout, and nobody hangs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clawlink.client.sync import Client
from clawlink.domain.message import TaskDelegation
from tests.cli.conftest import COMMAND, Relays, Run, until_polled
from tests.client.restartable import Restartable
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE, wait_until

Fresh = Callable[[str], str]
POSIX = pytest.mark.skipif(os.name != "posix", reason="sends signals")


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


class Beside:
    """A command that runs beside the test. What it prints is read as it comes, so no pipe fills up."""

    def __init__(self, *args: str, stderr: int = subprocess.PIPE) -> None:
        self.process = Popen([*COMMAND, *args], stdout=subprocess.PIPE, stderr=stderr, text=True)
        # A test that waits in vain fails; it does not hang.
        self._patience = threading.Timer(120, self.process.kill)
        self._patience.start()

    def line(self) -> str:
        """Return the next line on stderr."""
        assert self.process.stderr is not None
        return str(self.process.stderr.readline())

    def until(self, part: str) -> str:
        """Read stderr up to a line that says this, and return it."""
        while True:
            line = self.line()
            assert line, f"it ended without saying {part!r}"
            if part in line:
                return line

    def result(self) -> str:
        """Return the next line on stdout."""
        assert self.process.stdout is not None
        line = str(self.process.stdout.readline())
        assert line, f"it ended without a result: {self.end()}"
        return line

    def end(self) -> tuple[int, str, str]:
        """Return exit code, and what is left of stdout and stderr."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def close(self) -> None:
        """End it, whatever it does."""
        self._patience.cancel()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[..., Beside]


@pytest.fixture
def beside() -> Iterator[Start]:
    """Start commands: ``beside("wait", id)``."""
    started: list[Beside] = []

    def start(*args: str, stderr: int = subprocess.PIPE) -> Beside:
        started.append(Beside(*args, stderr=stderr))
        return started[-1]

    yield start
    for one in started:
        one.close()


def delegate(call: Run, to: Client, task: str = "x") -> str:
    """Delegate as this account's agent, and return the task's id."""
    id: str = call("delegate", "--to", to.agent_id or "", "--task", task, "--json").ok().json["message_id"]
    return id


def claim(client: Client, task_id: str) -> None:
    """Claim and ack a task."""
    for _ in range(20):
        for one in client.poll(wait=5):
            client.ack([one.receipt])
            if isinstance(one.message, TaskDelegation) and one.message_id == task_id:
                return
    raise AssertionError("the task did not come")


# -- one task ----------------------------------------------------------------------------------------------------------


def test_wait_shows_each_change_as_a_line_and_ends_with_the_result(
    call: Run, me: str, peer: Client, beside: Start
) -> None:
    id = delegate(call, peer)
    waiting = beside("wait", id)
    assert waiting.line().partition('", ')[2].startswith(f"task {id}: queued, ")
    claim(peer, id)
    assert f"({peer.agent_id}), online" in waiting.until("delivered")
    peer.respond(id, status="in_progress", progress=40, note='half "way"\n\x1b[2J')
    assert waiting.until("in_progress, 40 %").endswith('online, "half \\"way\\"␤␛[2J"\n')
    peer.heartbeat()  # lengthens the lease, and is no news to a person
    peer.respond(id, {"which": "\x1b[2J"}, status="input_required")
    asks = waiting.until("input_required")
    assert f'answer with: clawlink task answer {id} "..."' in asks
    assert "\x1b" not in asks
    call("answer", id, "this one").ok()
    waiting.until("in_progress")
    peer.respond(id, "all\nof it")
    code, out, err = waiting.end()
    assert code == 0
    assert f'", task {id}: completed' in err.splitlines()[-1]
    lines = out.splitlines()
    assert lines[0].endswith(f'", task {id}: completed')
    assert lines[-3:] == ["  result:", "    │ all", "    │ of it"]
    assert "half" not in out  # what was said on the way is no part of the answer


def test_a_result_that_wait_has_printed_does_not_come_again_by_poll(
    call: Run, me: str, peer: Client, beside: Start
) -> None:
    printed, other = delegate(call, peer), delegate(call, peer)
    peer.respond(printed, status="in_progress", progress=40)
    peer.respond(printed, "this")
    peer.respond(other, "that")
    assert "│ this" in call("wait", printed).ok().out
    shown = call("poll").ok().out
    assert "│ that" in shown
    assert "│ this" not in shown
    assert "1 message." in shown
    # A result that could not be printed comes by poll.
    third = delegate(call, peer)
    peer.respond(third, "unseen")
    nobody, out = os.pipe()
    os.close(nobody)
    subprocess.run([*COMMAND, "wait", third], stdout=out, check=False)
    os.close(out)
    assert "│ unseen" in call("poll").ok().out


def test_wait_with_json(call: Run, me: str, peer: Client, beside: Start) -> None:
    id = delegate(call, peer)
    waiting = beside("wait", id, "--json")
    first = json.loads(waiting.line())["change"]
    assert (first["task_id"], first["status"], first["question"]) == (id, "queued", None)
    peer.respond(id, {"n": 3})
    code, out, err = waiting.end()
    assert code == 0
    assert json.loads(out)["result"] == {"n": 3}
    assert [json.loads(line)["change"]["status"] for line in err.splitlines()] == ["completed"]


@each("status", ["failed", "rejected", "cancelled", "expired"])
def test_a_task_that_ends_in_another_way_is_exit_code_1(call: Run, me: str, peer: Client, status: str) -> None:
    if status == "expired":
        id = (
            call("delegate", "--to", peer.agent_id or "", "--task", "x", "--deadline", "1", "--json")
            .ok()
            .json["message_id"]
        )
    else:
        id = delegate(call, peer)
    if status == "cancelled":
        call("cancel", id).ok()
    elif status != "expired":
        peer.respond(id, "no", status=status)
    told = call("wait", id)
    assert told.code == 1
    by = " by you" if status == "cancelled" else ""
    assert told.out.splitlines()[0].endswith(f'", task {id}: {status}{by}')
    assert ("by:  " in told.out) == (status in ("failed", "rejected"))
    assert ("why:" in told.out) == (status == "expired")


def test_when_the_time_is_over_it_is_exit_code_6_and_how_to_come_back(
    call: Run, run: Run, me: str, peer: Client
) -> None:
    id = delegate(call, peer)
    for told in (
        run("wait", id, "--timeout", "0.4"),
        call("--timeout", "0.4", "wait", id),
        call("wait", id, "--timeout", "0"),
    ):
        assert (told.code, told.out) == (6, "")
        assert f"is still queued after 0{'.4' if '0.4' in told.err else ''} s, and goes on" in told.err
        assert told.err.endswith(f"come back with: clawlink wait {id}\n")
    told = call("wait", id, "--timeout", "0.1", "--json")
    assert told.code == 6
    assert json.loads(told.err.splitlines()[-1])["code"] == "still_pending"


@POSIX
def test_control_c_leaves_the_task_running_and_says_how_to_come_back(
    call: Run, me: str, peer: Client, beside: Start
) -> None:
    id, other = delegate(call, peer), delegate(call, peer)
    for args in ([id], [id, other], ["--any", id, other]):
        waiting = beside("wait", *args)
        for _ in [arg for arg in args if arg != "--any"]:
            waiting.until("queued")
        waiting.process.send_signal(signal.SIGINT)
        code, out, err = waiting.end()
        assert (code, out) == (130, "")
        going = "the task goes on" if args == [id] else "2 tasks go on"
        back = " ".join(["wait", *(arg for arg in args if arg != "--any"), *(arg for arg in args if arg == "--any")])
        assert err == f"clawlink: {going}; come back with: clawlink {back}\n"
    assert peer.poll(wait=5)
    peer.respond(id, "done")
    assert "    │ done" in call("wait", id).ok().out


# -- several -----------------------------------------------------------------------------------------------------------


def test_all_are_printed_as_they_come(call: Run, me: str, peer: Client, beside: Start) -> None:
    ids = [delegate(call, peer) for _ in range(3)]
    waiting = beside("wait", *ids, "--json")
    for _ in ids:
        waiting.line()
    for n, id in enumerate(reversed(ids)):
        peer.respond(id, n)
        task = json.loads(waiting.result())
        assert (task["task_id"], task["result"]) == (id, n)
    assert waiting.end()[0] == 0


def test_all_is_a_failure_if_one_is(call: Run, me: str, peer: Client) -> None:
    good, bad = delegate(call, peer), delegate(call, peer)
    peer.respond(good, "yes")
    peer.respond(bad, "no", status="failed")
    told = call("wait", good, bad, "--all")
    assert told.code == 1
    assert f"task {good}: completed" in told.out
    assert f"task {bad}: failed" in told.out


def test_any_is_done_with_the_first_that_is_completed(call: Run, me: str, peer: Client, beside: Start) -> None:
    failed, won, other = delegate(call, peer), delegate(call, peer), delegate(call, peer)
    peer.respond(failed, "no", status="rejected")
    waiting = beside("wait", failed, won, other, "--any")
    waiting.until(f"{failed}: rejected")
    peer.respond(won, "yes")
    code, out, err = waiting.end()
    assert code == 0
    assert "    │ yes" in out
    assert err.splitlines()[-1] == f"clawlink: 1 other task not waited for: clawlink task cancel {other}"
    assert call("task", other, "--json").ok().json["status"] == "queued"


def test_any_of_which_none_is_completed_is_a_failure(call: Run, me: str, peer: Client) -> None:
    ids = [delegate(call, peer) for _ in range(2)]
    for id in ids:
        peer.respond(id, "no", status="failed")
    assert call("wait", *ids, "--any").code == 1


def test_what_is_open_when_the_time_is_over_is_named(call: Run, me: str, peer: Client) -> None:
    done, first, second = (delegate(call, peer) for _ in range(3))
    peer.respond(done, "yes")
    told = call("wait", done, first, second, "--timeout", "0.5")
    assert told.code == 6
    assert f'", task {done}: completed' in told.out.splitlines()[0]
    assert told.err.endswith(
        f"2 of them are still open after 0.5 s, and go on; come back with: clawlink wait {first} {second}\n"
    )


# -- delegate --wait ---------------------------------------------------------------------------------------------------


def test_delegate_and_wait_has_the_result_alone_on_stdout(call: Run, me: str, peer: Client, beside: Start) -> None:
    waiting = beside("delegate", "--to", peer.agent_id or "", "--task", "x", "--wait")
    waiting.until("Delegated to")
    found = re.search(r"task: +(\w+)", waiting.until("task:"))
    assert found is not None
    peer.respond(found[1], "done")
    code, out, _ = waiting.end()
    assert code == 0
    assert out.splitlines()[0].endswith(f'", task {found[1]}: completed')
    told = call("delegate", "--to", peer.agent_id or "", "--task", "x", "--wait", "0.3s")
    assert (told.code, told.out) == (6, "")
    assert "come back with: clawlink wait " in told.err


def test_delegate_and_wait_with_json(call: Run, me: str, peer: Client, beside: Start) -> None:
    waiting = beside("delegate", "--to", peer.agent_id or "", "--task", "x", "--wait", "30", "--json")
    stored = json.loads(waiting.line())
    peer.respond(stored["message_id"], "no", status="failed")
    code, out, _ = waiting.end()
    assert code == 1
    assert (json.loads(out)["task_id"], json.loads(out)["status"]) == (stored["message_id"], "failed")


def test_the_first_answer_of_several_agents_wins(
    call: Run, me: str, peer: Client, relay: str, fresh: Fresh, beside: Start
) -> None:
    skill = fresh("skill")
    peer.register(capabilities=[skill])
    with Client(relay) as third:
        third.register(fresh("third"), capabilities=[skill])
        waiting = beside("delegate", "--capability", skill, "--all", "--task", "x", "--wait", "--any", "--json")
        stored = json.loads(waiting.line())["delegated"]
        mine = next(one["message_id"] for one in stored if one["recipient"]["agent_id"] == third.agent_id)
        claim(third, mine)
        third.respond(mine, "I have it")
        code, out, err = waiting.end()
    assert code == 0
    assert json.loads(out)["result"] == "I have it"
    assert "1 other task not waited for: clawlink task cancel " in json.loads(err.splitlines()[-1])["warning"]


# -- a message ---------------------------------------------------------------------------------------------------------


def test_send_waits_for_the_ack_or_the_answer(call: Run, me: str, peer: Client, beside: Start) -> None:
    to = peer.agent_id or ""
    waiting = beside("send", "--to", to, "--content", "hello", "--wait")
    waiting.result()
    found = re.search(r"message: +(\w+)", waiting.result())
    assert found is not None
    peer.ack([one.receipt for one in peer.poll(wait=10)])
    code, out, _ = waiting.end()
    assert (code, out.splitlines()[-1]) == (0, "  state:  acked")
    told = call("send", "--to", to, "--content", "hello", "--wait", "answered", "--timeout", "0.3")
    assert told.code == 6
    assert "see how far it came with: clawlink message status " in told.err
    waiting = beside("send", "--to", to, "--content", "again", "--wait", "answered", "--json")
    [held] = [one for one in peer.poll(wait=10, max=1) if one.raw["content"] != "x"]
    while held.raw["content"] != "again":
        [held] = peer.poll(wait=10, max=1)
    peer.send(held.raw["from_agent"], "here", in_reply_to=held.message_id)
    code, out, _ = waiting.end()
    assert code == 0
    assert json.loads(out)["answered_at"] is not None


def test_send_says_if_it_will_never_be_acked(call: Run, me: str, relay: str, fresh: Fresh, beside: Start) -> None:
    with Client(relay) as leaver:
        leaver.register(fresh("leaver"))
        waiting = beside("send", "--to", leaver.agent_id or "", "--content", "hello", "--wait")
        waiting.result()
        leaver.leave()
        code, out, _ = waiting.end()
    assert code == 1
    assert out.splitlines()[-1] == "  state:  expired: it will not be acked"


@POSIX
def test_control_c_while_a_message_is_waited_for(call: Run, me: str, relay: str, peer: Client, beside: Start) -> None:
    waiting = beside("send", "--to", peer.agent_id or "", "--content", "hello", "--wait")
    waiting.result()
    until_polled(relay)
    waiting.process.send_signal(signal.SIGINT)
    code, _, err = waiting.end()
    assert code == 130
    assert "is on its way; see how far it came with: clawlink message status " in err


# -- a relay that goes away --------------------------------------------------------------------------------------------


@POSIX
def test_a_relay_that_is_stopped_in_the_middle_is_said_to_be_and_waited_for(
    call: Run, own_relay: Relays, beside: Start
) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    with contextlib.closing(Client(url)) as peer:
        peer.register("peer")
        ids = [delegate(call, peer) for _ in range(2)]
        sent = call("send", "--to", "peer", "--content", "x", "--json").ok().json["message_id"]
        one, both = beside("wait", ids[0]), beside("wait", *ids, "--json")
        message = beside("send", "--to", "peer", "--content", "y", "--wait")
        one.until("queued")
        both.line()
        both.line()
        message.result()
    assert sent
    own_relay.terminate(url)
    assert "waiting until it is back" in one.line()
    assert "waiting until it is back" in json.loads(both.line())["warning"]
    assert "waiting until it is back" in message.line()
    assert one.process.poll() is None
    own_relay.restart(url)
    # It remembers nothing, and says so; nobody hangs.
    for waiting in (one, both, message):
        code, _, err = waiting.end()
        assert code == 5
        assert "register" not in err.splitlines()[-1]
    assert "had forgotten" not in call("poll").ok().err
    for verb in (("wait",), ("task", "show"), ("message", "status")):
        told = call(*verb, ids[0]).failed(5).err
        assert re.search(r"no (task|message) '.+ at most; list your tasks with: clawlink task list$", told.strip()), (
            verb
        )


def test_a_relay_that_comes_back_with_what_it_knew_gives_the_result(call: Run, beside: Start) -> None:
    relay = Restartable()
    try:
        call("--relay", relay.url, "register", "--name", "ada").ok()
        with Client(relay.url) as peer:
            peer.register("peer")
            ids = [delegate(call, peer) for _ in range(2)]
            one, both = beside("wait", ids[0]), beside("wait", *ids)
            one.until("queued")
            both.until(ids[0])
            relay.drain()
            assert one.until("waiting") == "clawlink: the relay is shutting down; waiting until it is back\n"
            relay.stop()
            both.until("waiting until it is back")
            relay.start()
            assert one.until("back") == "clawlink: the relay is back\n"
            both.until("the relay is back")
            for id in ids:
                peer.respond(id, f"of {id}")
        assert one.end()[1].endswith(f"    │ of {ids[0]}\n")
        code, out, _ = both.end()
        assert code == 0
        assert all(f"    │ of {id}\n" in out for id in ids)
    finally:
        relay.close()


def test_each_waiting_command_goes_on_when_the_relay_is_back(call: Run, beside: Start) -> None:
    """They have one rule: a note on standard error, and nothing lost or doubled."""
    relay = Restartable()
    try:
        for name in ("ada", "one", "two"):
            call("--relay", relay.url, "register", "--name", name).ok()
        with Client(relay.url) as peer:
            peer.register("peer")
            waiting = {
                "the work": beside("delegate", "peer", "the work", "--wait", "600", "--as", "ada"),
                "answered": beside("send", "peer", "x", "--wait", "answered", "--timeout", "600", "--as", "ada"),
                "version 1": beside("file", "watch", "plan", "--since", "0", "--timeout", "600", "--as", "ada"),
                "for one": beside("poll", "--wait", "600", "--as", "one"),
                "for two": beside("poll", "--follow", "--max", "1", "--as", "two"),
            }
            waiting["the work"].until("queued")
            waiting["answered"].result()
            until_polled(relay.url, 2)
            relay.stop()
            for each_one in waiting.values():
                each_one.until("waiting until it is back")
            relay.start()
            for each_one in waiting.values():
                each_one.until("the relay is back")
            ids = {one.raw["type"]: one.message_id for one in peer.poll(wait=60)}
            peer.respond(ids["task_delegation"], "of the work")
            peer.send("ada", "yes", in_reply_to=ids["message"])
            peer.put_file("plan", "x")
            for name in ("one", "two"):
                peer.send(name, f"for {name}")
            for part, each_one in waiting.items():
                code, out, err = each_one.end()
                assert code == 0
                assert "the relay is back" not in err
                assert part in out
        for name in ("one", "two"):
            assert call("poll", "--as", name).ok().out == "No messages.\n"
    finally:
        relay.close()


def test_a_relay_that_comes_back_and_refuses_ends_each_wait_with_its_refusal(
    call: Run, beside: Start, own_relay: Relays
) -> None:
    """A poll ended as if no message had come in its time."""
    url = own_relay()
    for name in ("one", "two"):
        call("--relay", url, "register", "--name", name).ok()
    waits = [beside("poll", "--wait", "600", "--as", "one"), beside("poll", "--follow", "--as", "two")]
    until_polled(url, 2)
    own_relay.stop(url)
    for wait in waits:
        wait.until("waiting until it is back")
    own_relay.restart(url, "--token", "another")
    for wait in waits:
        code, _, err = wait.end()
        assert (code, "token" in err) == (4, True), err


@POSIX
def test_without_a_relay_the_time_is_kept(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.terminate(url)
    started = time.monotonic()
    told = call("wait", "x", "--timeout", "0.5")
    assert time.monotonic() - started < 60
    assert told.code == 3
    assert "waiting until it is back" in told.err.splitlines()[0]
    assert "no relay answers" in told.err.splitlines()[-1]


# -- a terminal --------------------------------------------------------------------------------------------------------


@POSIX
def test_on_a_terminal_there_is_a_bar_that_goes_away(
    call: Run, me: str, peer: Client, beside: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    id, other = delegate(call, peer), delegate(call, peer)
    master, slave = pty.openpty()
    waiting = beside("wait", id, other, stderr=slave)
    os.close(slave)
    shown = Screen(master)
    shown.until(id, "queued")
    peer.respond(id, status="in_progress", progress=40, note="[bold]half[/bold] \x1b]0;title\x07")
    shown.until("in_progress, 40 %", "[bold]half[/bold] ␛]0;title␇", "━")
    peer.respond(id, "which?", status="input_required")
    shown.until("asks", '"which?"', f"clawlink task answer {id}")
    peer.respond(id, "done")
    peer.respond(other, "done")
    code, out, _ = waiting.end()
    shown.close()
    assert code == 0
    assert out.count("    │ done") == 2
    assert "\x1b]0;title" not in shown.text
    assert "\x1b[?25h" in shown.text  # the cursor is back


class Screen:
    """The bytes that a terminal is sent."""

    def __init__(self, master: int) -> None:
        self.text = ""
        self._master = master
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.text += data.decode(errors="replace")

    def until(self, *parts: str) -> None:
        """Wait until all this has been shown."""
        wait_until(lambda: all(part in self.text for part in parts), say=lambda: (parts, self.text))

    def close(self) -> None:
        """Stop reading; the command has ended."""
        self._reader.join(PATIENCE)
        os.close(self._master)


@POSIX
def test_control_c_on_a_terminal_leaves_it_in_order(
    call: Run, me: str, peer: Client, beside: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    id = delegate(call, peer, task="count the words of the book of 300 pages")
    master, slave = pty.openpty()
    waiting = beside("wait", id, stderr=slave)
    os.close(slave)
    shown = Screen(master)
    shown.until(f'"count the wor..." {id[:6]}: queued', "━")
    peer.respond(id, status="in_progress", progress=50)
    shown.until(f'"count the wor..." {id[:6]}: in_progress', "━" * 4)
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.end()[0] == 130
    shown.close()
    assert shown.text.rstrip().endswith(f"the task goes on; come back with: clawlink wait {id}")
    assert "\x1b[?25h" in shown.text


def test_an_assignee_that_goes_silent_is_told_of(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_relay("--stale-after", "3")
    call("--relay", url, "register", "--name", "ada").ok()
    with Client(url) as peer:
        peer.register("peer")
        task_id = delegate(call, peer)
        peer.poll()
        monkeypatch.setattr("clawlink.client.wait_steps._STEP_SECONDS", 0.2)
        shown = call("wait", task_id, "--timeout", "7")
    assert shown.code == 6
    first, *later = [line for line in shown.err.splitlines() if "peer" in line]
    assert "online" in first
    assert any("stale" in line for line in later), shown.err


def test_a_pool_in_which_nobody_is_online_any_more_is_told_of(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_relay("--stale-after", "3")
    call("--relay", url, "register", "--name", "ada").ok()
    with Client(url) as peer:
        peer.register("peer", capabilities=["dig"])
        task_id = call("delegate", "--capability", "dig", "--task", "dig a hole", "-q").ok().out.strip()
        monkeypatch.setattr("clawlink.client.wait_steps._STEP_SECONDS", 0.2)
        shown = call("wait", task_id, "--timeout", "7")
    assert shown.code == 6
    first, *later = [line for line in shown.err.splitlines() if line.startswith('clawlink: "dig a hole", task ')]
    assert first.endswith(f"task {task_id}: queued, nobody yet"), shown.err
    assert [line.partition("queued, ")[2] for line in later] == [
        "nobody yet, and no agent that may claim it is online"
    ], shown.err
