"""Two sessions of a coding agent, as its settings have them after ``connect``: one gives work, the other is woken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawlink.cli.main import main
from clawlink.client.hooks.sessions import Sessions
from clawlink.config import ServerConfig
from tests.system.threaded import relay_in_thread
from tests.wake.sessions import claude, waking


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clawlink_home: Path) -> Iterator[Path]:
    """An account with Claude Code, and a relay of its own."""
    monkeypatch.delenv("CLAWLINK_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAWLINK_NO_MDNS", "yes")
    with relay_in_thread(ServerConfig(port=0)) as url:
        monkeypatch.setenv("CLAWLINK_RELAY", url)
        yield tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no ancestors: CLAWLINK_AGENT names the agent")
def test_a_task_from_one_session_wakes_the_other_and_is_answered(account: Path) -> None:
    assert main(["connect", "claude", "--yes"]) == 0
    settings = account / ".claude" / "settings.json"
    # A busy machine needs more time for a hook than a person would wait.
    settings.write_text(settings.read_text().replace("--host claude", "--host claude --seconds 20"))
    with waking() as program, claude("first") as asks, claude("second") as works:
        assert "watching" in program.until("event")
        asks.until("begun")
        assert "you are the agent claude-shop-" in works.until("begun")
        worker = Sessions(account / ".clawlink").find("claude", "second")
        assert worker is not None
        asks.say(tool="relay_delegate", arguments={"to": worker.name, "task": "shout this"})
        task = asks.until("result")["task_id"]
        woken = works.until("woken")
        assert task in woken
        assert "shout" not in woken, "our own words alone"
        assert works.until("read") == task
        works.until("reported")
        assert works.until("idle")
        asks.say(tool="relay_tasks", arguments={"task_id": task, "wait_seconds": 20})
        done = asks.until("result")
        assert "SHOUT THIS" in str(done)
        # The session that asked is woken by the answer, and both are idle again.
        program.stop()
