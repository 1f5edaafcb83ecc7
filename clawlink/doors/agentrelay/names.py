"""The names in events: ids, pointers, types, secrets and parties, and which of them are refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from clawlink.domain.devices import is_device
from clawlink.errors import BadRequest, WrongState

ALIAS = "s"
"""The beginning of a pointer, in place of the folder of all contents."""
MAX_ID_BYTES = 128
MAX_TYPE_LENGTH = 32
MAX_SECRET_LENGTH = 128
MAX_PARTY_LENGTH = 128

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PUNCTUATION = "._-"


def require_id(id: str, *, field: str = "event_id") -> str:
    """Return an event's id, which is also the name of a file. Raises BadRequest for an invalid id.

    It has letters and digits of any script, dots, dashes and underscores. It has no separator of folders or of a line's
    fields, no form with a meaning for a system, and no invisible character.
    """
    wrong = _wrong_with(id)
    if wrong is not None:
        raise BadRequest(
            f"{id!r} is no id of an event: {wrong}; use letters, digits, '.', '-' and '_', as in order-17",
            field=field,
            limit=MAX_ID_BYTES if "bytes" in wrong else None,
        )
    return id


def _wrong_with(id: object) -> str | None:
    if not isinstance(id, str):
        return "it is no text"
    if not id:
        return "it is empty"
    for sign in id:
        if sign not in _PUNCTUATION and unicodedata.category(sign)[0] not in "LMN":
            return f"it may not contain {sign!r}"
    if unicodedata.normalize("NFKC", id) != id:
        return "it has characters that systems write in several ways"
    if len(id.encode()) > MAX_ID_BYTES:
        return f"it has {len(id.encode())} bytes, and {MAX_ID_BYTES} are the most"
    if id[0] != "_" and unicodedata.category(id[0])[0] not in "LN":
        return "it begins with neither a letter, a digit nor '_'"
    if id.endswith("."):
        return "it ends with a dot"
    if ".." in id:
        return "it has two dots in a row"
    if is_device(id):
        return "Windows takes it for a device"
    return None


def fold(id: str) -> str:
    """Return the common form of ids that some file systems take for the same name."""
    return unicodedata.normalize("NFC", id.casefold())


def pointer(id: str) -> str:
    """Return the pointer to an event's contents."""
    return f"{ALIAS}/{id}.json"


def require_pointer(ptr: str, id: str) -> str:
    """Return the pointer in full, which must be that of the event; its short form is ``s/``. Raises BadRequest."""
    whole = pointer(require_id(id))
    if ptr in (whole, ALIAS + "/"):
        return whole
    raise BadRequest(
        f"{ptr!r} is not the pointer of event {id!r}, which is {whole!r}: a pointer leads to its own event and nowhere "
        "else",
        field="ptr",
    )


def require_type(type: str) -> str:
    """Return the type of a message. Raises BadRequest for an invalid type."""
    if not isinstance(type, str) or len(type) > MAX_TYPE_LENGTH or not _TYPE.fullmatch(type):
        raise BadRequest(
            f"{type!r} is no type of a message: it takes a letter, then letters, digits, '_' and '-', "
            f"{MAX_TYPE_LENGTH} in all, as in REQ",
            field="type",
            limit=MAX_TYPE_LENGTH,
        )
    return type


def require_secret(secret: str) -> str:
    """Return a secret of the sender's own choice. Raises BadRequest if a line cannot carry it."""
    whole = isinstance(secret, str) and 1 <= len(secret) <= MAX_SECRET_LENGTH
    if not whole or not secret.isprintable() or secret != secret.strip():
        raise BadRequest(
            f"a secret has 1 to {MAX_SECRET_LENGTH} printable characters, and no space at its ends; "
            "leave it out to have one drawn",
            field="secret",
            limit=MAX_SECRET_LENGTH,
        )
    return secret


def require_party(name: object, field: str, id: str) -> str:
    """Return a sender or receiver. Raises BadRequest for an empty one."""
    if not name:
        raise BadRequest(f"Event {id} is missing {field}", field=field)
    if not isinstance(name, str):
        raise BadRequest(f"{field} of event {id} must be a text, and is {name!r:.40}", field=field)
    if len(name) > MAX_PARTY_LENGTH or not name.isprintable():
        raise BadRequest(
            f"{field} takes {MAX_PARTY_LENGTH} printable characters at most", field=field, limit=MAX_PARTY_LENGTH
        )
    return name


def require_unused(id: str, used: Iterable[str]) -> None:
    """Refuse an id that is in use, or that differs from such a one by case alone. Raises WrongState."""
    folded = fold(id)
    for other in used:
        if fold(other) == folded:
            raise in_use(id, other)


def in_use(id: str, other: str) -> WrongState:
    """Return the refusal of an id that is in use."""
    if other == id:
        return WrongState(
            f"event {id!r} exists already and is not overwritten; send under another id", field="event_id"
        )
    return WrongState(
        f"event {id!r} differs from {other!r} by case alone, which some systems take for the same; "
        "send under another id",
        field="event_id",
    )
