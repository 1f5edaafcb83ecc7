"""The contents of files beside a store, by their SHA-256: the interface of all places that keep them.

``Holds`` is the part that counts the holders of contents, for places that keep them as long as they are held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from clawlink.domain.file import Content


class LostWrites(OSError):
    """The system could not put written bytes on the disk. It may have dropped them, so trying again proves nothing."""


class Draft(Protocol):
    """Some bytes that are on their way in. It must come to ``keep`` or ``discard``."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what it has, in hexadecimal."""

    async def write(self, *pieces: bytes) -> None:
        """Append. Raises OSError if there is no room for it on the disk; then it has what it had before.

        After a ``LostWrites`` it raises that for ever, here, in ``flush`` and in ``keep``.
        """

    def mark(self) -> Any:
        """Return a mark of this moment for ``back_to``."""

    def back_to(self, mark: Any) -> None:
        """Forget the bytes written since ``mark``, which is then used up."""

    async def flush(self) -> None:
        """Put what it has where it is to stay. Raises OSError if there is no room for it on the disk, LostWrites."""

    def keep(self, scope: str = "") -> Content:
        """Make it a content of this scope, held once. It takes no more. Raises OSError; it is then as before."""

    def discard(self) -> None:
        """Forget it, unless it was kept."""


class Reader(Protocol):
    """A content that is being read."""

    async def read(self, start: int, size: int) -> bytes:
        """Return some of the bytes from ``start``: one at least where there is one, ``size`` at most."""


class Blobs(Protocol):
    """Keeps contents by their SHA-256, equal ones of a scope once, for as long as somebody holds or reads them."""

    @property
    def used(self) -> int:
        """How many bytes there are: held, being read, or on their way in."""

    @property
    def memory(self) -> int:
        """About how many bytes of memory they take: not those that lie on a disk."""

    def memory_for(self, size: int) -> int:
        """Return about how many bytes of memory a content of this size would take.

        A content that grows takes at most as much more memory as it has more bytes.
        """

    def trim(self) -> None:
        """Free memory that is only kept for later use."""

    @property
    def keeps_drafts(self) -> bool:
        """Return True if a draft with a name survives this process, as far as it was flushed."""

    def draft(self, name: str | None = None) -> Draft:
        """Return an empty draft. With a name it may be resumed."""

    async def resume(self, name: str, size: int) -> Draft | None:
        """Return the draft of this name with its first ``size`` bytes; None if they are not there."""

    def hold(self, content: Content) -> None:
        """Hold a content that is held already once more."""

    def release(self, content: Content) -> None:
        """Let go of one hold."""

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        """Give for each of these how many bytes would go with it, if they were let go of in this order, a hold each."""

    def open(self, content: Content) -> AbstractContextManager[Reader]:
        """Return a reader of the content, also past its last hold. Raises KeyError if it has no hold."""

    def close(self) -> None:
        """Forget everything, also on the disk."""


class Held:
    """A content, and how often it is held."""

    __slots__ = ("holds", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.holds = 0


H = TypeVar("H", bound=Held)


class Holds(Generic[H]):
    """The part of a ``Blobs`` that counts the holders of its contents."""

    def __init__(self) -> None:
        self._held: dict[str, H] = {}

    @staticmethod
    def name_of(content: Content) -> str:
        """Return the name under which a content is held: equal bytes of one scope have one."""
        raise NotImplementedError

    def _let_go(self, name: str, held: H) -> None:
        """Let go of one hold, and with the last of them of the content."""
        raise NotImplementedError

    def hold(self, content: Content) -> None:
        """Hold a content that is held already once more."""
        self._held[self.name_of(content)].holds += 1

    def release(self, content: Content) -> None:
        """Let go of one hold."""
        name = self.name_of(content)
        self._let_go(name, self._held[name])

    def freeing(self, contents: Iterable[Content]) -> Iterator[int]:
        """Yield for each of these the bytes that would be freed, if one hold of each were released in this order."""
        gone: Counter[str] = Counter()
        for content in contents:
            name = self.name_of(content)
            gone[name] += 1
            held = self._held.get(name)
            yield 0 if held is None or held.holds != gone[name] else held.size
