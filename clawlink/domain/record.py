"""The fields of every record, by which a store can keep them all.

A record is immutable. A change is a new record with the next version; a store takes it only if it follows the stored
one.

A record that counts for an agent has an ``origin``, too: the ``shares.Origin`` by which a store counts it. The other
kinds lack the field, so a store reads it with ``getattr``.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

_TEXT_BYTES = 56

SETTLED = " settled"
"""The index key of records that are kept only to answer repeats and questions; the oldest go first.

It begins with a space, as no agent's id does: an id may be a key too.
"""


class Record(Protocol):
    """A versioned, immutable thing that a store keeps."""

    @property
    def id(self) -> str:
        """The name of the record, unique among records of its kind."""

    @property
    def version(self) -> int:
        """1 when the record is created, and one more at each change."""

    @property
    def partition_key(self) -> str:
        """Where the record lives, for its whole life. A commit never spans two partitions."""

    @property
    def index_keys(self) -> tuple[str, ...]:
        """The current index keys of the record, each once."""

    @property
    def weight(self) -> int:
        """How many bytes of users' data the record holds."""

    @property
    def footprint(self) -> int:
        """About how many bytes of memory the record takes, without its id, the store's tables and index entries."""

    @property
    def ends_at(self) -> float | None:
        """When the janitor should look at the record, in seconds since the epoch; None for never."""


class BareRecord(Struct, frozen=True, gc=False):
    """A base of records without users' data that no index lists, such as a door keeps for itself."""

    id: str
    version: int

    @property
    def index_keys(self) -> tuple[str, ...]:
        return ()

    @property
    def weight(self) -> int:
        return 0


def texts_bytes(*texts: str | None) -> int:
    """Return about how many bytes of memory some texts take together; see ``text_bytes``."""
    size = 0
    for text in texts:
        if text is not None:
            size += _TEXT_BYTES + len(text) if text.isascii() else text_bytes(text)
    return size


def text_bytes(text: str | None, *, sent: bool = True) -> int:
    """Return about how many bytes of memory a text takes.

    A text outside ASCII keeps its UTF-8, too, once it was ``sent``.
    """
    if text is None:
        return 0
    if text.isascii():
        return _TEXT_BYTES + len(text)
    size = (text + " ").__sizeof__()  # of a new text: how wide a character is, without the UTF-8
    return size * 3 if sent else size
