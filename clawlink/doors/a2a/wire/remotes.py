"""Remote agents of A2A: the file that lists them, and what their cards say."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field

from clawlink.domain import limits, skeletons
from clawlink.doors.a2a.wire.list_file import ListFile, about
from clawlink.errors import BadRequest, NameTaken, NotAllowed
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
    fault = skeletons.fault(name, spaces=False)
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
        raise about(url, bad_field(error)) from None
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


def _require_usable(remote: Remote) -> None:
    require_name(remote.name)
    require_http(remote.interface)
    if remote.binding not in BINDINGS:
        raise BadRequest(f"agent {remote.name!r} has the binding {remote.binding!r}; use one of {BINDINGS}")


REMOTES = ListFile(
    "agents", Remote, entry="agent", most=MAX_REMOTES, each=_require_usable, listed_by="clawlink a2a list"
)
"""The form of the file."""


def add_remote(path: str | os.PathLike[str], remote: Remote, *, replace: bool = False) -> None:
    """Add an agent to the file, which is made if needed. Raises NameTaken if its name is there, BadRequest, OSError.

    Raises NotAllowed where it would take the place of an agent that another key has signed.
    """
    known = REMOTES.find(path, remote.name)
    if known is not None and not replace:
        raise NameTaken(
            f"agent {known.name!r} is in {os.fspath(path)} already; give this one another name with --as, or add "
            "--replace",
            field="name",
        )
    if known is not None and known.signed_by not in (None, remote.signed_by):
        raise NotAllowed(
            f"agent {known.name!r} was signed by the key {known.signed_by}, and is not any more; if that is right, "
            "remove it first",
            field="signatures",
        )
    REMOTES.put(path, remote)
