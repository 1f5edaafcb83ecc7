"""Processes of stand-ins for coding agents, and of the program that wakes them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import processes
from tests.waiting import PATIENCE

_PATIENCE_SECONDS = 60.0
ROOT = Path(__file__).parent.parent.parent


class Process:
    """A process whose output is lines of JSON. ``until`` returns the next line that has a field."""

    def __init__(self, *words: str) -> None:
        self._process = processes.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        self._process.stdout.read()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def say(self, **said: Any) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()

    def until(self, field: str) -> Any:
        """Return the value of a field, in the next line that has it. The process is killed if none comes."""
        assert self._process.stdout is not None
        patience = threading.Timer(_PATIENCE_SECONDS, self._process.kill)
        patience.start()
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                if field in said:
                    return said[field]
        finally:
            patience.cancel()
        raise AssertionError(f"it ended, or said nothing for long, without {field}")

    def stop(self) -> None:
        """End it by SIGTERM."""
        self._process.terminate()


def claude(session: str, folder: str = "/x/shop") -> Process:
    """Begin a session of the stand-in for Claude Code."""
    return Process("-m", "tests.wake.claude", session, folder)


def waking() -> Process:
    """Start the program that wakes agents."""
    return Process("-m", "clawlink", "wake", "--json")
