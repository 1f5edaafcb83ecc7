"""``start.py``: the bridge as a process in the background, as Agent P2P starts it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from clawlink import private
from clawlink.domain.terminal import cell
from clawlink.doors.portal.client.portal import kept_gateway

FOLDER = Path(".openclaw") / "agent-p2p"
"""The place of the bridge's state below the home of the account."""
PID_FILE = "bridge.pid"
STATUS_FILE = "skill_status.json"
_LOCK_FILE = "bridge.lock"
_LOOK_FILE = "look.lock"
_SAID = Path("local") / "start.log"
_DONE, _FAILED = 0, 1
_PATIENCE_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_LAST_PID = 2**31 - 1


def _lock(folder: Path) -> FileLock:
    """Return the lock that a bridge with this folder holds while it runs."""
    return FileLock(folder / _LOCK_FILE, timeout=0, mode=0o600, thread_local=False)


@contextlib.contextmanager
def _looking(folder: Path) -> Iterator[None]:
    """Take turns with all who look, start or end. A look tries the lock of the bridge, and no bridge may meet that."""
    with FileLock(folder / _LOOK_FILE, mode=0o600, thread_local=False):
        yield


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the bridge with this folder, for all who look. Raises Timeout if another one runs."""
    lock, pid = _lock(folder), folder / PID_FILE
    with _looking(folder):
        lock.acquire()
        pid.write_text(f"{os.getpid()}\n", "ascii")
    try:
        yield
    finally:
        with _looking(folder):
            pid.unlink(missing_ok=True)
            lock.release()


def running(folder: Path) -> int | None:
    """Return the process of the bridge with this folder; None if none runs, whatever is left of one."""
    if not (folder / _LOCK_FILE).exists():
        return None
    lock = _lock(folder)
    with _looking(folder):
        try:
            lock.acquire()
        except Timeout:
            with contextlib.suppress(OSError, ValueError):
                pid = int((folder / PID_FILE).read_text("ascii"))
                return pid if 0 < pid <= _LAST_PID else 0  # 0 and less name many processes to a system
            return 0
        lock.release()
    return None


def start(argv: Sequence[str]) -> int:
    """Run ``start.py`` with these words, and return its exit code: 0 once the bridge is as it was asked to be."""
    parser = argparse.ArgumentParser(prog="start.py", description="Start and stop the bridge beside OpenClaw.")
    parser.add_argument("action", choices=("start", "stop", "restart", "status"))
    action = parser.parse_args(argv).action
    folder = Path.home() / FOLDER
    try:
        if action == "status":
            return _status(folder)
        if action == "start":
            return _start(folder)
        stopped = _stop(folder)
        return stopped if action == "stop" or stopped else _start(folder)
    except OSError as error:
        print(f"{cell(str(error.filename or folder))}: {error.strerror or error}", file=sys.stderr)
        return _FAILED


def _start(folder: Path) -> int:
    pid = running(folder)
    if pid is not None:
        print(f"The bridge runs already, as process {pid}.")
        return _DONE
    private.make_folder(folder / "local", 0o755)
    said = folder / _SAID
    words = [sys.executable, "-m", "clawlink", "portal", "bridge", "--folder", str(folder)]
    with open(said, "wb") as log:
        child = subprocess.Popen(  # noqa: S603 - our own program
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **kept_gateway()[0]},  # as in the original
            start_new_session=True,
            creationflags=getattr(subprocess, "DETACHED_PROCESS", 0),
        )
    until = time.monotonic() + _PATIENCE_SECONDS
    while child.poll() is None and time.monotonic() < until:
        if running(folder):
            child.returncode = 0  # it goes on when this process has ended
            print(f"The bridge runs, as process {child.pid}; its state is in {cell(str(folder))}.")
            return _DONE
        time.sleep(_LOOK_SECONDS)
    why = said.read_text("utf-8", errors="replace").strip()
    print(cell(why) or f"the bridge did not start; see {cell(str(said))}", file=sys.stderr)
    return _FAILED


def _stop(folder: Path) -> int:
    pid = running(folder)
    if pid is None:
        print("The bridge does not run.")
        return _DONE
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        if running(folder) is None:
            print("The bridge is stopped.")
            return _DONE
        time.sleep(_LOOK_SECONDS)
    print(f"the bridge, process {pid}, does not end; if the system starts it, use: clawlink portal bridge --uninstall")
    return _FAILED


def _status(folder: Path) -> int:
    """Tell whether the bridge runs, and what it says of itself. The exit code is 0 while it runs."""
    pid = running(folder)
    if pid is None:
        print("The bridge does not run; start it with: start.py start")
        return _FAILED
    told = ""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        kept = json.loads((folder / STATUS_FILE).read_text("utf-8"))
        told = f": {kept.get('status')}, {kept.get('message')}"
    print(f"The bridge runs, as process {pid}{cell(told)}.")
    return _DONE
