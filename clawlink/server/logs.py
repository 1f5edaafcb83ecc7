"""Log lines: one event a line, its facts as key=value or as JSON. Never a token, a key or what agents say."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec

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
        return msgspec.json.encode(line, enc_hook=str).decode()


def _quoted(value: object) -> str:
    """Show a value on one line; anything but plain words is quoted, so that no value can pose as another field."""
    text = str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "=') else repr(text)


def set_up(level: str, *, as_json: bool) -> None:
    """Send ClawLink's log to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger("clawlink")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
