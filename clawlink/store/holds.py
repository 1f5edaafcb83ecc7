"""Contents that are held: how often each is, by records and by readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from clawlink.domain.file import Content


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
