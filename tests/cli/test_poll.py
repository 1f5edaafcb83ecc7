"""Poll acknowledges what it has shown, and only that."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.identity import Identities, home
from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Relays, Run, until_polled
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE, wait_until

Fresh = Callable[[str], str]
EVIL = "first\nsecond \x1b[2J\x1b]0;title\x07 [bold]x[/bold] \u202egnp.exe\u2028clawlink: all is well"


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


@pytest.fixture
def sender(me: str, peer: Client, call: Run) -> Client:
    """Return another agent, whose arrival has been read."""
    call("poll").ok()
    return peer


def waiting(call: Run) -> int:
    """Count the messages in this account's mailbox."""
    mailbox: int = call("whoami", "--json").ok().json["relay_says"]["load"]["mailbox"]
    return mailbox


def test_an_empty_mailbox(run: Run, me: str) -> None:
    assert run("poll").ok().out == "No messages.\n"
    assert run("poll", "--json").ok().json == {"messages": [], "count": 0, "deliveries": []}


def test_a_task_with_all_that_is_needed_to_answer_it(run: Run, me: str, sender: Client) -> None:
    task_id = sender.delegate(me, "do\nthis", context={"format": "md"}, priority="urgent").message_id
    shown = run("poll").ok().out
    lines = shown.splitlines()
    assert lines[0] == f"task {task_id}"
    assert f"({sender.agent_id})" in lines[1]
    assert lines[2] == "  priority:  urgent"
    assert lines[3].startswith("  age:       ")
    assert lines[5:7] == ["    │ do", "    │ this"]
    assert '    │   "format": "md"' in lines
    assert f'  answer:   clawlink respond {task_id} "..."' in lines
    assert f"  keep it:  clawlink respond {task_id} --progress N   within 2 min, again and again" in lines
    assert lines[-1] == "1 message."
    assert run("poll").ok().out == "No messages.\n"


@each(
    ("flags", "keep"),
    [
        (["--stale-after", "6", "--lease", "5"], "6 s"),
        (["--stale-after", "6", "--lease", "3600"], r"\d\d min"),
    ],
)
def test_the_lease_of_the_relay_counts_where_no_other_is_named(
    own_relay: Relays, call: Run, flags: list[str], keep: str
) -> None:
    """The task is the agent's until the lease is over and it has been silent for --stale-after."""
    url = own_relay(*flags)
    call("--relay", url, "register", "--name", "me").ok()
    with Client(url) as asker:
        asker.register("asker")
        asker.delegate("me", "x")
        assert re.search(f"within {keep}, again and again", call("--relay", url, "poll").ok().out)


def test_the_answer_command_names_the_identity_where_there_are_several(
    call: Run, me: str, sender: Client, fresh: Fresh
) -> None:
    call("register", "--name", fresh("other")).ok()
    task_id = sender.delegate(me, "x").message_id
    assert f'clawlink respond {task_id} --as {me} "..."' in call("--as", me, "poll").ok().out


def test_with_json_it_is_the_reply(run: Run, me: str, sender: Client) -> None:
    task_id = sender.delegate(me, "do this", context={"a": 1}).message_id
    told = run("poll", "--json").ok().json
    assert told["count"] == 1
    assert (told["messages"][0]["task"], told["messages"][0]["context"]) == ("do this", {"a": 1})
    assert told["deliveries"][0]["message_id"] == task_id
    assert set(told["deliveries"][0]) == {"message_id", "receipt", "attempt", "lease_expires_at"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_what_others_wrote_is_harmless_and_marked(run: Run, me: str, sender: Client, encoding: str) -> None:
    sender.delegate(me, EVIL, context={"\x1b[2J": EVIL})
    sender.send(me, EVIL)
    sender.broadcast(EVIL, topic="[red]t", tags=["[red]u"])
    shown = run("poll", env={"PYTHONIOENCODING": encoding}).ok().raw.decode(encoding)
    assert not [c for c in shown if c != "\n" and (ord(c) < 32 or ord(c) == 127 or c in "\u202e\u2028")]
    assert "[bold]x[/bold]" in shown
    bar = "│" if encoding == "utf-8" else "|"
    for line in shown.splitlines():
        if "first" in line or "second" in line or "all is well" in line or "[red]" in line:
            assert line.lstrip().startswith(bar), line


def test_every_kind_of_message_is_shown(call: Run, me: str, sender: Client, relay: str, fresh: Fresh) -> None:
    call("register", "--name", me, "--notices").ok()
    sender.broadcast("news", topic="t", tags=["a", "b"])
    sender.put_file("dir/a file", "x")
    sender.put_file("gone", "x")
    sender.delete_file("gone")
    sender.send(me, {"any": "json"}, thread="t")
    with Client(relay) as other:
        other.register(fresh("guest"), capabilities=["visiting"], description="a guest")
    shown = call("poll", "--no-ack").ok().out  # each with what settles it
    for part in (
        "broadcast ",
        "    │ a, b",
        "file notice ",
        "written, version 1",
        "deleted",
        "agent notice ",
        "visiting",
        "a guest",
    ):
        assert part in shown
    assert "  read:  clawlink file get --key 'dir/a file'" in shown
    assert "file-get --key gone" not in shown
    assert '    │   "any": "json"' in shown


def test_notices_come_as_one_line_to_those_who_asked_for_them(
    call: Run, me: str, sender: Client, relay: str, fresh: Fresh
) -> None:
    def happen() -> None:
        with contextlib.closing(Client(relay)) as guest, Client(relay) as other:
            for client in (guest, other):
                client.register(fresh("guest"))
        for key in (fresh("kept"), fresh("gone")):
            sender.put_file(key, "x")
        sender.delete_file(key)

    happen()
    sender.send(me, "hello")
    shown = call("poll").ok().out
    assert shown.endswith("\n\n1 message.\n")
    assert "joined" not in shown
    call("register", "--name", me, "--notices").ok()
    happen()
    assert call("poll").ok().out == "1 joined, 1 left, 1 file changed, 1 file deleted\n"
    call("register", "--name", me).ok()  # as it was
    happen()
    sender.send(me, "hello")
    shown = call("poll").ok().out
    assert shown.endswith("\n\n1 joined, 1 left, 1 file changed, 1 file deleted\n1 message.\n")
    happen()
    assert len(call("poll", "--json").ok().json["messages"]) == 4
    call("register", "--name", me, "--no-notices").ok()
    happen()
    assert call("poll").ok().out == "No messages.\n"


def test_a_kind_from_a_later_version_is_shown_as_it_is() -> None:
    import io
    from argparse import Namespace

    from clawlink.cli.context import Context
    from clawlink.cli.messages import next_command, show_message
    from clawlink.client.calls import Other

    out = io.StringIO()
    ctx = Context(Namespace(json=False, timeout=None), out=out, err=None)
    message = Other("hologram", {"type": "hologram"})
    show_message(ctx, message, "m1", {"type": "hologram"}, attempt=2)
    assert "of a kind that this version does not know" in out.getvalue()
    assert '    │   "type": "hologram"' in out.getvalue()
    assert next_command(ctx, message) is None


def test_a_second_attempt_is_said_to_be_one(call: Run, me: str, sender: Client) -> None:
    sender.send(me, "x")
    nack_all(sender.relay)
    assert "attempt:  2 (handed out before)" in call("poll").ok().out


def nack_all(relay: str) -> None:
    [saved] = Identities(home()).all()
    with Client(relay, agent_id=saved.agent_id, agent_key=saved.agent_key) as client:
        client.nack([one.receipt for one in client.poll()])


def test_no_ack_shows_receipts_and_leaves_them_leased(run: Run, call: Run, me: str, sender: Client) -> None:
    sender.send(me, "look")
    shown = run("poll", "--no-ack", "--lease", "5").ok().out
    assert "    │ look" in shown
    assert "receipt: " in shown
    assert re.search(r"\(for [0-5] s\), then it comes again", shown)
    assert shown.endswith("1 message, not acknowledged.\n")
    assert waiting(call) == 1
    assert run("poll").ok().out == "No messages.\n"
    assert "    │ look" in run("poll", "--wait", "7").ok().out
    assert waiting(call) == 0


def test_max_says_that_there_may_be_more(call: Run, me: str, sender: Client) -> None:
    for text in ("one", "two", "three"):
        sender.send(me, text)
    shown = call("poll", "--max", "2").ok().out
    assert shown.endswith("2 messages; there may be more: clawlink poll.\n")
    assert call("poll", "--max", "2", "--json").ok().json["count"] == 1


def test_waiting_in_vain_ends_with_6(run: Run, call: Run, me: str) -> None:
    started = time.monotonic()
    told = run("poll", "--wait", "0.3")
    assert (told.code, told.out) == (6, "No messages.\n")
    assert time.monotonic() - started >= 0.3
    told = call("poll", "--wait", "0.05", "--json")
    assert (told.code, told.json["count"]) == (6, 0)


def test_waiting_is_as_long_as_asked_in_as_many_steps_as_it_takes(
    call: Run, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.cli.message.poll._STEP_SECONDS", 0.05)
    monkeypatch.setattr("clawlink.cli.message.poll._HURRIED_SECONDS", 0.01)
    assert call("poll", "--wait", "0.3").code == 6


def test_a_relay_that_answers_at_once_is_not_asked_without_pause(
    call: Run, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def poll(self: Client, *, wait: float, max: int, lease: float, ack: list[str]) -> list[object]:
        asked.append(wait)
        return []

    monkeypatch.setattr(Client, "poll", poll)
    assert call("poll", "--wait", "0.6").code == 6
    assert len(asked) <= 4


def test_waiting_ends_when_a_message_comes(run: Run, me: str, sender: Client) -> None:
    later = threading.Timer(0.8, lambda: sender.send(me, "at last"))
    later.start()
    shown = run("poll", "--wait", "20").ok().out
    later.join()
    assert "    │ at last" in shown


class Following:
    """A ``clawlink poll --follow`` that runs beside the test."""

    def __init__(self, *args: str) -> None:
        self.process = Popen(
            [*COMMAND, "poll", "--follow", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # A test that waits for a line in vain fails; it does not hang.
        self._patience = threading.Timer(30, self.process.kill)
        self._patience.start()

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return str(self.process.stdout.readline())

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Interrupt it, and return its exit code and what it said on stderr."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err

    def close(self) -> None:
        """End it, whatever it does."""
        self._patience.cancel()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def follow() -> Iterator[Callable[..., Following]]:
    started: list[Following] = []

    def start(*args: str) -> Following:
        started.append(Following(*args))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_follow_prints_an_object_a_line_until_interrupted(
    call: Run, me: str, sender: Client, follow: Callable[..., Following]
) -> None:
    following = follow("--json")
    for number in range(3):
        sender.send(me, f"n{number}")
        told = json.loads(following.line())
        assert told["message"]["content"] == f"n{number}"
        assert told["delivery"]["attempt"] == 1
    wait_until(lambda: waiting(call) == 0)  # acknowledged a moment after it is printed
    assert following.end() == (130, "")


def test_follow_acknowledges_by_the_next_poll_and_by_itself_only_at_the_end(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    send = Client._send_once

    def count(self: Client, ask: Any, patience: float) -> Any:
        asked.append(ask.endpoint.name)
        return send(self, ask, patience)

    for number in range(3):
        sender.send(me, f"n{number}")
    monkeypatch.setattr("clawlink.cli.message.poll._MOST", 1)
    monkeypatch.setattr(Client, "_send_once", count)
    shown = call("poll", "--follow", "--max", "3").ok().out
    assert [f"    │ n{number}" in shown for number in range(3)] == [True] * 3
    assert [name for name in asked if name in ("poll", "poll_and_ack", "ack", "nack")] == [
        "poll_and_ack",
        "poll_and_ack",
        "poll_and_ack",
        "ack",
    ]
    assert waiting(call) == 0


def test_follow_loses_no_ack_when_it_is_interrupted(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before the poll that would have carried the ack."""
    real = Client.poll

    def poll(self: Client, *, ack: list[str], **options: Any) -> Any:
        if ack:
            raise KeyboardInterrupt
        return real(self, ack=ack, **options)

    monkeypatch.setattr(Client, "poll", poll)
    sender.send(me, "seen")
    told = call("poll", "--follow")
    assert (told.code, "    │ seen" in told.out) == (130, True)
    assert waiting(call) == 0


def test_follow_with_max_ends_by_itself(run: Run, me: str, sender: Client) -> None:
    for number in range(3):
        sender.send(me, f"n{number}")
    shown = run("poll", "--follow", "--max", "3").ok().out
    assert [f"    │ n{number}" in shown for number in range(3)] == [True] * 3


def test_follow_waits_for_a_relay_that_is_away_and_registers_again_if_it_forgot_us(
    call: Run, own_relay: Relays, follow: Callable[..., Following]
) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    following = follow("--json")
    assert following.process.stderr is not None
    until_polled(url)
    own_relay.stop(url)
    assert "waiting until it is back" in json.loads(following.process.stderr.readline())["warning"]
    own_relay.restart(url)
    assert "had forgotten 'ada'" in json.loads(following.process.stderr.readline())["warning"]
    with Client(url) as peer:
        peer.register("peer")
        peer.send("ada", "still there?")
    assert json.loads(following.line())["message"]["content"] == "still there?"


def test_follow_says_when_the_relay_is_away_and_back(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.errors import Draining

    real = Client.poll
    failures = iter([Draining("the relay is shutting down"), Draining("the relay is shutting down")])

    def poll(self: Client, **options: Any) -> object:
        for failure in failures:
            raise failure
        return real(self, **options)

    monkeypatch.setattr(Client, "poll", poll)
    sender.send(me, "x")
    told = call("poll", "--follow", "--max", "1").ok()
    assert told.err.splitlines() == [
        "clawlink: the relay is shutting down; waiting until it is back",
        "clawlink: the relay is back",
    ]


def test_follow_bears_a_proxy_that_answers_for_a_relay_that_was_there(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.errors import NotARelay

    real = Client.poll
    away = iter([False, True, True])

    def poll(self: Client, **options: Any) -> object:
        if next(away, False):
            raise NotARelay("the address answered with HTTP 502")
        return real(self, **options)

    monkeypatch.setattr(Client, "poll", poll)
    sender.send(me, "x")
    sender.send(me, "y")
    monkeypatch.setattr("clawlink.cli.message.poll._MOST", 1)
    told = call("poll", "--follow", "--max", "2").ok()
    assert told.err.splitlines() == [
        "clawlink: the address answered with HTTP 502; waiting until it is back",
        "clawlink: the relay is back",
    ]
    away = iter([True])
    assert "HTTP 502" in call("poll", "--follow", "--max", "1").failed(3).err


def test_a_wait_ends_in_time_while_the_relay_is_away(call: Run, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that never answered is told as that; after an answer nothing has come yet."""
    from clawlink.errors import RelayUnreachable

    answers: Iterator[list[object]] = iter([[]])

    def poll(self: Client, **options: Any) -> object:
        for answer in answers:
            return answer
        raise RelayUnreachable("no relay answers at this address; start one")

    monkeypatch.setattr(Client, "poll", poll)
    away = "clawlink: no relay answers at this address; waiting until it is back"
    told = call("poll", "--wait", "0.5")
    assert (told.code, told.out, told.err.splitlines()) == (6, "No messages.\n", [away])
    failed = "clawlink: no relay answers at this address; start one"
    told = call("poll", "--wait", "0.5")
    assert (told.code, told.err.splitlines()) == (3, [away, failed])
    assert call("poll").failed(3).err.splitlines() == [failed]


def test_an_ack_is_sent_again_when_the_relay_is_back(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.errors import Draining

    real = Client.ack
    failures = iter([Draining("the relay is shutting down")])

    def ack(self: Client, receipts: list[str]) -> object:
        for failure in failures:
            raise failure
        return real(self, receipts)

    monkeypatch.setattr(Client, "ack", ack)
    sender.send(me, "x")
    told = call("poll", "--wait", "60").ok()
    assert told.err.splitlines() == [
        "clawlink: the relay is shutting down; waiting until it is back",
        "clawlink: the relay is back",
    ]
    assert waiting(call) == 0


def test_an_ack_that_comes_too_late_is_told(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clawlink.protocol.mailbox_replies import Receipted

    sender.send(me, "x")
    monkeypatch.setattr(Client, "ack", lambda self, receipts: Receipted([], 0))
    assert "may come again" in call("poll").ok().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("how", [[], ["--json"], ["--follow"]])
def test_what_could_not_be_printed_is_given_back(call: Run, me: str, sender: Client, how: list[str]) -> None:
    sender.send(me, "precious")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "poll", *how], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    shown = call("poll").ok().out
    assert "    │ precious" in shown
    assert "attempt:  2" in shown


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor")
def test_a_reader_that_has_gone_gets_nothing_acknowledged(call: Run, me: str, sender: Client) -> None:
    sender.send(me, "x" * 200_000)  # more than a pipe holds
    read, write = os.pipe()
    process = Popen([*COMMAND, "poll"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert os.read(read, 10)
    os.close(read)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")
    assert "attempt:  2" in call("poll").ok().out


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_poll_that_is_killed_while_it_prints_has_acknowledged_nothing(call: Run, me: str, sender: Client) -> None:
    sender.send(me, "x" * 200_000)
    process = Popen([*COMMAND, "poll", "--lease", "5"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(10)
    process.kill()
    process.wait()
    process.stdout.close()
    assert "attempt:  2" in call("poll", "--wait", "8").ok().out


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor")
def test_without_standard_output_nothing_is_claimed(call: Run, me: str, sender: Client) -> None:
    sender.send(me, "x")
    done = subprocess.run(
        [sys.executable, "-c", f"import os, subprocess; os.close(1); os.execv({COMMAND[0]!r}, {[*COMMAND, 'poll']!r})"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "no standard output" in done.stderr
    assert "attempt" not in call("poll").ok().out


def test_an_interrupt_while_showing_gives_the_messages_back(
    call: Run, me: str, sender: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    sender.send(me, "x")
    with monkeypatch.context() as patched:
        patched.setattr("clawlink.cli.messages.show_message", interrupted)
        told = call("poll")
    assert (told.code, told.err) == (130, "")
    assert "attempt:  2" in call("poll").ok().out
