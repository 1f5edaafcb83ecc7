"""Log lines: one event a line, its facts as key=value or as JSON. Never a token, a key or the text of a task."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from typing import Any

# Lines that wait for a slow reader, and how long the end of the process waits for them.
_MOST_WAITING = 1000
_FLUSH_SECONDS = 1.0
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class TextLines(logging.Formatter):
    """``2026-05-13T06:51:00.250Z info clawlink.server listening address=127.0.0.1 port=9077``"""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={_quoted(value)}" for name, value in _facts(record).items())
        line = f"{_time(record)} {record.levelname.lower()} {record.name} {record.getMessage()}{facts}"
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))  # ASCII: a terminal may read it, too


class Beside(logging.Handler):
    """Writes lines to standard error in a thread of its own.

    A reader that stands still, such as a terminal that is scrolled back, does not hold up the relay. Lines for which
    there is no room are lost, and counted in the next line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(_MOST_WAITING)
        self._lost = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the thread."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait a second at most until all lines are written; Python does so at its end."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, _FLUSH_SECONDS)

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            lost, self._lost = self._lost, 0
            if lost:
                told = {"name": __name__, "levelname": "WARNING", "msg": "lines of the log are lost", "lost": lost}
                line = f"{self.format(logging.makeLogRecord(told))}\n{line}"
            try:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
            except (OSError, ValueError, AttributeError):  # standard error has no reader, or does not exist
                pass
            finally:
                self._lines.task_done()


def _quoted(value: object) -> str:
    """Show a value on one line; anything but plain words is quoted, so that no value can pose as another field."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "=') else repr(text)


def set_up(level: str, *, as_json: bool) -> None:
    """Send ClawLink's log to standard error."""
    handler = Beside()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger("clawlink")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
