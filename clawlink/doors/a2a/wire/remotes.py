"""Remote agents of A2A: the file that lists them, and what their cards say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from clawlink import private
from clawlink.domain import limits, looks
from clawlink.errors import BadRequest, NameTaken, NotAllowed, UnknownAgent
from clawlink.protocol import requests
from clawlink.protocol.invalid import bad_field
from clawlink.protocol.reading import read_fields

DEFAULT_FILE = "a2a-agents.json"
MAX_REMOTES = 1000
MAX_SKILLS = 64
BINDINGS = ("JSONRPC", "HTTP+JSON")
CARD_PATH = "/.well-known/agent-card.json"
_UNSAFE = re.compile(r"[^\w.-]+")


class Remote(Struct, frozen=True, kw_only=True):
    """A remote agent that is an agent of the mesh. ``url`` is where its card was, ``interface`` where it is called.

    ``signed_by`` is the thumbprint of the key that signed the card, None if no signature was checked.
    """

    name: str
    url: str
    interface: str
    binding: str
    streaming: bool = False
    description: str = ""
    capabilities: list[str] = field(default_factory=list)
    credential: str | None = None
    signed_by: str | None = None


class RemoteFile(Struct, frozen=True):
    """The file."""

    agents: list[Remote] = []


class _Interface(Struct, frozen=True, rename="camel"):
    url: str
    protocol_binding: str = ""
    protocol_version: str = ""


class _Skill(Struct, frozen=True):
    id: str


class _Capabilities(Struct, frozen=True):
    streaming: bool = False


class _Card(Struct, frozen=True, rename="camel"):
    name: str
    supported_interfaces: list[_Interface]
    description: str = ""
    capabilities: _Capabilities = _Capabilities()
    skills: list[_Skill] = []


def card_url(url: str) -> str:
    """Return where the card of an agent is: the address itself, if it ends as that of a card. Raises BadRequest."""
    require_http(url)
    return url if url.endswith(".json") else url.rstrip("/") + CARD_PATH


def require_name(name: str) -> None:
    """Refuse a name that no agent here could have as its id. Raises BadRequest."""
    read_fields({"agent_id": name, "name": name}, requests.Register)
    fault = looks.fault(name, spaces=False)
    if fault is not None:
        raise BadRequest(f"name {fault}", field="name")


def require_http(url: str) -> None:
    """Refuse an address that is not of HTTP. Raises BadRequest."""
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname
    except ValueError:
        wrong = True
    if wrong:
        raise BadRequest(f"{url!a} is no address of an agent: it begins with https:// or http://", field="url")


def remote_of(card: bytes, url: str, *, name: str | None, credential: str | None) -> Remote:
    """Return the remote agent that a card tells of. Raises BadRequest for a card that the relay cannot use."""
    try:
        read = msgspec.json.decode(card, type=_Card)
    except msgspec.ValidationError as error:
        raise _about(url, bad_field(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"{url}: it is no card, but something else than JSON: {error}") from None
    usable = [
        one
        for one in read.supported_interfaces
        if one.protocol_binding in BINDINGS and one.protocol_version.split(".")[:2] == ["1", "0"]
    ]
    if not usable:
        raise BadRequest(f"{url}: the agent does not speak A2A 1.0 over JSONRPC or HTTP+JSON")
    require_http(usable[0].url)
    own = name or _UNSAFE.sub("-", read.name).strip("-")[:64]
    try:
        require_name(own)
    except BadRequest as error:
        raise BadRequest(f"{url}: {error.message}; give the agent another name with --as", field="name") from None
    return Remote(
        name=own,
        url=url,
        interface=usable[0].url.rstrip("/"),
        binding=usable[0].protocol_binding,
        streaming=read.capabilities.streaming,
        description=read.description[: limits.MAX_NAME_LENGTH],
        capabilities=[skill.id[: limits.MAX_NAME_LENGTH] for skill in read.skills[:MAX_SKILLS] if skill.id.strip()],
        credential=credential,
    )


def read_remotes(path: str | os.PathLike[str]) -> list[Remote]:
    """Return the agents of a file, none if it is not there. Raises BadRequest if it is invalid, OSError."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    try:
        found = msgspec.json.decode(data, type=RemoteFile).agents
        for one in found:
            require_name(one.name)
            require_http(one.interface)
            if one.binding not in BINDINGS:
                raise BadRequest(f"agent {one.name!r} has the binding {one.binding!r}; use one of {BINDINGS}")
        if len({one.name.casefold() for one in found}) < len(found):
            raise BadRequest("two agents have one name")
    except msgspec.ValidationError as error:
        raise _about(path, bad_field(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"{os.fspath(path)}: it is not JSON in UTF-8: {error}") from None
    except BadRequest as error:
        raise _about(path, error) from None
    return found


def add_remote(path: str | os.PathLike[str], remote: Remote, *, replace: bool = False) -> None:
    """Add an agent to the file, which is made if needed. Raises NameTaken if its name is there, BadRequest, OSError.

    Raises NotAllowed where it would take the place of an agent that another key has signed.
    """
    known = read_remotes(path)
    same = [one for one in known if one.name.casefold() == remote.name.casefold()]
    if same and not replace:
        raise NameTaken(
            f"agent {same[0].name!r} is in {os.fspath(path)} already; give this one another name with --as, or add "
            "--replace",
            field="name",
        )
    signed_by = same[0].signed_by if same else None
    if signed_by is not None and signed_by != remote.signed_by:
        raise NotAllowed(
            f"agent {same[0].name!r} was signed by the key {signed_by}, and is not any more; if that is right, remove "
            "it first",
            field="signatures",
        )
    _write(path, [*(one for one in known if one not in same), remote])


def remove_remote(path: str | os.PathLike[str], name: str) -> None:
    """Take an agent out of the file. Raises UnknownAgent if it is not there, BadRequest, OSError."""
    known = read_remotes(path)
    left = [one for one in known if one.name.casefold() != name.casefold()]
    if len(left) == len(known):
        raise UnknownAgent(f"{os.fspath(path)} has no agent {name!r}; see: clawlink a2a list", field="name")
    _write(path, left)


def _write(path: str | os.PathLike[str], remotes: list[Remote]) -> None:
    if len(remotes) > MAX_REMOTES:
        raise BadRequest(f"a file has {MAX_REMOTES} agents at most", limit=MAX_REMOTES, actual=len(remotes))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    private.write(target, msgspec.json.format(msgspec.json.encode(RemoteFile(remotes)), indent=2) + b"\n")


def _about(what: Any, error: BadRequest) -> BadRequest:
    return BadRequest(f"{os.fspath(what)}: {error.message}", field=error.field)
