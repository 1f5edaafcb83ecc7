"""AgentRelay for Python: the functions of the original, over a local folder that several processes may share.

    sent = agentrelay_send("worker", "REQ", "e1", {"task": "...", "sender_agent": "me"})
    got = agentrelay_receive("AgentRelay: REQ,e1,s/e1.json,,")
    line = agentrelay_cmp("e1", got["secret"])
    agentrelay_verify(line)["status"]          # "ok", and "repeat" from then on

They raise the errors of the original: ValueError, and FileNotFoundError for a missing event. The folder is
``$OPENCLAW_DATA_DIR`` or ``~/.openclaw/data``, looked up at each call. Repairs are logged as warnings of
``clawlink.agentrelay``.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.client.folder import Folder, data_dir, draw_secret
from clawlink.doors.agentrelay.client.records import moment
from clawlink.doors.agentrelay.client.transactions import Transactions, entry
from clawlink.doors.agentrelay.wire import line as lines
from clawlink.errors import BadRequest, ClawLinkError, NotFound, Unavailable

__all__ = [
    "AgentRelayTool",
    "agentrelay_cmp",
    "agentrelay_receive",
    "agentrelay_send",
    "agentrelay_update_file",
    "agentrelay_verify",
    "build_csv",
    "cleanup_stale_events",
    "ensure_dirs",
    "generate_secret",
    "get_event_file",
    "get_event_ttl_hours",
    "get_file_alias_path",
    "get_registry_event",
    "load_registry",
    "log_transaction",
    "normalize_relay_message",
    "parse_csv",
    "parse_iso_datetime",
    "read_event_file",
    "resolve_alias",
    "save_registry",
    "upsert_registry_event",
]

STORAGE_ALIAS = names.ALIAS
DEFAULT_TTL_HOURS = rules.DEFAULT_TTL_HOURS
DEFAULT_REGISTRY_TTL_HOURS = rules.DEFAULT_REGISTRY_TTL_HOURS

_log = logging.getLogger("clawlink.agentrelay")
_folders: dict[Path, Folder] = {}
_PATHS = {"STORAGE_PATH": "storage", "LOG_PATH": "logs", "REGISTRY_PATH": "registry"}

P = ParamSpec("P")
T = TypeVar("T")


def __getattr__(name: str) -> Path:
    """Return the current values of the paths that the original has as constants."""
    if name == "BASE_DIR":
        return data_dir()
    if name not in _PATHS:
        raise AttributeError(f"module 'clawlink.agentrelay' has no attribute {name!r}")
    path: Path = getattr(_folder(), _PATHS[name])
    return path


def _folder() -> Folder:
    data = data_dir()
    if data not in _folders:
        _folders[data] = Folder(data, tell=_log.warning)
    return _folders[data]


def _as_before(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function raise the errors of the original."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except NotFound as error:
            raise FileNotFoundError(error.message) from error
        except Unavailable as error:
            raise TimeoutError(error.message) from error
        except ClawLinkError as error:
            raise ValueError(error.message) from error

    return call


@_as_before
def agentrelay_send(
    agent_id: str, message_type: str, event_id: str, content: dict[str, Any], secret: str | None = None
) -> dict[str, Any]:
    """Keep ``content`` under a new id, and return ``file_path``, ``ptr``, ``csv_message`` and ``secret``."""
    return _folder().send(agent_id, message_type, event_id, content, secret)


@_as_before
def agentrelay_receive(csv_message: str) -> dict[str, Any]:
    """Return ``type``, ``event_id``, ``ptr``, ``content``, ``secret`` and ``full_data`` of a line's event."""
    return _folder().receive(csv_message)


@_as_before
def agentrelay_update_file(event_id: str, updates: dict[str, Any], next_event_id: str | None = None) -> str:
    """Merge updates into an event's contents, or make the next event with them; return the path of its file."""
    return _folder().update(event_id, updates, next_event_id).file


@_as_before
def agentrelay_cmp(
    event_id: str,
    secret: str | None = None,
    sender_override: str | None = None,
    receiver_override: str | None = None,
) -> str:
    """Return the line that proves that an event was read. It must have been received."""
    return _folder().cmp(event_id, secret, sender_override, receiver_override)


@_as_before
def agentrelay_verify(cmp_message: str) -> dict[str, Any]:
    """Verify a CMP: ``status`` is ``ok`` the first time, then ``repeat``; ``mismatch`` if it is forged."""
    return _folder().verify(cmp_message)


@_as_before
def cleanup_stale_events(
    default_ttl_hours: int = DEFAULT_TTL_HOURS,
    registry_ttl_hours: int = DEFAULT_REGISTRY_TTL_HOURS,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Delete contents that are over and forget events that are long gone; return which."""
    return _folder().cleanup(default_ttl_hours, registry_ttl_hours, now)


@_as_before
def normalize_relay_message(raw_message: str) -> str:
    """Return the line of AgentRelay in a text."""
    return str(lines.find(raw_message))


@_as_before
def build_csv(msg_type: str, event_id: str, ptr: str, data: str = "") -> str:
    """Return a line of these fields."""
    return lines.build(msg_type, event_id, ptr, data)


@_as_before
def parse_csv(csv_msg: str) -> dict[str, str]:
    """Return the fields of a line: ``type``, ``event_id``, ``ptr``, ``reserved``, ``data``."""
    line = lines.find(csv_msg)
    return {
        "type": line.type,
        "event_id": line.event_id,
        "ptr": line.ptr,
        "reserved": line.reserved,
        "data": line.data,
    }


def generate_secret(length: int = 6) -> str:
    """Return random letters and digits."""
    return draw_secret(length)


@_as_before
def get_event_file(event_id: str) -> Path:
    """Return where the contents of an event are, or would be."""
    return _folder().file_of(event_id)


def get_file_alias_path(file_path: Path, storage_root: Path, alias: str = STORAGE_ALIAS) -> str:
    """Return the pointer to a file in the folder of contents; that of any other file is its path."""
    try:
        return f"{alias}/{file_path.relative_to(storage_root).as_posix()}"
    except ValueError:
        return str(file_path)


@_as_before
def resolve_alias(ptr: str, storage_root: Path, alias: str = STORAGE_ALIAS) -> Path:
    """Return the file of a pointer. Raises ValueError for a pointer out of the folder of contents."""
    id = ptr.removeprefix(f"{alias}/").removesuffix(".json")
    if ptr != f"{alias}/{id}.json":
        names.require_pointer(ptr, "event")
    return storage_root / f"{names.require_id(id, field='ptr')}.json"


@_as_before
def get_registry_event(event_id: str) -> dict[str, Any]:
    """Return the registry's record of an event; an empty dict if it does not know it."""
    return _folder().record(event_id)


@_as_before
def upsert_registry_event(event_id: str, event_data: dict[str, Any]) -> dict[str, Any]:
    """Merge fields into the registry's record of an event, and return all of it."""
    return _folder().put_record(event_id, event_data)


@_as_before
def load_registry() -> dict[str, Any]:
    """Return the whole registry, as ``{"events": {id: {...}}}``."""
    return _folder().load()


@_as_before
def save_registry(registry: dict[str, Any]) -> None:
    """Write the caller's changes since ``load_registry``; changes of others stay."""
    _folder().save(registry)


@_as_before
def read_event_file(event_id: str) -> dict[str, Any]:
    """Return ``meta`` and ``payload`` of an event's file."""
    return _folder().contents(event_id)


@_as_before
def ensure_dirs() -> None:
    """Make the folders of the data, for this account only."""
    _folder().prepare()


@_as_before
def log_transaction(
    event_id: str,
    msg_type: str,
    sender: str,
    receiver: str,
    status: str,
    hint: str,
    ptr: str,
    notes: str,
    next_action_plan: str = "",
    log_path: Path | None = None,
) -> None:
    """Write a line into the log, or into that of the folder ``log_path``."""
    told = (event_id, msg_type, sender, receiver, status, hint, ptr, notes, next_action_plan)
    for field in told:
        if not isinstance(field, str):
            raise BadRequest(f"the fields of the log are texts, and one is {field!r:.40}")
    if log_path is None:
        _folder().note(*told)
    else:
        Transactions(Path(log_path), _log.warning).append(entry(time.time(), *told))


@_as_before
def get_event_ttl_hours(content: dict[str, Any]) -> int:
    """Return for how many hours contents ask to be kept, a day if they do not say."""
    if not isinstance(content, dict):
        raise BadRequest("content must be an object of names and values, as {}", field="content")
    return rules.ttl_hours(content)


def parse_iso_datetime(value: str | None) -> datetime | None:
    """Read a time; None for any other text."""
    return moment(value)


class AgentRelayTool:
    """The functions under the names that agents call them by."""

    @staticmethod
    def send(agent_id: str, msg_type: str, event_id: str, content: dict[str, Any]) -> dict[str, Any]:
        """Keep contents under a new id."""
        return agentrelay_send(agent_id, msg_type, event_id, content)

    @staticmethod
    def receive(csv_msg: str) -> dict[str, Any]:
        """Return the contents that a line leads to."""
        return agentrelay_receive(csv_msg)

    @staticmethod
    def cmp(event_id: str, secret: str | None = None) -> str:
        """Return the line that proves that an event was read."""
        return agentrelay_cmp(event_id, secret)

    @staticmethod
    def verify(cmp_message: str) -> dict[str, Any]:
        """Verify a CMP."""
        return agentrelay_verify(cmp_message)

    @staticmethod
    def update(event_id: str, new_content: dict[str, Any], next_event_id: str | None = None) -> str:
        """Merge updates into an event's contents, or make the next event with them."""
        return agentrelay_update_file(event_id, new_content, next_event_id)

    @staticmethod
    def cleanup(
        default_ttl_hours: int = DEFAULT_TTL_HOURS, registry_ttl_hours: int = DEFAULT_REGISTRY_TTL_HOURS
    ) -> dict[str, Any]:
        """Delete contents that are over and forget events that are long gone."""
        return cleanup_stale_events(default_ttl_hours, registry_ttl_hours)
