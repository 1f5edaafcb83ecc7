"""The processes above this one: by the host among them, programs of one session find each other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

# Programs that stand between a host and what it starts.
_BETWEEN = {
    *("sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox", "env", "timeout", "nice", "setsid"),
    *("uv", "uvx", "npx", "cmd.exe", "powershell.exe", "pwsh", "pwsh.exe"),
}
_PS_SECONDS = 1.0
_MOST = 64


class Process(NamedTuple):
    """A process: its id, the time of its start as the system writes it, its parent and its program."""

    pid: int
    started: str
    parent: int
    program: str

    @property
    def key(self) -> tuple[int, str]:
        """The id with the start, since systems use ids again."""
        return self.pid, self.started


def ancestors(own: int | None = None) -> list[Process]:
    """Return the processes above one, the nearest first; as far as this system tells."""
    return list(_above(os.getppid() if own is None else own, None if Path("/proc/self/stat").exists() else _listed()))


def host_among(above: list[Process]) -> tuple[int, str] | None:
    """Return the process that runs hooks: the nearest that is no shell and no starter of programs."""
    return next((process.key for process in above if process.program.lower() not in _BETWEEN), None)


def end_of_host() -> Callable[[], bool]:
    """Return a function that tells whether the host of this process has ended since. A shell may outlive its host."""
    host, parent = host_among(ancestors()), os.getppid()
    if host is None:
        return lambda: os.getppid() != parent
    return lambda: host not in (process.key for process in ancestors())


def _above(pid: int, listed: Mapping[int, Process] | None) -> Iterator[Process]:
    for _ in range(_MOST):
        process = _of_linux(pid) if listed is None else listed.get(pid)
        if process is None or process.pid <= 1:
            return
        yield process
        pid = process.parent


def _of_linux(pid: int) -> Process | None:
    try:
        # The program stands in brackets and may have any character.
        before, _, after = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")
        fields = after.split()
        return Process(pid, fields[19], int(fields[1]), before.partition("(")[2])
    except (OSError, ValueError, IndexError):
        return None


def _listed() -> dict[int, Process]:
    """Return all processes of a system without /proc, as ``ps`` lists them; none on Windows."""
    try:
        shown = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,lstart=,comm="],  # noqa: S607 - found as every command is
            capture_output=True,
            timeout=_PS_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {process.pid: process for line in shown.splitlines() if (process := of_ps(line)) is not None}


def of_ps(line: str) -> Process | None:
    """Read a line of ``ps -o pid=,ppid=,lstart=,comm=``: the start has five words."""
    words = line.split(None, 7)
    if len(words) < 8 or not (words[0].isdigit() and words[1].isdigit()):
        return None
    return Process(int(words[0]), " ".join(words[2:7]), int(words[1]), words[7].rpartition("/")[2])
