"""Disks of a few MiB: a real one where this process may mount it, and one that counts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.torture.operations import SQLITE_FULL, WRITE, Operation, Refused, watched


@contextmanager
def mounted(place: Path, size: int) -> Iterator[None]:
    """Mount a file system of this size in memory."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def can_mount() -> bool:
    """Return True if this process may mount a file system."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


@contextmanager
def counted(place: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to let the files below a folder grow beyond this size together."""
    place.mkdir()

    def used() -> int:
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())

    def require(path: Path, end: int) -> None:
        growth = end - (path.stat().st_size if path.exists() else 0)
        if growth > 0 and used() + growth > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watch(operation: Operation) -> None:
        if operation.kind == WRITE:
            try:
                require(place / operation.path, operation.offset + len(operation.data))
            except OSError:
                if operation.path.startswith("data/clawlink.db"):
                    raise Refused(SQLITE_FULL) from None
                raise

    def path_of(handle: int) -> Path | None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        return path if place in path.parents else None

    real_write, real_allocate = os.write, os.posix_fallocate

    def write(handle: int, data: Any) -> int:
        path = path_of(handle)
        if path is not None:
            require(path, os.lseek(handle, 0, os.SEEK_CUR) + len(data))
        return real_write(handle, data)

    def allocate(handle: int, start: int, length: int) -> None:
        path = path_of(handle)
        if path is not None:
            require(path, start + length)
        real_allocate(handle, start, length)

    with monkeypatch.context() as patches:
        patches.setattr(os, "write", write)
        patches.setattr(os, "posix_fallocate", allocate)
        with watched(place, watch):
            yield


def fill(place: Path) -> None:
    """Take all the room that is left."""
    with open(place / "filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12):
            try:
                while True:
                    os.write(file.fileno(), b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
