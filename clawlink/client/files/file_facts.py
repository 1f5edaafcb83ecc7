"""The facts of a file, its content, and the headers that carry them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from clawlink.client.calls import (
    checked,
    several,
)
from clawlink.errors import BadRequest, RelayUnreachable
from clawlink.protocol import file_requests

OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")
_SHA256_BYTES = 32


class FileFacts(NamedTuple):
    """The facts of a version of a file, without its content. ``size`` is in bytes, ``sha256`` in hexadecimal.

    ``readers`` are the ids of the agents that may see it beside its ``owner``; both are None if it is for everyone.
    """

    file_key: str
    version: int
    size: int
    sha256: str
    content_type: str
    file_type: str
    last_editor: str
    updated_at: str
    expires_at: str | None
    burn_after_read: bool
    owner: str | None = None
    readers: list[str] | None = None


class Blob(NamedTuple):
    """A piece of a file, from the byte ``start`` on, or all of it."""

    facts: FileFacts
    start: int
    content: bytes


class Terms(NamedTuple):
    """The options of a write.

    ``if_version`` writes the file only if it is still at that version (0: only if it is new). ``ttl`` is its time to
    live in seconds. ``burn`` ends it after one read. ``force`` writes although another agent holds its lock.
    ``readers`` are the agents that may see it: see ``put_blob``.
    """

    content_type: str | None = None
    file_type: str | None = None
    if_version: int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    readers: Sequence[str] | None = None


class UploadState(NamedTuple):
    """How far an upload is. ``version`` and ``sha256`` are there once it is finished, and the file's ``readers``."""

    upload_id: str
    offset: int
    length: int | None = None
    version: int | None = None
    sha256: str | None = None
    readers: list[str] | None = None


def is_text(content: bytes) -> bool:
    """Return True if some bytes are text in UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def require_key(file_key: str) -> None:
    """Refuse a key that would become another address: some libraries resolve dots between slashes."""
    checked({"file_key": file_key, "content": "", "agent_id": "-"}, file_requests.PutFile)
    if {".", ".."} & set(file_key.split("/")):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


def no_readers(what: str = ":") -> BadRequest:
    """Return the refusal for a relay that does not know of readers."""
    return BadRequest(
        f"this relay keeps files for everyone alone{what} upgrade the relay, or share it for everyone", field="readers"
    )


def named(header: str | None) -> list[str] | None:
    """Read the ids in a header ClawLink-Readers of a reply; None if it is not there."""
    return None if header is None else [unquote(one) for one in header.split(",") if one]


def readers_header(readers: Sequence[str] | None) -> str | None:
    named = several(readers, "readers")
    return None if named is None else ",".join(quote(one, safe="*") for one in named)


def acting(agent_id: str) -> dict[str, str | None]:
    return {"ClawLink-Agent": agent_id}


def facts_of(file_key: str, headers: Mapping[str, str], size: int) -> FileFacts:
    digest = _DIGEST.search(headers.get("Repr-Digest", ""))
    if digest is None:
        raise ValueError("a file came without its SHA-256")
    sha256 = base64.b64decode(digest[1], validate=True)
    if len(sha256) != _SHA256_BYTES:
        raise ValueError("a file came with a SHA-256 of another length")
    owner = headers.get("ClawLink-Owner")
    return FileFacts(
        file_key,
        int(headers["ClawLink-Version"]),
        size,
        sha256.hex(),
        headers.get("Content-Type", OCTETS),
        unquote(headers.get("ClawLink-File-Type", "")),
        unquote(headers.get("ClawLink-Editor", "")),
        headers.get("ClawLink-Updated-At", ""),
        headers.get("ClawLink-Expires-At"),
        headers.get("ClawLink-Burn-After-Read") == "1",
        None if owner is None else unquote(owner),
        named(headers.get("ClawLink-Readers")),
    )


def digest_of(content: bytes) -> str:
    return f"sha-256=:{in_base64(hashlib.sha256(content).digest())}:"


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def broken_off() -> RelayUnreachable:
    return RelayUnreachable("the relay's answer broke off before its end")
