"""The command line of ClawLink 1.0.2, as ``tests/legacy.py`` has it, against this relay."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.cli.conftest import Run
from tests.conftest import Start
from tests.waiting import PATIENCE


@pytest.mark.parametrize("token", [None, "s3cret"], ids=["open", "token"])
def test_two_old_command_lines_work_together_also_after_a_restart(
    start_relay: Start, tmp_path: Path, token: str | None
) -> None:
    relay = start_relay(*(["--token", token] if token else []))

    def run(who: str, *words: str) -> str:
        home = tmp_path / who
        home.mkdir(exist_ok=True)
        environ = {**os.environ, "HOME": str(home), "USERPROFILE": str(home), "CLAWLINK_TOKEN": token or ""}
        command = [sys.executable, "-m", "tests.legacy", "--relay", relay.url, *words]
        done = processes.run(command, text=True, env=environ, timeout=PATIENCE)
        assert done.returncode == 0, (words, done.stderr)
        printed: str = done.stdout
        return printed

    for who in ("ann", "bob", "ann"):  # ann twice: each time with an id of its own
        run(who, "register", "--name", who.title())
    bob, ann = ((tmp_path / who / ".clawlink_agent").read_text() for who in ("bob", "ann"))
    run("ann", "delegate", "--to", bob, "--task", "count", "--context", "[1, 2]", "--priority", "critical")
    assert "count" in run("bob", "poll")
    run("bob", "respond", "--to", ann, "--msg-id", "msg-1", "--result", "three", "--status", "done")
    assert f"[task_response] from {bob}: three" in run("ann", "poll")

    port = relay.url.rpartition(":")[2]
    relay.stop()
    relay = start_relay("--port", port, *(["--token", token] if token else []))
    (tmp_path / "note.txt").write_text("note")
    assert run("bob", "poll") == ""
    assert "saved v1" in run("ann", "file-put", "--key", "note", "--file", str(tmp_path / "note.txt"))
    run("ann", "delegate", "--to", bob, "--task", "again")
    assert "again" in run("bob", "poll")
    assert "register: POST /register" in run("ann", "info")
    assert {ann, bob} <= set(run("ann", "discover").split())


def test_our_command_line_takes_what_theirs_did(start_relay: Start, clawlink_home: Path, call: Run) -> None:
    relay = start_relay()
    ids = {}
    for name in ("ann", "bob"):
        reply = call("--relay", relay.url, "register", "--name", name, "--no-claim", "--json").ok().json
        ids[name] = reply["agent"]["agent_id"]
    for context in ("[1, 2]", '"text"', "{}"):
        more = ("--context", context, "--priority", "critical", "--as", "ann")
        task = call("delegate", "--to", ids["bob"], "--task", "count", *more, "--json").ok().json["message_id"]
        assert "priority:  urgent" in call("poll", "--as", "bob").ok().out, context
        answer = ("respond", "--to", ids["ann"], "--result", "three", "--as", "bob")
        assert "completed" in call(*answer, "--msg-id", "msg-1", "--status", "done").ok().out, context
        assert f"to task {task}" in call("poll", "--as", "ann").ok().out, context
        assert "passed on" in call(*answer, "--msg-id", "msg-2", "--status", "fine").ok().out, context
        assert "to what it calls msg-2" in call("poll", "--as", "ann").ok().out, context
    call("register", "--name", "eve", "--relay", relay.url).ok()
    refused = call("respond", "--msg-id", "msg-1", "--result", "r", "--status", "done", "--as", "eve")
    assert (refused.code, "--status is one of in_progress" in refused.err) == (2, True)
    assert "not 'done'; only an agent without a key may give another word" in refused.err
