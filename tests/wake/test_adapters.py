"""Ways that run a command: what it gets, and what its end says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from clawlink.client.hooks.sessions import Session
from clawlink.wake import adapters
from clawlink.wake.adapters import Command, Notice, OverOpenClaw, Resume, within
from clawlink.wake.openclaw import OpenClaw
from clawlink.wake.rules import FAILED, QUEUED, STARTED
from tests.effort import size
from tests.processes import Popen
from tests.waiting import PATIENCE, until
from tests.wake.openclaw import OpenClawStandIn

NOTICE = Notice('ClawLink: 1 new message from "$(touch x)": m-1', ("m-1", "m-2"), "key-1")

# Writes down how it was called, and ends as it is told to.
_PROGRAM = """
import json, os, sys
said = {"words": sys.argv[2:], "text": sys.stdin.read(), "folder": os.getcwd(),
        "environ": {name: value for name, value in os.environ.items() if name.startswith("CLAWLINK_")}}
open(sys.argv[1], "w").write(json.dumps(said))
sys.stderr.write("first line\\nthe \\x1b[31mreason\\n")
sys.exit(int(os.environ.get("ENDS_WITH", "0")))
"""


async def test_a_command_gets_our_words_and_no_shell(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    words = [sys.executable, "-c", _PROGRAM, str(log), "$(touch x)", "a b"]
    environ = {**os.environ, "CLAWLINK_AGENT": "wrong"}
    assert await Command(words, "bob", environ).fire(NOTICE) == adapters.Result(QUEUED)
    said = json.loads(log.read_text())
    assert (said["words"], said["text"]) == (["$(touch x)", "a b"], NOTICE.text)
    assert said["environ"]["CLAWLINK_AGENT"] == "bob"
    assert said["environ"]["CLAWLINK_WAKE_MESSAGES"] == "m-1 m-2"
    assert said["environ"]["CLAWLINK_WAKE_KEY"] == "key-1"
    failed = await Command(words, "bob", {**environ, "ENDS_WITH": "3"}).fire(NOTICE)
    assert failed.result == FAILED
    assert (failed.note or "").startswith("it ended with 3: the ")
    assert "\x1b" not in (failed.note or "")
    missing = await Command([str(tmp_path / "none")], "bob", environ).fire(NOTICE)
    assert (missing.result, "cannot be run" in (missing.note or "")) == (FAILED, True)


def children() -> set[str]:
    """Return the ids of the commands that this process has started, also of those that ended and are not asked about.

    A command leads a session. What a command leaves behind does not, and this process may have adopted it.
    """
    found = set()
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(")")
            _, parent, _, session, *_ = rest.split()
            if int(parent) == os.getpid() and session == place.name and name in ("true", "false", "sleep", "sh"):
                found.add(place.name)
    return found


@pytest.mark.both_loops
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the states of processes in /proc")
async def test_no_command_stays_behind_as_a_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "COMMAND_SECONDS", 0.1)
    before = children()
    for words in (["true"], ["false"], ["sleep", "60"], ["sh", "-c", "sleep 0.3 & exit 0"], ["/none"]) * size(8, 20):
        assert (await Command(words, "bob").fire(NOTICE)).result in (QUEUED, FAILED)
    monkeypatch.setattr(adapters, "COMMAND_SECONDS", PATIENCE)
    given_up = [asyncio.ensure_future(Command(["sleep", "60"], "bob").fire(NOTICE)) for _ in range(10)]
    await until(lambda: len(children() - before) >= len(given_up))
    for one in given_up:
        one.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    await until(lambda: children() <= before)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


async def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "COMMAND_SECONDS", 0.2)
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    found = await Command(sleeper, "bob").fire(NOTICE)
    assert (found.result, found.note) == (FAILED, "the command did not end within 0.2 s")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither this shell nor groups of processes")
async def test_what_a_command_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "COMMAND_SECONDS", 1.0)
    held = tmp_path / "held"
    os.mkfifo(held)
    with Popen(["cat", str(held)]) as reader:  # it ends with the last process that holds the pipe
        try:
            found = await Command(["sh", "-c", f"exec 3>'{held}'; sleep 600; true"], "bob").fire(NOTICE)
            assert found.result == FAILED
            assert reader.wait(PATIENCE) == 0
        finally:
            reader.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such shell")
async def test_a_command_that_has_ended_counts_though_its_output_is_held_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "COMMAND_SECONDS", 2.0)
    go = tmp_path / "go"
    os.mkfifo(go)
    found = await Command(["sh", "-c", f"(read -r _ <'{go}') & exit 0"], "bob").fire(NOTICE)
    assert found == adapters.Result(QUEUED)
    go.write_text("\n")  # it runs still, or nobody would read this
    await asyncio.wait_for(asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}), PATIENCE)


def test_a_resumed_session_has_the_variables_that_it_had() -> None:
    environ = {"PATH": "/bin", "CODEX_HOME": "/mine", "CLAUDE_CONFIG_DIR": "/c"}
    session = Session("codex", "ID", "n", "http://x", "c")
    assert within(session, environ) == environ, "no hook has told"
    assert within(session._replace(variables={}), environ) == {"PATH": "/bin", "CLAUDE_CONFIG_DIR": "/c"}
    told = within(session._replace(variables={"CODEX_HOME": "/its"}), environ)
    assert told == {**environ, "CODEX_HOME": "/its"}


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a first line")
async def test_an_ended_session_is_resumed_without_its_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program is run as its own ``--help`` says (Codex 0.171, Gemini CLI 0.61, opencode 1.18)."""
    binaries, project = tmp_path / "bin", tmp_path / "project"
    binaries.mkdir()
    project.mkdir()
    log = tmp_path / "log.json"
    names = ("agents", "delegate", "inbox", "report", "tasks", "tell")
    allowed = ",".join(f"mcp__clawlink__relay_{name}" for name in names)
    wanted = {
        "claude": ["-p", "--resume", "ID", NOTICE.text, "--allowedTools", allowed],
        "codex": ["exec", "resume", "ID", NOTICE.text],
        "gemini": ["--resume", "ID", "-p", NOTICE.text],
        "cursor": ["--resume", "ID", "-p", NOTICE.text],
        "opencode": ["run", "--session", "ID", NOTICE.text],
    }
    environ = {**os.environ, "PATH": str(binaries)}
    for host, words in wanted.items():
        session = Session(host, "ID", f"{host}-shop-1", "http://x", "c", folder=str(project))
        open_session = Resume(session, lambda: True, environ)
        assert open_session.closed() == "its session is open on a screen"
        resume = Resume(session, lambda: False, environ)
        name = "cursor-agent" if host == "cursor" else host
        assert resume.closed() == f"{name} is not found"
        script = binaries / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c \'{_PROGRAM}\' "{log}" "$@"\n')
        script.chmod(0o755)
        assert resume.closed() is None
        assert (await resume.fire(NOTICE)).result == STARTED
        said = json.loads(log.read_text())
        assert (said["words"], said["folder"]) == (words, str(project)), host
        assert said["environ"]["CLAWLINK_AGENT"] == session.name
        assert await resume.busy() is False
        failed = await Resume(session, lambda: False, {**environ, "ENDS_WITH": "1"}).fire(NOTICE)
        assert failed.result == FAILED
    monkeypatch.setattr(adapters, "STARTED_SECONDS", 0.3)
    (binaries / "claude").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    session = Session("claude", "ID", "claude-shop-1", "http://x", "c", folder=str(project))
    resume = Resume(session, lambda: False, environ)
    assert (await resume.fire(NOTICE)).result == STARTED
    assert await resume.busy() is True, "its turn runs on"
    assert resume._running is not None
    assert resume._reaper is not None
    resume._running.kill()
    await resume._reaper
    assert await resume.busy() is False
    assert Resume(session._replace(host="emacs"), lambda: False).closed() == "emacs has no headless run"


async def test_openclaw_gets_a_line_of_our_own_and_passing_errors_are_tried_again() -> None:
    async with OpenClawStandIn() as there, aiohttp.ClientSession() as http:
        way = OverOpenClaw(OpenClaw(http, there.gateway))
        assert way.closed() is None
        assert (await way.fire(NOTICE)).result == QUEUED
        assert there.lines == [(f"{NOTICE.text} (wake key-1)", "now")]
        there.scripted += [web.Response(status=503), web.Response(status=503)]
        pauses = [(await way.fire(NOTICE)).again for _ in range(3)]
        assert pauses == [1.0, 2.0, None]
        wrong = OverOpenClaw(OpenClaw(http, there.gateway._replace(token="x")))
        refused = await wrong.fire(NOTICE)
        assert (refused.result, refused.again) == (FAILED, None)
        none = OverOpenClaw(None, "no token")
        assert (none.closed(), (await none.fire(NOTICE)).note) == ("no token", "no token")
