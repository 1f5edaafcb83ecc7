"""Sessions as their hooks tell of them: which is in a turn, and which program still runs."""

from __future__ import annotations

import os
import sys

import pytest

from clawlink.client.hooks.ancestors import ancestors
from clawlink.client.hooks.sessions import Session
from clawlink.wake import session_registry
from clawlink.wake.session_registry import BUSY, IDLE, SessionRegistry

SESSION = Session("claude", "s1", "claude-shop-1", "http://x", "c")
KEY = ("claude", "s1")


def test_a_session_is_busy_from_a_hook_of_a_turn_to_its_end() -> None:
    now = [1000.0]
    changes: list[session_registry.Key] = []
    here = SessionRegistry(lambda: now[0], changes.append)
    assert not here.is_busy(SESSION)
    for _ in range(3):
        here.note(KEY, BUSY)
    assert changes == [KEY], "a repeat is no change"
    assert here.is_busy(SESSION)
    here.note(KEY, IDLE)
    assert not here.is_busy(SESSION)
    # Where no process tells, a turn counts as over after a long time without a hook.
    here.note(KEY, BUSY)
    now[0] += session_registry.BUSY_SECONDS + 1
    assert not here.is_busy(SESSION)
    here.note(KEY, BUSY)
    assert not here.is_busy(SESSION._replace(ended=True))
    here.forget(KEY)
    assert not here.is_busy(SESSION)


def test_the_process_of_a_session_tells_whether_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    here = SessionRegistry(lambda: 1000.0, lambda key: None)
    assert here.is_alive(SESSION) is None, "an unknown process is not a dead one: a resume would be a second turn"
    assert here.is_alive(SESSION._replace(ended=True)) is False
    if sys.platform == "win32":
        return
    own = ancestors(os.getpid())[0].key
    assert here.is_alive(SESSION._replace(host_process=own)) is True
    assert here.is_alive(SESSION._replace(host_process=(own[0], "another start"))) is False
    here.note(KEY, BUSY)
    assert here.is_busy(SESSION._replace(host_process=own))
    assert not here.is_busy(SESSION._replace(host_process=(own[0], "another start"))), "it ended within its turn"
    monkeypatch.setattr(session_registry, "ancestors", lambda own=None: [])
    assert here.is_alive(SESSION._replace(host_process=(1, "x"))) is None
