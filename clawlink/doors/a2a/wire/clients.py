"""The file of A2A clients: their names, and the hashes of their credentials."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

from clawlink import private
from clawlink.errors import BadRequest, NameTaken, UnknownAgent
from clawlink.protocol.invalid import bad_field

DEFAULT_FILE = "a2a-clients.json"
MAX_CLIENTS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = "a2a_"


class Client(Struct, frozen=True):
    """A client of A2A. ``sha256`` is of its credential, in hexadecimal; ``added_at`` is ISO-8601 in UTC."""

    name: str
    sha256: str
    added_at: str = ""


class ClientFile(Struct, frozen=True):
    """The file."""

    clients: list[Client] = []


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


def read_clients(path: str | os.PathLike[str]) -> list[Client]:
    """Return the clients of a file, none if it is not there. Raises BadRequest if it is invalid, OSError."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    try:
        found = msgspec.json.decode(data, type=ClientFile).clients
        names = [client.name.casefold() for client in found]
        for client in found:
            require_name(client.name)
        if len(set(names)) < len(names):
            raise BadRequest("two clients have one name")
        if len(found) > MAX_CLIENTS:
            raise BadRequest(f"it has {len(found)} clients, and may have {MAX_CLIENTS}", limit=MAX_CLIENTS)
    except msgspec.ValidationError as error:
        raise _about(path, bad_field(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"{os.fspath(path)}: it is not JSON in UTF-8: {error}") from None
    except BadRequest as error:
        raise _about(path, error) from None
    return found


def add_client(path: str | os.PathLike[str], name: str, *, at: str, replace: bool = False) -> str:
    """Add a client to the file, which is made if needed, and return its credential, which is told this once.

    Raises NameTaken if the name is there, BadRequest, OSError.
    """
    require_name(name)
    known = read_clients(path)
    same = [client for client in known if client.name.casefold() == name.casefold()]
    if same and not replace:
        raise NameTaken(
            f"client {same[0].name!r} is in {os.fspath(path)} already; to give it a new credential add: --replace",
            field="name",
        )
    credential = _PREFIX + secrets.token_urlsafe(32)
    _write(path, [*(client for client in known if client not in same), Client(name, hash_of(credential), at)])
    return credential


def remove_client(path: str | os.PathLike[str], name: str) -> None:
    """Take a client out of the file. Raises UnknownAgent if it is not there, BadRequest, OSError."""
    known = read_clients(path)
    left = [client for client in known if client.name.casefold() != name.casefold()]
    if len(left) == len(known):
        raise UnknownAgent(f"{os.fspath(path)} has no client {name!r}; see: clawlink a2a client list", field="name")
    _write(path, left)


def _write(path: str | os.PathLike[str], clients: list[Client]) -> None:
    if len(clients) > MAX_CLIENTS:
        raise BadRequest(f"a file has {MAX_CLIENTS} clients at most", limit=MAX_CLIENTS, actual=len(clients))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    private.write(target, msgspec.json.format(msgspec.json.encode(ClientFile(clients)), indent=2) + b"\n")


def _about(path: str | os.PathLike[str], error: BadRequest) -> BadRequest:
    return BadRequest(f"{os.fspath(path)}: {error.message}", field=error.field)
