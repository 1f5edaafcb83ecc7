"""Files that only their owner may read, replaced in one step: a crash leaves the old file or the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def room(folder: Path, size: int = 0) -> Path:
    """Make a new file of ``size`` bytes in a folder, for its owner only, and return its path. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def fill(temporary: Path, path: Path, data: bytes) -> None:
    """Write to the file of ``room``, and put it in the place of ``path``. Raises OSError."""
    with open(temporary, "r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write(path: Path, data: bytes) -> None:
    """Write a file, or replace it. Its folder is there. Raises OSError."""
    temporary = room(path.parent)
    try:
        fill(temporary, path, data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
