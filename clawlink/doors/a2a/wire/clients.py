"""The file of A2A clients: their names, and the hashes of their credentials."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

from msgspec import Struct

from clawlink.doors.a2a.wire.list_file import ListFile
from clawlink.errors import BadRequest, NameTaken

DEFAULT_FILE = "a2a-clients.json"
MAX_CLIENTS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = "a2a_"


class Client(Struct, frozen=True):
    """A client of A2A. ``sha256`` is of its credential, in hexadecimal; ``added_at`` is ISO-8601 in UTC."""

    name: str
    sha256: str
    added_at: str = ""


def hash_of(credential: str) -> str:
    """Return the hash of a credential, which is all that the file keeps of it."""
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).hexdigest()


def require_name(name: str) -> None:
    """Refuse a name that an agent's id cannot carry. Raises BadRequest."""
    if _NAME.fullmatch(name) is None:
        raise BadRequest(
            f"{name!a} is no name of a client: it has 1 to 64 letters, digits, dots, dashes and underscores, and "
            "begins with a letter or digit",
            field="name",
        )


def add_client(path: str | os.PathLike[str], name: str, *, at: str, replace: bool = False) -> str:
    """Add a client to the file, which is made if needed, and return its credential, which is told this once.

    Raises NameTaken if the name is there, BadRequest, OSError.
    """
    require_name(name)
    known = CLIENTS.find(path, name)
    if known is not None and not replace:
        raise NameTaken(
            f"client {known.name!r} is in {os.fspath(path)} already; to give it a new credential add: --replace",
            field="name",
        )
    credential = _PREFIX + secrets.token_urlsafe(32)
    CLIENTS.put(path, Client(name, hash_of(credential), at))
    return credential


CLIENTS = ListFile(
    "clients",
    Client,
    entry="client",
    most=MAX_CLIENTS,
    each=lambda client: require_name(client.name),
    listed_by="clawlink a2a client list",
)
"""The form of the file."""
