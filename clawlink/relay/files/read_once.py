"""The readers of files that a single reader may read.

A reader has such a file to itself from the first byte on. If the reply breaks off, the file is free again. It burns a
while after all of it was sent, because the last bytes may be lost on the way. The relay learns of that if the reader
asks again, or if its connection is reset.
"""

from __future__ import annotations

from collections.abc import Hashable

from clawlink.domain.limits import PART_HOLD_SECONDS, READ_HOLD_SECONDS
from clawlink.errors import BeingRead


class Reading:
    """The progress of a reader through a version of a file. Times are seconds since the epoch."""

    def __init__(self, key: str, revision: int, size: int, reader: Hashable) -> None:
        self.key = key
        self.revision = revision
        self.reader = reader
        self.all_sent = False  # the replies have brought all of the file
        self.all_read = False  # the same, and no reply or connection shows a loss
        self.until = 0.0  # no other reader may begin before this time
        self._kept_until = 0.0  # the reader may go on where it was until this time
        self._size = size
        self._sending = 0
        self._reach = 0  # the replies have brought all before this byte; if one broke off, its last bytes may be lost

    def reply_begins(self) -> None:
        """Note that a reply to the reader begins."""
        self._sending += 1

    def reply_sent(self, start: int, end: int) -> None:
        """Note that all of a reply is written. The peer may not have it yet."""
        self.all_sent = self.all_sent or self._is_last(start, end)

    def _is_last(self, start: int, end: int) -> bool:
        """Return True if no reply has to follow: this one leaves no gap behind the others, and reaches the end."""
        return start <= self._reach and end >= self._size

    def reply_ended(self, start: int, end: int, now: float, *, done: bool) -> None:
        """Note the end of a reply that brought the bytes from ``start`` to ``end``. Unless ``done``, it broke off."""
        self._sending -= 1
        self.all_read = self.all_sent = self.all_read or (done and self._is_last(start, end))
        if start <= self._reach:
            self._reach = max(self._reach, end)
        self._kept_until = now + READ_HOLD_SECONDS
        if self.all_read:
            self.until = now + READ_HOLD_SECONDS
        else:
            self.until = now + PART_HOLD_SECONDS if done else now

    def connection_ended(self, now: float, *, reset: bool) -> None:
        """Note that the connection of a reply has ended. After a ``reset`` the peer may have lost the last bytes."""
        if reset:
            self.all_read = self.all_sent = False
            self.until, self._kept_until = now, now + READ_HOLD_SECONDS
        elif self.all_read and not isinstance(self.reader, str):
            self.until = now  # only a named agent could ask again, and it confirms once it has the file in its place

    def holds(self, now: float) -> bool:
        """Return True if no other reader may have the file."""
        return self._sending > 0 or self.all_read or now < self.until

    def over(self, now: float) -> bool:
        """Return True if there is nothing left to wait for."""
        return not self._sending and now >= (self.until if self.all_read else self._kept_until)


def being_read(key: str, *, retry_after: float) -> BeingRead:
    """Return the refusal of a file that another reader has."""
    return BeingRead(
        f"{key!r} is for one reader, and another reader reads it now; try again if that read breaks off",
        field="file_key",
        retry_after=retry_after,
    )


class ReadOnce:
    """All readings under way, by the key of their file and their reader."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Hashable, Reading]] = {}

    def begin(self, key: str, revision: int, size: int, reader: Hashable, now: float) -> Reading:
        """Return the reader's reading, and note that a reply begins. Raises BeingRead while another has the file.

        A reading of a later version also raises it: the caller found the file before that version. A reader that broke
        off goes on from its last byte.
        """
        readings = self._by_key.setdefault(key, {})
        for other, held in list(readings.items()):
            if held.revision < revision:
                del readings[other]
            elif held.revision > revision or (other != reader and held.holds(now)):
                raise being_read(key, retry_after=max(1.0, held.until - now))
        reading = readings.get(reader)
        if reading is None:
            reading = readings[reader] = Reading(key, revision, size, reader)
        reading.reply_begins()
        return reading

    def of(self, key: str, reader: Hashable) -> Reading | None:
        """Return the reader's reading of a file, if it has one."""
        return self._by_key.get(key, {}).get(reader)

    def reads(self, key: str) -> bool:
        """Return True if anybody reads this file."""
        return key in self._by_key

    def end(self, reading: Reading) -> None:
        """Forget a reading."""
        readings = self._by_key.get(reading.key, {})
        if readings.get(reading.reader) is reading:
            del readings[reading.reader]
            if not readings:
                del self._by_key[reading.key]

    def all(self) -> list[Reading]:
        """Return all readings."""
        return [one for readings in self._by_key.values() for one in readings.values()]
