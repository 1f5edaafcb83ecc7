"""How a door reads the body of a request: as the relay's own routes do, which is for the composition root to say."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Read(Protocol):
    """Reads a body as a struct of a kind. Raises TooLarge, BodyTimeout, BadJson, or BadRequest naming the field."""

    async def __call__(self, request: Any, kind: type[T], /) -> T: ...
