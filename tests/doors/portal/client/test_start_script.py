"""The bridge as a process in the background: looks at it, and its end at any moment."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from clawlink.cli.main import main
from clawlink.doors.portal.client.bridge import Bridge
from clawlink.doors.portal.client.start_script import PID_FILE, STATUS_FILE, held, running

LOOKS = 300


def test_no_look_keeps_a_bridge_from_starting_or_meets_another_look(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    over = threading.Event()
    seen: set[int | None] = set()

    def look() -> None:
        while not over.is_set():
            seen.add(running(tmp_path))

    looking = [threading.Thread(target=look) for _ in range(2)]
    for one in looking:
        one.start()
    try:
        for _ in range(LOOKS):
            (tmp_path / PID_FILE).write_text("1\n", "ascii")  # as a killed bridge leaves it
            with held(tmp_path):
                assert running(tmp_path) == os.getpid()
                with pytest.raises(Timeout), held(tmp_path):
                    pass
    finally:
        over.set()
        for one in looking:
            one.join()
    assert seen <= {None, os.getpid()}, "the process of nobody is never taken for that of a bridge"


@pytest.mark.parametrize("kept", ["-1", "0", "-7", "99999999999999999999", "x", ""])
def test_a_damaged_note_names_no_process(tmp_path: Path, kept: str) -> None:
    """A signal to -1 would go to all processes of the account."""
    with held(tmp_path):
        (tmp_path / PID_FILE).write_text(kept, "ascii")
        assert running(tmp_path) == 0


def test_a_bridge_that_has_to_end_before_it_begins_says_that_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bridge, "run", end)
    words = ["portal", "bridge", "--folder", str(tmp_path), "--at", "https://me.example", "--key", "k"]
    (tmp_path / STATUS_FILE).write_text('{"status": "connected"}', "utf-8")
    assert main(words) == 130
    assert json.loads((tmp_path / STATUS_FILE).read_text("utf-8"))["status"] == "stopped"
    assert (running(tmp_path), (tmp_path / PID_FILE).exists()) == (None, False)
