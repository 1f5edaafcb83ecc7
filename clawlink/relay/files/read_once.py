"""The readers of files that a single reader may read.

A reader has such a file to itself from the first byte on. If the reply breaks off, the file is free again; only once
all of it was sent does it burn, and not at once: the last bytes may have been lost on the way. This shows when the
reader asks again, or when its connection was reset.
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
        self.complete = False  # all of it has gone out
        self.whole = False  # and did not come to a bad end
        self.until = 0.0  # so long it is the reader's, unless a reply is under way
        self._kept_until = 0.0  # so long the reader may go on where it was
        self._size = size
        self._sending = 0
        self._reach = 0  # how far it has gone out without a gap, though the last of a reply that broke off got lost

    def begin(self) -> None:
        """Note that a reply to the reader begins."""
        self._sending += 1

    def sent(self, start: int, end: int) -> None:
        """Note that a reply has gone out whole, though it may still be on its way."""
        self.complete = self.complete or self._ends(start, end)

    def _ends(self, start: int, end: int) -> bool:
        """Return True if a reply is the last one needed: it goes on where one before it may have ended, to the end."""
        return start <= self._reach and end >= self._size

    def end(self, start: int, end: int, now: float, *, done: bool) -> None:
        """Note that a reply is over, which brought ``start`` to ``end``; if it is not ``done``, it broke off."""
        self._sending -= 1
        self.whole = self.complete = self.whole or (done and self._ends(start, end))
        if start <= self._reach:
            self._reach = max(self._reach, end)
        self._kept_until = now + READ_HOLD_SECONDS
        if self.whole:
            self.until = now + READ_HOLD_SECONDS
        else:
            self.until = now + PART_HOLD_SECONDS if done else now

    def lost(self, now: float, *, reset: bool) -> None:
        """Note that the connection of a reply is over. A peer never gets bytes that it had not read at its close."""
        if reset:
            self.whole = self.complete = False
            self.until, self._kept_until = now, now + READ_HOLD_SECONDS
        elif self.whole and not isinstance(self.reader, str):
            self.until = now  # only a named agent could ask again, and it confirms once it has the file in its place

    def holds(self, now: float) -> bool:
        """Return True if no other reader may have the file."""
        return self._sending > 0 or self.whole or now < self.until

    def over(self, now: float) -> bool:
        """Return True if there is nothing left to wait for."""
        return not self._sending and now >= (self.until if self.whole else self._kept_until)


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
        read_once = self._by_key.setdefault(key, {})
        for other, held in list(read_once.items()):
            if held.revision < revision:
                del read_once[other]
            elif held.revision > revision or (other != reader and held.holds(now)):
                raise being_read(key, retry_after=max(1.0, held.until - now))
        reading = read_once.get(reader)
        if reading is None:
            reading = read_once[reader] = Reading(key, revision, size, reader)
        reading.begin()
        return reading

    def of(self, key: str, reader: Hashable) -> Reading | None:
        """Return the reader's reading of a file, if it has one."""
        return self._by_key.get(key, {}).get(reader)

    def reads(self, key: str) -> bool:
        """Return True if anybody reads this file."""
        return key in self._by_key

    def end(self, reading: Reading) -> None:
        """Forget one."""
        read_once = self._by_key.get(reading.key, {})
        if read_once.get(reading.reader) is reading:
            del read_once[reading.reader]
            if not read_once:
                del self._by_key[reading.key]

    def all(self) -> list[Reading]:
        """Return all of them."""
        return [one for read_once in self._by_key.values() for one in read_once.values()]
