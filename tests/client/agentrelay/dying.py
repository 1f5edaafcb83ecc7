"""A process that does one thing to a folder of events, and is killed at its n-th step to the disk.

    python -m tests.client.agentrelay.dying FOLDER STEP ACTION

Of a write half is written before. It prints ``done`` if it lived.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clawlink.client.agentrelay.folder import Folder

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


def main() -> None:
    folder = Folder(Path(sys.argv[1]))
    die_at(int(sys.argv[2]))
    ACTIONS[sys.argv[3]](folder)
    print("done")


if __name__ == "__main__":
    main()
