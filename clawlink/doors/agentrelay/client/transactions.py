"""The log of actions on events: a line of JSON each, in a file a day, ``transactions_YYYYMMDD.jsonl``.

Secrets do not stand in it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from clawlink.doors.agentrelay.client.disk import open_plain, require_no_link
from clawlink.errors import BadRequest
from clawlink.private import write_all

FIELDS = ("timestamp", "event_id", "type", "sender", "receiver", "status", "hint", "ptr", "notes", "next_action_plan")
_PREFIX, _SUFFIX = "transactions_", ".jsonl"
_TAIL_BYTES = 256 * 1024
PLACE = "place"
"""The further field of a line whose event a relay keeps: the relay's address."""


def entry(
    now: float,
    event_id: str,
    type: str,
    sender: str,
    receiver: str,
    status: str,
    hint: str,
    ptr: str = "",
    notes: str = "",
    next_action_plan: str = "",
) -> dict[str, str]:
    """Return a line of the log, in its fields."""
    stamp = datetime.fromtimestamp(now).isoformat()
    values = (stamp, event_id, type, sender, receiver, status, hint, ptr, notes, next_action_plan)
    return dict(zip(FIELDS, values, strict=True))


class Transactions:
    """The log in one folder."""

    def __init__(self, folder: Path, tell: Callable[[str], object] = lambda _: None) -> None:
        self.folder = folder
        self._tell = tell

    def append(self, *entries: Mapping[str, str]) -> None:
        """Write lines, all to the file of the day that the first is from. A torn line before them stays alone.

        The action is done already, so a log that cannot be written is reported and stops nothing.
        """
        if not entries:
            return
        try:
            require_no_link(self.folder)
            self._append(entries)
        except (OSError, BadRequest) as error:
            why = error.message if isinstance(error, BadRequest) else error.strerror or type(error).__name__
            self._tell(
                f"the log {self._of_day(entries[0])} cannot be written ({why}): what was done is not noted there"
            )

    def _append(self, entries: Sequence[Mapping[str, str]]) -> None:
        data = b"".join(json.dumps(one, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for one in entries)
        path = self._of_day(entries[0])
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags, 0o600)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            if size:
                os.lseek(handle, size - 1, os.SEEK_SET)
                if os.read(handle, 1) != b"\n":
                    data = b"\n" + data
            write_all(handle, data)
        finally:
            os.close(handle)

    def append_missing(self, *entries: Mapping[str, str]) -> bool:
        """Write those lines that are not at the end of the log already; return False if there are none."""
        if not entries:
            return False
        tail = b""
        with contextlib.suppress(OSError, BadRequest), self._open(self._of_day(entries[0])) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            tail = file.read()
        written = list(_parsed(tail))
        missing = [one for one in entries if dict(one) not in written]
        self.append(*missing)
        return bool(missing)

    def _of_day(self, one: Mapping[str, str]) -> Path:
        day = "".join(filter(str.isdigit, one.get("timestamp", "")[:10]))
        return self.folder / f"{_PREFIX}{day}{_SUFFIX}"

    def _open(self, path: Path) -> BinaryIO:
        """Open a file of the log, through no link. Raises BadRequest, OSError."""
        require_no_link(self.folder)
        return os.fdopen(open_plain(path), "rb")

    def files(self) -> list[Path]:
        """Return the files of all days, the oldest first."""
        return sorted(self.folder.glob(f"{_PREFIX}*{_SUFFIX}"))

    def read(self, event_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield all lines, or those of an event, the oldest first, without malformed lines."""
        for path in self.files():
            try:
                with self._open(path) as file:
                    data = file.read()
            except (OSError, BadRequest):
                continue
            if event_id is None or event_id.encode() in data:
                yield from (one for one in _parsed(data) if event_id in (None, one.get("event_id")))

    def follow(self, rest: Callable[[], object], *, last: int, event_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Give the ``last`` lines and then each that comes, today's and tomorrow's; ``rest`` waits a while."""
        at: dict[Path, int] = {}
        known = deque(self._news(at, event_id), maxlen=last)
        yield from known
        while True:
            found = self._news(at, event_id)
            yield from found
            if not found:
                rest()

    def _news(self, at: dict[Path, int], event_id: str | None) -> list[dict[str, Any]]:
        """Return the lines that came since, of one event or of all."""
        found = [one for path in self.files() for one in self._new(path, at)]
        return [one for one in found if event_id in (None, one.get("event_id"))]

    def _new(self, path: Path, at: dict[Path, int]) -> list[dict[str, Any]]:
        """Return the whole lines of a file that were not read yet."""
        with contextlib.suppress(OSError, BadRequest), self._open(path) as file:
            file.seek(at.get(path, 0))
            data = file.read()
            whole = data.rfind(b"\n") + 1
            at[path] = at.get(path, 0) + whole
            return list(_parsed(data[:whole]))
        return []


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(one, dict) and isinstance(one.get("event_id"), str):
            yield one
