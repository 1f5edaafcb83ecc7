"""Files that go with messages: the message names them, and shows the command that gets each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from clawlink.domain.message import Attachment
from tests.cli.conftest import Run
from tests.client.attacks import NAMES

Fresh = Callable[[str], str]


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def commands(shown: str) -> list[list[str]]:
    """The commands of a poll that get files, as a shell would read them."""
    lines = [line.partition(":")[2] for line in shown.splitlines() if line.strip().startswith("get it:")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("verb", ["delegate", "send"])
def test_a_file_goes_with_a_message_and_is_got_by_the_command_that_poll_shows(
    call: Run, me: str, peer: Client, here: Path, verb: str
) -> None:
    (here / "my report.txt").write_bytes(b"the report")
    (here / "site").mkdir()
    (here / "site" / "index.html").write_bytes(b"hi")
    what = ["--task" if verb == "delegate" else "--content", "look"]
    call(verb, "--to", me, *what, "--attach", "my report.txt", "--attach", "site").ok()
    (here / "my report.txt").unlink()
    shown = call("poll").ok().out
    assert 'attached: "my report.txt", 10 bytes' in shown
    assert "the report" not in shown
    report, site = commands(shown)
    call(*report).ok()
    assert (here / "my report.txt").read_bytes() == b"the report"
    call(*site, "--extract", "--output", "copy").ok()
    assert (here / "copy" / "index.html").read_bytes() == b"hi"


def test_a_file_may_be_all_of_an_answer(call: Run, me: str, peer: Client, here: Path) -> None:
    (here / "result.csv").write_bytes(b"1,2\n")
    task = peer.delegate(me, "count").message_id
    call("respond", "--msg-id", task, "--progress", "50", "--attach", "result.csv").ok()
    assert peer.task(task).status == "in_progress"
    call("respond", "--msg-id", task, "--attach", "result.csv").ok()
    done = peer.task(task)
    assert (done.status, [one.name for one in done.result_attachments]) == ("completed", ["result.csv"])
    assert "result.csv" in call("task", task).ok().out


def test_what_is_asked_and_what_is_answered_is_shown_with_the_task(call: Run, me: str, here: Path) -> None:
    (here / "in.txt").write_bytes(b"in")
    (here / "out.txt").write_bytes(b"out")
    task = call("delegate", "--to", me, "--task", "t", "--attach", "in.txt", "--json").ok().json["message_id"]
    call("poll").ok()
    call("respond", "--msg-id", task, "--result", "r", "--attach", "out.txt").ok()
    shown = call("task", task).ok().out
    assert shown.index('"in.txt"') < shown.index('"out.txt"')
    assert '"out.txt"' in call("poll", "--no-ack").ok().out
    assert '"out.txt"' in call("wait", task).ok().out


def test_each_of_several_agents_is_sent_the_same(call: Run, me: str, peer: Client, here: Path) -> None:
    (here / "f").write_bytes(b"x")
    call("delegate", "--to", f"{me},{peer.agent_id}", "--task", "t", "--attach", "f").ok()
    [mine] = [one for one in peer.poll() if one.raw["type"] == "task_delegation"]
    assert mine.raw["attachments"][0]["file_key"] in call("poll").ok().out


def test_a_file_that_is_not_there_sends_nothing(call: Run, me: str, here: Path) -> None:
    (here / "f").write_bytes(b"x")
    assert "nowhere" in call("send", "--to", me, "--content", "c", "--attach", "f", "--attach", "nowhere").failed(1).err
    assert call("poll").ok().out == "No messages.\n"


def test_a_name_of_somebody_elses_gets_a_place_here_and_nothing_is_written_over(
    call: Run, me: str, peer: Client, here: Path
) -> None:
    (here / "passwd").write_bytes(b"mine")
    saved = peer.put_blob("evil", b"evil")
    names = [name for name in dict.fromkeys(NAMES) if name and len(name) <= 255 and "\ud800" not in name]
    names = [name for name in names if "\udcff" not in name]
    for at in range(0, len(names), 32):
        some = names[at : at + 32]
        attached = [
            Attachment(file_key="evil", version=1, size=4, sha256=saved.sha256, name=name)
            for name in ["passwd", *some[:31]]
        ]
        peer.send(me, "look", attachments=attached)
    shown = call("poll").ok().out
    assert not [c for c in shown if c != "\n" and ord(c) < 32]
    found = commands(shown)
    assert len(found) >= 40
    for command in found:
        assert command[:2] == ["file", "get"]
        call(*command).ok()
    assert (here / "passwd").read_bytes() == b"mine"
    assert all(path.is_file() for path in here.iterdir())
    assert [path.name for path in here.parent.iterdir() if path.name not in ("here", "home")] == []


def attachment(key: str, name: str, sha256: str, version: int = 1) -> Attachment:
    return Attachment(file_key=key, version=version, size=4, sha256=sha256, name=name)


def test_no_two_attachments_are_given_one_name(call: Run, me: str, peer: Client, here: Path) -> None:
    saved = peer.put_blob("several", b"evil")
    names = ["..", "/", "../x", "x", "X", "x", "n" * 250 + ".txt", "n" * 251 + ".txt", "a." + "s" * 250]
    names += [names[-1], "report.txt", "sub/report.txt"]
    peer.send(me, "look", attachments=[attachment("several", n, saved.sha256, saved.version) for n in names])
    peer.send(me, "again", attachments=[attachment("several", "report.txt", saved.sha256, saved.version)])
    places = [command[command.index("--output") + 1] for command in commands(call("poll").ok().out)]
    assert len(places) == len(names) + 1
    assert len({place.casefold() for place in places}) == len(places)
    assert [place for place in places if "report" in place] == ["report.txt", "report-2.txt", "report-3.txt"]


def test_the_command_gets_only_what_the_message_names(
    call: Run, me: str, peer: Client, here: Path, fresh: Fresh
) -> None:
    key = fresh("swapped")
    peer.send(me, "look", attachments=[attachment(key, "r", "A" * 64)])
    [command] = commands(call("poll").ok().out)
    peer.put_blob(key, b"evil")
    assert "not what was asked for" in call(*command).failed(1).err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "sha256"),
    [("../../x", "a" * 64), ("a/./b", "a" * 64), ("red\x1b[2J", "a" * 64), ("a\u202eb", "a" * 64), ("k", "z" * 64)],
)
def test_what_no_command_could_get_is_said(call: Run, me: str, peer: Client, here: Path, key: str, sha256: str) -> None:
    peer.send(me, "look", attachments=[attachment(key, "r", sha256)])
    shown = call("poll").ok().out
    assert commands(shown) == []
    assert "cannot be got:" in shown
    assert not [c for c in shown if c != "\n" and (ord(c) < 32 or c == "\u202e")]
