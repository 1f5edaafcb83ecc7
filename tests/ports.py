"""Ports for servers that have to know theirs before they start."""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

# Below these lie few servers, above them the ports that systems choose for connections and for servers without a port.
_FIRST, _END, _BLOCK = 10_240, 32_768, 128
_held: list[filelock.BaseFileLock] = []


def free_port() -> int:
    """Return a port of this machine that no server listens on, and that no system chooses by itself.

    Another process of tests never gets it, and this process not before it got 127 others. So it is still free when its
    server starts, and when that server starts again.
    """
    for port in _own():
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a cycle ended")


@functools.cache
def _own() -> Iterator[int]:
    """Take a block of ports for as long as this process runs."""
    for first in range(_FIRST, _END, _BLOCK):
        lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"clawlink-test-ports-{first}.lock")
        with contextlib.suppress(filelock.Timeout, PermissionError):  # another process has it, or another account had
            lock.acquire(blocking=False)
            _held.append(lock)
            return itertools.cycle(range(first, first + _BLOCK))
    raise AssertionError("other processes of tests have all ports")
