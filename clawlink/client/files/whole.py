"""File objects that take or give only a part at a time: raw files, full disks, pipes without blocking.

All of it blocks until the whole is done, or raises OSError.
"""

from __future__ import annotations

import errno
import io
import time
from typing import Any

# Seconds between two tries, if the system cannot tell when a file is ready.
_TRY_AGAIN_SECONDS = 0.01


def write_all(file: Any, data: bytes) -> None:
    """Write every byte, however few each call takes. Raises OSError if it cannot."""
    while data:
        try:
            taken = file.write(data)
        except BlockingIOError as error:
            taken = error.characters_written if hasattr(error, "characters_written") else 0
            _wait(file, writing=True)
        else:
            if taken is None and isinstance(file, io.RawIOBase):
                taken = 0
                _wait(file, writing=True)
            elif not isinstance(taken, int):
                return  # an object with a write of its own, which tells nothing
            elif not 0 < taken <= len(data):
                raise OSError(errno.EIO, "the file does not take any more of what is written to it")
        data = data[taken:]


def flush_all(file: Any) -> None:
    """Flush the object. An object without ``flush`` buffers nothing."""
    flush = getattr(file, "flush", None)
    while flush is not None:
        try:
            flush()
        except BlockingIOError:
            _wait(file, writing=True)
        else:
            return


def read_some(file: Any, size: int) -> Any:
    """Read at most this many bytes. An empty result means the end; the call waits for the first byte."""
    while True:
        try:
            piece = file.read(size)
        except BlockingIOError:
            piece = None
        if piece is not None:
            return piece
        _wait(file, writing=False)


def _wait(file: Any, *, writing: bool) -> None:
    """Wait until the file is ready. Where that cannot be known, wait a moment."""
    import select

    try:
        poll = select.poll()  # takes any descriptor, while select() takes only small ones
        poll.register(file.fileno(), select.POLLOUT if writing else select.POLLIN)
        poll.poll()
    except (AttributeError, OSError, ValueError):
        time.sleep(_TRY_AGAIN_SECONDS)
