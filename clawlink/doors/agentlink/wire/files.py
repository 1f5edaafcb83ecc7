"""The two files of Agent Link: relay-config.json for the relay's operator, agent-link-config.json for a client.

Both hold secrets, so they are written for their owner only (mode 0600). Unknown fields are kept when a file is written
again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from clawlink import private
from clawlink.doors.agentlink.wire.signing import require_agent, require_instance
from clawlink.errors import BadRequest, ClawLinkError, NameTaken
from clawlink.protocol.invalid import bad_field

MIN_INTERVAL_SECONDS = 0.1
MAX_INTERVAL_SECONDS = 3600.0
_Secret = Annotated[str, Meta(min_length=1, max_length=1024)]


class InstanceEntry(Struct, frozen=True, omit_defaults=True):
    """An instance as the operator wrote it down.

    ``secret`` is its own; without one it has the file's. ``legacy`` lets it sign as old clients do. ``agents`` are
    there from the start, so that others can write to them before they have ever connected. ``public_key`` is kept as
    it is given: nothing in Agent Link signs with it.
    """

    instance_id: str
    name: str | None = None
    public_key: str | None = None
    secret: _Secret | None = None
    legacy: bool = False
    agents: list[str] = []


class RelayFile(Struct, frozen=True, omit_defaults=True):
    """relay-config.json. ``port`` belongs to the old relay: this one listens where ``--port`` says."""

    port: int | None = None
    secret: _Secret | None = None
    registered_instances: list[InstanceEntry] = []


class LinkFile(Struct, frozen=True, omit_defaults=True):
    """agent-link-config.json. ``end_to_end`` holds a secret by instance that the two instances share.

    ``reconnect_interval`` is the longest pause in seconds before the link comes back.
    """

    relay_url: str
    secret: _Secret
    instance_id: str
    agent_id: str | None = None
    auto_reconnect: bool = True
    reconnect_interval: float | None = None
    end_to_end: dict[str, _Secret] = {}
    ca: str | None = None


def read_relay(path: str | os.PathLike[str]) -> RelayFile:
    """Read relay-config.json. Raises BadRequest if it is invalid, OSError if it cannot be read."""
    file: RelayFile = _read(path, RelayFile)
    seen: set[str] = set()
    for entry in file.registered_instances:
        with _about(path):
            require_instance(entry.instance_id)
            for agent_id in entry.agents:
                require_agent(agent_id, field="agents")
            if entry.secret is None and file.secret is None:
                raise BadRequest(f"instance {entry.instance_id!r} has no secret, and the file has none for all")
            if entry.instance_id.casefold() in seen:
                raise BadRequest(f"instance {entry.instance_id!r} is there twice, if case is not looked at")
        seen.add(entry.instance_id.casefold())
    return file


def read_link(path: str | os.PathLike[str]) -> LinkFile:
    """Read agent-link-config.json. Raises BadRequest if it is invalid, OSError if it cannot be read."""
    file: LinkFile = _read(path, LinkFile)
    with _about(path):
        require_instance(file.instance_id)
        if file.agent_id is not None:
            require_agent(file.agent_id)
    return file


def require_interval(seconds: object) -> None:
    """Refuse an invalid pause in seconds before a link connects again. None is the default. Raises BadRequest."""
    if seconds is None:
        return
    if not (isinstance(seconds, int | float) and MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS):
        raise BadRequest(
            f"reconnect_interval is a number of seconds from {MIN_INTERVAL_SECONDS:g} to {MAX_INTERVAL_SECONDS:g}, "
            f"not {seconds!r:.40}",
            field="reconnect_interval",
            limit=MAX_INTERVAL_SECONDS,
        )


def add_instance(path: str | os.PathLike[str], entry: InstanceEntry, *, replace: bool = False) -> None:
    """Write an instance into relay-config.json, which is made if needed. Raises NameTaken if its id is there."""
    known: dict[str, Any] = {}
    if Path(path).exists():
        read_relay(path)
        known = msgspec.json.decode(Path(path).read_bytes())
    entries = [*known.get("registered_instances", [])]
    same = [e for e in entries if e["instance_id"].casefold() == entry.instance_id.casefold()]
    if same and not replace:
        raise NameTaken(
            f"instance {entry.instance_id!r} is in {path} already; to give it a new secret add: --replace",
            field="instance_id",
        )
    kept = [e for e in entries if e not in same]
    write_private(path, {**known, "registered_instances": [*kept, msgspec.to_builtins(entry)]})


def write_private(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON that only its owner may read. A crash leaves the old file or the new one."""
    target = Path(path)
    private.make_folder(target.parent, 0o755)
    private.write(target, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _read(path: str | os.PathLike[str], kind: Any) -> Any:
    with _about(path):
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=kind)
        except msgspec.ValidationError as error:
            raise bad_field(error) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadRequest(f"it is not JSON in UTF-8: {error}") from None


@contextlib.contextmanager
def _about(path: str | os.PathLike[str]) -> Any:
    """Name the file of an error in its message."""
    try:
        yield
    except ClawLinkError as error:
        raise BadRequest(f"{os.fspath(path)}: {error.message}", field=error.field) from None
