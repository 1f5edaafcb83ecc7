"""A process that does one thing to a folder of events, and is killed at its n-th step to the disk.

    python -m tests.doors.agentrelay.client.dying FOLDER STEP ACTION

Of a write half is written before. It prints ``done`` if it lived. Without arguments it reads lines of JSON, each a
list of these three, and does each in a child process: where processes can fork, that costs no new interpreter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clawlink.doors.agentrelay.client.folder import Folder
from tests.processes import Popen
from tests.waiting import PATIENCE

ACTIONS: dict[str, Callable[[Folder], object]] = {
    "send": lambda folder: folder.send("b", "REQ", "e1", {"sender_agent": "a", "task": "x" * 1000}),
    "receive": lambda folder: folder.receive("REQ,base,s/base.json,,"),
    "burn": lambda folder: folder.receive("REQ,burns,s/burns.json,,"),
    "update": lambda folder: folder.update("base", {"result": "y" * 1000}),
    "hand_on": lambda folder: folder.update("read", {"next_agent": "c"}, "e1"),
    "cmp": lambda folder: folder.cmp("read"),
    "verify": lambda folder: folder.verify("CMP,read,,,secret"),
}


def die_at(step: int) -> None:
    """Count every call that changes the disk, and be killed at this one."""
    left = step
    write = os.write

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            changes = name != "open" or args[1] & os.O_CREAT
            left -= bool(changes)
            if changes and not left:
                if name == "write":
                    write(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
            return call(*args, **kwargs)

        return run

    for name in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
        setattr(os, name, counted(name, getattr(os, name)))


def run(data: Path, step: int, action: str) -> str:
    """Do it in a child process; return "done" if the child lived, and "killed" or "failed" if not."""
    if not hasattr(os, "fork"):
        command = [sys.executable, "-m", "tests.doors.agentrelay.client.dying", str(data), str(step), action]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        return "done" if "done" in done.stdout else "failed" if done.stderr else "killed"
    child = os.fork()
    if not child:
        code = 1
        try:
            die(data, step, action)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"


class Runner:
    """A process of one thread that runs each step in a child of its own. Use it in a ``with`` statement."""

    def __enter__(self) -> Runner:
        command = [sys.executable, "-m", "tests.doors.agentrelay.client.dying"]
        self._process = Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, data: Path, step: int, action: str) -> str:
        """Return "done", "killed" or "failed"."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(data), step, action]), file=self._process.stdin, flush=True)
        return str(self._process.stdout.readline()).strip()


def die(data: Path, step: int, action: str) -> None:
    """Do it in this process."""
    folder = Folder(data)
    die_at(step)
    ACTIONS[action](folder)


def main() -> None:
    if len(sys.argv) > 1:
        die(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
        print("done")
        return
    for line in sys.stdin:
        data, step, action = json.loads(line)
        print(run(Path(data), step, action), flush=True)


if __name__ == "__main__":
    main()
