"""A relay on a machine whose clock is moved: ``python -m tests.torture.moved_clock FILE FLAGS...``.

The file has the number of seconds by which the system's clock is ahead. It is read again and again.
"""

from __future__ import annotations

import os
import sys
import time

from clawlink.server.__main__ import main as serve


def move(path: str) -> None:
    """Let ``time.time`` be ahead by what the file says."""
    real = time.time
    handle = os.open(path, os.O_RDONLY)

    def moved() -> float:
        return real() + float(os.pread(handle, 32, 0) or b"0")

    time.time = moved


def main() -> int:
    """Run from the command line. Returns the exit code of the relay."""
    move(sys.argv[1])
    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
