"""The measured servers: a relay and the floor, each a process of its own on one core, the load on another.

With ``free_cores`` the system chooses the cores: where three processes share two, a fixed place decides the figure.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = str(10**9)
# The mailboxes must take what nobody drains for as long as the measurement lasts.
RELAY_FLAGS = (
    "--rate-agent",
    "0",
    "--rate-pair",
    "0",
    "--rate-copies",
    "0",
    "--rate-register",
    "0",
    "--rate-files",
    "0",
    "--log-level",
    "error",
    "--max-mailbox-messages",
    _UNLIMITED,
    "--max-mailbox-bytes",
    _UNLIMITED,
    "--max-stored-bytes",
    str(10**11),
    "--max-open-tasks",
    _UNLIMITED,
)


@dataclass(frozen=True)
class Server:
    """A server to measure. ``pid`` is None for one that was running already."""

    url: str
    pid: int | None = None

    def memory(self) -> int | None:
        """Return the bytes of memory the process has in use; None where that cannot be told."""
        if self.pid is None or os.name != "posix":
            return None
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return int(told.stdout) * 1024 if told.stdout.strip() else None

    def processor_seconds(self) -> float | None:
        """Return the processor time that the process has used; None where that cannot be told."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, AttributeError):
            return None


def can_pin() -> bool:
    """Return True if server and load can each have a core of their own."""
    return hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


def pin(pid: int) -> None:
    """Give all threads of a server its core, if server and load can each have one."""
    if can_pin():
        core = {sorted(os.sched_getaffinity(0))[0]}
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), core)


_free: ContextVar[bool] = ContextVar("free", default=False)


@contextlib.contextmanager
def free_cores() -> Iterator[None]:
    """Give the servers that start in this context no cores of their own."""
    token = _free.set(True)
    try:
        yield
    finally:
        _free.reset(token)


@contextlib.contextmanager
def _started(*module_and_flags: str) -> Iterator[Server]:
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *module_and_flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        found = re.search(r"listening on (\S+)", process.stdout.readline() if process.stdout else "")
        if found is None:
            raise RuntimeError(f"{module_and_flags[0]} did not start")
        if not _free.get():
            pin(process.pid)
        yield Server(found[1], process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def relay(*flags: str) -> Iterator[Server]:
    """Start a relay, with more flags if needed, for as long as the context lasts."""
    with _started("clawlink.server", "--port", "0", *RELAY_FLAGS, *flags) as server:
        yield server


@contextlib.contextmanager
def floor() -> Iterator[Server]:
    """Start the bare application for as long as the context lasts."""
    with _started("clawlink.bench.floor") as server:
        yield server


@contextlib.contextmanager
def legacy(*flags: str) -> Iterator[Server]:
    """Start the stand-in of the 1.0.2 server for as long as the context lasts. With ``--least`` it does the least."""
    with _started("clawlink.bench.legacy", *flags) as server:
        yield server


@contextlib.contextmanager
def on_the_other_core() -> Iterator[None]:
    """Keep the load off the server's core."""
    if not can_pin():
        yield
        return
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {sorted(cores)[-1]})
        yield
    finally:
        os.sched_setaffinity(0, cores)


def allow_connections(number: int) -> int:
    """Raise the limit of open files as far as needed and allowed; return how many connections may be opened."""
    try:
        import resource
    except ImportError:
        return number
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return number if soft == resource.RLIM_INFINITY else min(number, soft - 200)
