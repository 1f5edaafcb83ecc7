"""The terms of a write, and the keys that files may have."""

from __future__ import annotations

import re

import msgspec

from clawlink.domain.file import Expected, Version
from clawlink.domain.limits import EVERYONE, MAX_KEY_LENGTH
from clawlink.domain.readers import Party
from clawlink.errors import (
    BadRequest,
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_DOTS = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)")


def require_key(key: str) -> None:
    """Refuse keys that an address cannot carry, or that would lead out of a folder when used as a file's name."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise BadRequest(
            f"a file key has 1 to {MAX_KEY_LENGTH} characters", field="file_key", limit=MAX_KEY_LENGTH, actual=len(key)
        )
    if _CONTROL.search(key):
        raise BadRequest("a file key may not contain control characters", field="file_key")
    if _DOTS.search(key):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a write. ``digest`` is the SHA-256 in hexadecimal that the content must have, if it is known.

    ``readers`` are names and ids: None leaves the readers as they are, ``*`` is everyone, and none is the owner alone.
    ``parties`` are the agents that they meant when the write began.
    """

    key: str
    file_type: str | None = None  # else text or binary, by the content type
    content_type: str
    if_version: Expected | int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    idempotency_key: str | None = None
    digest: str | None = None
    digest_field: str = "sha256"
    readers: tuple[str, ...] | None = None
    parties: tuple[Party, ...] | None = None

    @property
    def opens(self) -> bool:
        """Return True if it lets everyone see the file."""
        return self.readers == (EVERYONE,)


class Written(msgspec.Struct, frozen=True):
    """The version that a write made, and the ids of the file's readers then; None if it was for everyone."""

    version: Version
    readers: tuple[str, ...] | None
