"""Files for readers on the command line: each agent has an account of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Relays, Result, Run

As = Callable[..., Result]


@pytest.fixture
def act(call: Run, own_relay: Relays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> As:
    """Return what runs a command as an agent: ``act("ann", "file-list")``. The relay has a token and asks for keys."""
    url = own_relay("--token", "t" * 20, "--require-agent-keys")

    def act(name: str, *args: str, stdin: bytes = b"") -> Result:
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        env = {"HOME": str(home), "USERPROFILE": str(home), "CLAWLINK_RELAY": url, "CLAWLINK_TOKEN": "t" * 20}
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        return call(*args, stdin=stdin)

    for name in ("ann", "bob", "eve"):
        skills = ("--caps", "sums") if name != "ann" else ()
        act(name, "register", "--name", name.title(), *skills).ok()
    return act


def test_a_file_is_put_for_readers_and_is_not_there_for_others(act: As, tmp_path: Path) -> None:
    put = ("file-put", "plan", "--file", "-")
    assert 'for "Bob"' in act("ann", *put, "--readers", "Bob", stdin=b"secret").ok().out
    assert act("bob", "file-get", "plan").ok().raw == b"secret"
    assert act("bob", "file-get", "plan", "--json").ok().json["readers"] is not None
    assert 'for "Bob", owned by "Ann"' in act("bob", "file-list").ok().out
    assert 'for "Bob", owned by "Ann"' in act("ann", "file-history", "plan").ok().out
    assert "No shared files" in act("eve", "file-list").ok().out
    for command in (
        ("file-get", "plan"),
        ("file-get", "plan", "--version", "1"),
        ("file-history", "plan"),
        ("file-diff", "plan"),
        ("file-rm", "plan", "--force"),
    ):
        told = act("eve", *command).failed(5)
        assert "secret" not in told.out + told.err, command
        absent = act("eve", command[0], "absent", *command[2:]).failed(5)
        assert told.err.replace("plan", "absent") == absent.err, command
    for command in (put, ("file-lock", "plan")):
        assert "is in use by other agents" in act("eve", *command, stdin=b"x").failed(4).err, command
    assert 'for "Bob"' in act("bob", *put, stdin=b"more").ok().out, "readers stay as they are"
    assert "only its owner" in act("bob", *put, "--readers", "*", stdin=b"more").failed(4).err
    assert "alone" in act("ann", *put, "--readers", "Ann", stdin=b"mine").ok().out
    act("bob", "file-get", "plan").failed(5)
    assert "for" not in act("ann", *put, "--readers", "*", stdin=b"all").ok().out
    assert act("eve", "file-get", "plan").ok().raw == b"all"
    for wrong, code, what in (
        ("", 2, "--readers is empty"),
        (" , ", 2, "--readers is empty"),
        ("Nobody", 5, "no agent with the id or name 'Nobody'"),
        ("Bob,*", 1, "stands for everyone"),
        ("x" * 200, 1, "128 characters"),
    ):
        told = act("ann", "file-put", "new", "--file", "-", "--readers", wrong, stdin=b"x").failed(code)
        assert what in told.err, wrong
        act("ann", "file-get", "new").failed(5)


def test_attachments_are_for_requester_and_assignee(act: As, tmp_path: Path) -> None:
    given, made = tmp_path / "in.txt", tmp_path / "out.txt"
    given.write_bytes(b"given")
    made.write_bytes(b"made")
    task = act("ann", "delegate", "--to", "Bob", "--task", "t", "--attach", str(given), "-q").ok().out.strip()
    (key,) = [file["file_key"] for file in act("bob", "file-list", "--json").ok().json["files"]]
    assert act("bob", "file-get", key).ok().raw == b"given"
    assert act("ann", "file-get", key).ok().raw == b"given"
    act("eve", "file-get", key).failed(5)
    act("bob", "poll").ok()
    act("bob", "respond", "--msg-id", task, "--attach", str(made)).ok()
    (answer,) = act("ann", "task", task, "--json").ok().json["result_attachments"]
    assert act("ann", "file-get", answer["file_key"]).ok().raw == b"made"
    act("eve", "file-get", answer["file_key"]).failed(5)
    assert act("eve", "file-list", "--json").ok().json["count"] == 0


def test_attachments_of_a_task_for_whoever_can_are_for_the_agent_that_claims_it(act: As, tmp_path: Path) -> None:
    given = tmp_path / "in.txt"
    given.write_bytes(b"given")
    act("ann", "delegate", "--capability", "sums", "--task", "t", "--attach", str(given)).ok()
    (key,) = [file["file_key"] for file in act("ann", "file-list", "--json").ok().json["files"]]
    assert 'for the agent with its task, owned by "Ann"' in act("ann", "file-list").ok().out
    for name in ("bob", "eve"):
        act(name, "file-get", key).failed(5)
    act("bob", "poll").ok()
    assert act("bob", "file-get", key).ok().raw == b"given"
    act("eve", "file-get", key).failed(5)
