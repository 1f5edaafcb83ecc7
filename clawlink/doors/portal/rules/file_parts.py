"""The parts of a file, the sums of it, and harmless names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import unicodedata
from urllib.parse import quote

from clawlink.domain.limits import MIB
from clawlink.errors import BadRequest

PART_BYTES = 10 * MIB
"""The size of a part where nothing else is said, as 0.9 sends them."""
MAX_ATTACHMENT_BYTES = 10 * MIB
"""The most bytes of an attachment of the chat."""
MAX_PART_BYTES = 32 * MIB
MAX_PARTS = 100_000
_MAX_NAME_BYTES = 200
_MD5 = re.compile("[0-9a-f]{32}")
_SHA256 = re.compile("[0-9a-f]{64}")
_UNSAFE = re.compile(r'[<>:"|?*]')


def count(size: int, part_size: int) -> int:
    """Return how many parts a file has; an empty one has none."""
    return -(-size // part_size)


def length(index: int, size: int, part_size: int) -> int:
    """Return how many bytes a part has. Raises BadRequest for a part that the file does not have."""
    parts = count(size, part_size)
    if not 0 <= index < max(parts, 1):
        raise BadRequest(
            f"the file has parts 0 to {max(parts, 1) - 1}, and this one is {index}",
            field="chunk_index",
            limit=max(parts, 1) - 1,
            actual=index,
        )
    return min(part_size, size - index * part_size)


def require_shape(size: int, part_size: int, parts: int | None) -> None:
    """Refuse sizes that contradict each other. Raises BadRequest."""
    if size < 0:
        raise BadRequest("a file has at least 0 bytes", field="size", limit=0, actual=size)
    if not 1 <= part_size <= MAX_PART_BYTES:
        raise BadRequest(
            f"a part has 1 to {MAX_PART_BYTES} bytes", field="chunk_size", limit=MAX_PART_BYTES, actual=part_size
        )
    right = count(size, part_size)
    if right > MAX_PARTS:
        raise BadRequest(
            f"a file has at most {MAX_PARTS} parts, and this one would have {right}; make them larger",
            field="chunk_size",
            limit=MAX_PARTS,
            actual=right,
        )
    if parts is not None and parts != right and not (size == 0 and parts == 1):
        raise BadRequest(
            f"{size} bytes in parts of {part_size} are {right} parts, not {parts}",
            field="chunks_total",
            limit=right,
            actual=parts,
        )


def sums(md5: str | None, sha256: str | None, size: int, *, required: bool = True) -> tuple[str | None, str | None]:
    """Return the sums that a sender gives, in lower case.

    Raises BadRequest for what can be no sum, and for none if one is ``required``.
    """
    md5 = md5.strip().lower() or None if md5 is not None else None
    sha256 = sha256.strip().lower() or None if sha256 is not None else None
    for text, pattern, field in ((md5, _MD5, "md5"), (sha256, _SHA256, "sha256")):
        if text is not None and pattern.fullmatch(text) is None:
            raise BadRequest(f"{field} is the sum of the whole file in hexadecimal", field=field)
    if required and md5 is None and sha256 is None:
        raise BadRequest("give the sum of the whole file: md5, or sha256", field="md5")
    empty = hashlib.md5(usedforsecurity=False).hexdigest(), hashlib.sha256().hexdigest()
    if size == 0 and (md5 not in (None, empty[0]) or sha256 not in (None, empty[1])):
        raise BadRequest("these are no sums of an empty file", field="md5")
    return md5, sha256


def harmless(name: str) -> str:
    """Return the last piece of a file's name, as it may stand in a folder and in a header.

    Old scripts write to ``FOLDER/NAME``. So a name has no slash, no control character, and is no dot.
    """
    piece = re.split(r"[/\\]", name)[-1]
    visible = "".join(c for c in piece if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    kept = _UNSAFE.sub("_", visible).strip(" .")
    while len(kept.encode()) > _MAX_NAME_BYTES:
        stem, dot, ending = kept.rpartition(".")
        kept = stem[:-1] + dot + ending if dot and stem and len(ending.encode()) < _MAX_NAME_BYTES // 2 else kept[:-1]
    return kept.lstrip("-~") or "file"


def disposition(name: str) -> str:
    """Return the header that names a download."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def place(url: str, number: int, name: str) -> str:
    """Return the key of a contact's file among the relay's files."""
    host = url.partition("://")[2].replace("/", "_")
    return f"portal/{host}/{number}/{name}"


def derived_id(secret: bytes, *cause: str) -> str:
    """Return a file id of 43 characters for a cause. It does not begin with ``-``: old scripts take that for a flag."""
    digest = hmac.new(secret, "\0".join(("portal file", *cause)).encode(), hashlib.sha256).digest()
    text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return "A" + text[1:] if text[0] in "-_" else text
