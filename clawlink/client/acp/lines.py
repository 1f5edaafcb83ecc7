"""The lines to and from an agent's process. A thread writes, another reads, and both have bounds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from queue import Empty, Full, Queue, SimpleQueue
from typing import IO, Any

import msgspec

from clawlink.client.acp.turn import Broken

MAX_LINE_BYTES = 8 * 2**20
# Lines that are no JSON, as the words of a program that greets its user.
MAX_RUBBISH = 1000
# Our answers to an agent that reads nothing.
MAX_UNREAD = 1000
# Lines of the agent that wait until the turn takes them.
_MOST_WAITING = 8
_STEP_SECONDS = 0.2
_SHOWN_BYTES = 4096


class Ended(Exception):
    """The agent has closed its output."""


class Lines:
    """JSON lines both ways. ``rubbish`` is told each line that is no JSON."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], rubbish: Callable[[str], object]) -> None:
        self._rubbish = rubbish
        self._bad = 0
        self._closed = False
        self._in: Queue[bytes] = Queue(_MOST_WAITING)
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self.reader = threading.Thread(target=self._read, args=(stdout,), daemon=True)
        self.writer = threading.Thread(target=self._write, args=(stdin,), daemon=True)
        self.reader.start()
        self.writer.start()

    def send(self, messages: Iterable[dict[str, Any]]) -> None:
        """Send messages, each when the agent reads it. Raises Broken if it reads nothing at all."""
        for message in messages:
            self._out.put(msgspec.json.encode(message) + b"\n")
        if self._out.qsize() > MAX_UNREAD:
            raise Broken(f"the agent did not read {MAX_UNREAD} answers to its requests")

    def next(self, seconds: float) -> Any:
        """Return the next message, None if there is none within that time. Raises Ended, and Broken."""
        try:
            line = self._in.get(timeout=seconds)
        except Empty:
            return None
        if not line:
            raise Ended
        if len(line) > MAX_LINE_BYTES:
            raise Broken(f"the agent wrote a line of more than {MAX_LINE_BYTES} bytes")
        try:
            return msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if line.strip():
                self._wrong(line)
            return None

    def close(self) -> None:
        """Close the agent's input, and read no more."""
        self._closed = True
        self._out.put(None)

    def _wrong(self, line: bytes) -> None:
        self._bad += 1
        if self._bad > MAX_RUBBISH:
            raise Broken(f"the agent wrote {MAX_RUBBISH} lines that are no JSON; it does not speak ACP")
        self._rubbish(line[:_SHOWN_BYTES].decode(errors="replace").rstrip("\r\n"))

    def _read(self, stdout: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (line := stdout.readline(MAX_LINE_BYTES + 1)) and not self._closed:
                self._put(line)
                if len(line) > MAX_LINE_BYTES:
                    return
        self._put(b"")

    def _put(self, line: bytes) -> None:
        while not self._closed:
            with contextlib.suppress(Full):
                self._in.put(line, timeout=_STEP_SECONDS)
                return

    def _write(self, stdin: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (line := self._out.get()) is not None:
                stdin.write(line)
                stdin.flush()
        with contextlib.suppress(OSError, ValueError):
            stdin.close()
