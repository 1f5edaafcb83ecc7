"""``clawlink wake`` as people run it: what it shows, and the proof on a session."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink import service
from clawlink.cli.agent import wake_try
from clawlink.client.hooks import port, waiting
from clawlink.client.hooks.sessions import Sessions
from clawlink.client.hooks.waiting import Waiter
from clawlink.client.sync import Client
from clawlink.service import Done, ServiceError
from tests.cli.conftest import Run
from tests.waiting import PATIENCE

Begin = Callable[[str], str]


@pytest.fixture
def begin(call: Run, relay: str) -> Begin:
    """Begin a session by its first hook, and return the name of its agent."""

    def begin(host: str) -> str:
        said = json.dumps({"session_id": f"id-{host}", "conversation_id": f"id-{host}", "cwd": "/x/shop"})
        call("hook", "SessionStart", "--host", host, "--seconds", "20", stdin=said.encode()).ok()
        found = Sessions(Path.home() / ".clawlink").find(host, f"id-{host}")
        assert found is not None
        return found.name

    return begin


@contextlib.contextmanager
def idle(host: str) -> Iterator[list[str]]:
    """Play a program with an idle session: its hook waits, and once it is woken its model reads the mail."""
    sessions = Sessions(Path.home() / ".clawlink")
    session = sessions.find(host, f"id-{host}")
    assert session is not None
    turns: list[str] = []

    def play() -> None:
        words = Waiter(sessions, session, gone=lambda: False, sleep=lambda seconds: None).wait(30)
        if words is None:
            return
        turns.append(words)
        with Client(session.relay, agent_id=session.agent_id, agent_key=session.agent_key) as agent:
            agent.ack([one.receipt for one in agent.poll(lease=60)])

    thread = threading.Thread(target=play)
    thread.start()
    yield turns
    thread.join(PATIENCE)


def test_waking_is_proved_on_a_session_within_a_minute(
    call: Run, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", 0.2)
    begin("claude")
    with idle("claude") as turns:
        tried = call("wake", "--try", "claude", "--json").ok().json
        assert tried["works"] is True
        assert [(wake["adapter"], wake["result"]) for wake in tried["woken"]] == [("claude hook", "queued")]
        assert tried["read_after"] >= tried["woken_after"] - 0.2
    assert turns[0].startswith("ClawLink: 1 new message")


def test_a_session_that_cannot_be_woken_says_why(call: Run, begin: Begin) -> None:
    for program in ("gemini", "cursor"):  # at once: the time of the test would not do for a minute
        told = call("wake", "--try", program, "--json", "--timeout", "3600")
        assert told.code == 1
        assert f"{program} cannot be woken while it is idle" in told.json["why"]
    name = begin("gemini")
    tried = call("wake", "--try", "gemini", "--json", "--timeout", "2")
    assert (tried.code, tried.json["agent"], tried.json["works"]) == (1, name, False)
    assert "cannot be woken while it is idle" in tried.json["why"]
    none = call("wake", "--try", "codex", "--timeout", "1")
    assert none.code == 1
    assert "clawlink connect codex" in none.out
    assert "wake.toml" in call("wake", "--try", "openclaw", "--timeout", "1").out


def test_the_table_of_programs_says_whether_their_sessions_can_be_woken_and_why_not(
    call: Run, monkeypatch: pytest.MonkeyPatch, account: Path
) -> None:
    def row(host: str, **fields: Any) -> dict[str, Any]:
        return {"host": host, "ways": {}, "last_woken": None, **fields}

    def rows() -> dict[str, tuple[str, str, str]]:
        shown = call("connect", "--json").ok().json
        return {one["program"]: (one["wakeable"], one["last_woken"], one["why_not"]) for one in shown}

    for name in ("claude", "codex", "gemini"):
        (account / f".{name}").mkdir()
        call("connect", name, "--yes").ok()
    for folder in (".cursor", ".config/opencode"):
        (account / folder).mkdir(parents=True)
    assert rows()["Claude Code"] == ("no", "never", "clawlink wake does not run: clawlink wake --install")
    agents = [
        row("claude", ways={"claude hook": "no idle session waits here"}, last_woken=time.time() - 600),
        row("claude", ways={"claude hook": None}),
        row("codex", ways={"codex app-server": "no endpoint\x1b[2J is set"}),
    ]
    monkeypatch.setattr(port, "ask", lambda home, question, timeout: {"agents": agents})
    assert rows() == {
        "Claude Code": ("claude hook", "10 min ago", ""),
        "Codex": ("no", "never", "no endpoint\u241b[2J is set"),
        "Gemini CLI": ("no", "never", "no session was begun"),
        "Cursor": ("no", "never", "not connected: clawlink connect cursor"),
        "opencode": ("no", "never", "not connected: clawlink connect opencode"),
        "OpenClaw": ("no", "never", "not installed here"),
    }
    assert "WHY NOT" in call("connect").ok().out


def test_a_try_prefers_the_session_that_its_relay_knows() -> None:
    def agent(name: str, way: str | None, unread: int | None) -> dict[str, Any]:
        return {"name": name, "ways": {"opencode server": way}, "unread": unread}

    gone, closed, known = agent("gone", None, None), agent("closed", "no screen", 0), agent("known", None, 0)
    assert sorted([known, gone, closed], key=wake_try.hope) == [closed, gone, known]


def test_the_service_is_installed_shown_and_removed(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(words: Any) -> Done:
        ran.append(" ".join(words))
        return Done(0, "")

    monkeypatch.setattr(service, "_run", run)
    monkeypatch.setattr(service, "kind_here", lambda: "systemd")
    unit = Path.home() / ".config" / "systemd" / "user" / "clawlink-wake.service"
    assert str(unit) in call("wake", "--install").ok().out
    assert '"-m" "clawlink" "wake"' in unit.read_text()
    shown = call("wake", "--status", "--json").ok().json
    assert (shown["runs"], shown["service"]["installed"], shown["agents"]) == (False, True, [])
    assert "start it with: clawlink wake" in call("wake", "--status").ok().out
    assert call("wake", "--uninstall", "--json").ok().json == {"installed": False, "removed": True}
    assert not unit.exists()
    assert "not installed" in call("wake", "--uninstall").ok().out

    def refuse(words: Any) -> Done:
        raise ServiceError("systemctl cannot be run")

    monkeypatch.setattr(service, "_run", refuse)
    assert "systemctl" in call("wake", "--install").failed(1).err


def test_a_sender_reads_that_its_message_waits(call: Run, relay: str) -> None:
    call("--relay", relay, "register", "ann-of-notices").ok()
    with Client(relay) as bob:
        bob.register('bob-of-notices: "ignore all"')
        id = call("send", str(bob.agent_id), "hello", "--json").ok().json["message_id"]
        bob.woken(id, "claude hook", "given_up", note="no session")
        shown = call("poll").ok().out
        bob.leave()
    assert f"about message {id}" in shown
    assert "could not be woken; the message waits in its mailbox" in shown
    assert f"clawlink message status {id}" in shown
