"""The signed bytes: the old form by concatenation, and the new form over canonical JSON.

All signatures are HMAC-SHA256 in lower-case hex. The canonical form of some fields is a JSON object with its keys in
order, without white space, in UTF-8, non-ASCII characters unchanged: for strings alone, this is RFC 8785.

Nothing is normalised on the way. A text is signed and delivered code point by code point, so that no two texts share a
signature. Ids are refused unless they are in NFC and printable, so that no two ids look alike by composition or by
invisible characters.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from clawlink.domain.iso_time import read_iso
from clawlink.errors import BadRequest

TOLERANCE_SECONDS = 30
MAX_INSTANCE_ID_LENGTH = 48
MAX_AGENT_ID_LENGTH = 64
SECRET_BYTES = 32
NONCE_BYTES = 16
_FORBIDDEN = "/:"


def digest(secret: bytes, text: bytes) -> str:
    """Return the signature of ``text``: 64 hex digits."""
    return hmac.digest(secret, text, hashlib.sha256).hex()


def same(given: str, expected: str) -> bool:
    """Compare two signatures, in a time that tells nothing about where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def canonical(fields: Mapping[str, str]) -> bytes:
    """Return the canonical bytes of these fields for a signature."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def canonical_send(sender: str, to: str, message: str, *, time: str, nonce: str, id: str) -> bytes:
    """Return the signed bytes of a message's ``signature`` and ``seal``."""
    fields = {"type": "send", "from": sender, "to": to, "message": message, "time": time, "nonce": nonce, "id": id}
    return canonical(fields)


def canonical_register(instance_id: str, agent_id: str, *, time: str, nonce: str) -> bytes:
    """Return the signed bytes of a register's ``signature``."""
    fields = {"type": "register", "instance_id": instance_id, "agent_id": agent_id, "time": time, "nonce": nonce}
    return canonical(fields)


def old_send(sender: str, to: str, message: str) -> bytes:
    """Return the bytes of a message that an old client signs. They are unambiguous only while no id has a colon."""
    return f"send:{sender}:{to}:{message}".encode()


def old_register(instance_id: str, stamp: str) -> bytes:
    """Return the bytes of a register that an old client signs.

    The stamp, which it does not send, is its clock to the second.
    """
    return f"register:{instance_id}:{stamp}".encode()


def old_stamps(now: float, tolerance: int = TOLERANCE_SECONDS) -> Iterator[str]:
    """Yield the possible readings of an old client's clock, the likeliest first: this machine's local time, and UTC."""
    second = int(now)
    for off in sorted(range(-tolerance, tolerance + 1), key=abs):
        for read in (time.localtime, time.gmtime):
            yield time.strftime("%Y-%m-%dT%H:%M:%S", read(second + off))


def stamp(now: float) -> str:
    """Write a time as new clients do: ISO-8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="milliseconds")


def read_stamp(text: str) -> float:
    """Return the seconds since the epoch of a time with its zone. Raises BadRequest."""
    try:
        at = read_iso(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadRequest("time is ISO-8601 with its zone, as 2026-05-13T06:51:00.250+00:00", field="time")
    try:
        return at.timestamp()
    except (OverflowError, ValueError):
        raise BadRequest("time is outside of what a clock can show", field="time") from None


def new_secret() -> str:
    """Return a random secret. It begins with no hyphen, so that it can be a flag's value."""
    return secrets.token_hex(SECRET_BYTES)


def new_nonce() -> str:
    """Return a value that is used once."""
    return secrets.token_hex(NONCE_BYTES)


def require_id(text: str, what: str, limit: int, *, field: str) -> None:
    """Refuse an id that could be mistaken for another or taken apart wrongly. Raises BadRequest."""
    if not 1 <= len(text) <= limit:
        raise BadRequest(f"{what} has 1 to {limit} characters, not {len(text)}", field=field, limit=limit)
    if not text.isprintable() or any(c.isspace() or c in _FORBIDDEN for c in text):
        raise BadRequest(
            f"{what} has no white space, no / and :, and no character that is not shown: {text!r}", field=field
        )
    if not unicodedata.is_normalized("NFC", text):
        raise BadRequest(
            f"{what} must be in Unicode's composed form (NFC), or two ids that look alike would differ", field=field
        )


def require_instance(instance_id: str, *, field: str = "instance_id") -> None:
    """Refuse an invalid id of an instance. Raises BadRequest."""
    require_id(instance_id, "an instance's id", MAX_INSTANCE_ID_LENGTH, field=field)


def require_agent(agent_id: str, *, field: str = "agent_id") -> None:
    """Refuse an invalid id of an agent within its instance. Raises BadRequest."""
    require_id(agent_id, "an agent's id", MAX_AGENT_ID_LENGTH, field=field)


def split(address: str, *, field: str) -> tuple[str, str]:
    """Return instance and agent of ``instance/agent``. Raises BadRequest."""
    instance_id, slash, agent_id = address.partition("/")
    if not slash:
        raise BadRequest(f"{field} is instance/agent, not {address!r}", field=field)
    require_instance(instance_id, field=field)
    require_agent(agent_id, field=field)
    return instance_id, agent_id
