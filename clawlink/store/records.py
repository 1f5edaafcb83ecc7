"""The stored form of records: each kind has a name and a schema version, and every record becomes bytes.

The form is MessagePack, which keeps bytes, infinite times and big integers unchanged. A store that keeps numbers in
columns of its own keeps an infinite time as the infinite double.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from clawlink.domain.agent import Agent, NameHold
from clawlink.domain.audit import Act
from clawlink.domain.broadcast import Broadcast, Knowledge
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import SharedFile
from clawlink.domain.file_write import FileWrite, UnfinishedUpload
from clawlink.domain.pool import Pool
from clawlink.domain.standstill import Standstill
from clawlink.domain.task import Task

K = TypeVar("K", bound=type[Any])


class Schema(msgspec.Struct, frozen=True):
    """The name under which records of a kind are stored, and the version of their fields.

    Raise the version when stored fields change their meaning. A new field with a default needs no new version.
    """

    name: str
    version: int


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A record as bytes, with the kind and version that tell how to read them."""

    name: str
    version: int
    record: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_SCHEMAS: dict[type[Any], Schema] = {}
_KINDS: dict[str, type[Any]] = {}


def register(kind: K, name: str, version: int = 1) -> K:
    """Register a kind of records. Raises ValueError if the kind, or the name, is registered for something else."""
    schema = Schema(name, version)
    if _SCHEMAS.get(kind, schema) != schema or _KINDS.get(name, kind) is not kind:
        raise ValueError(f"{kind.__name__} or {name!r} is registered already")
    _SCHEMAS[kind] = schema
    _KINDS[name] = kind
    return kind


def kinds() -> dict[type[Any], Schema]:
    """Return all registered kinds."""
    return dict(_SCHEMAS)


def encode(record: Any) -> bytes:
    """Return the bytes of a record. Raises KeyError if its kind is not registered."""
    schema = _SCHEMAS[type(record)]
    return _encode((schema.name, schema.version, record))


def decode(data: bytes) -> Any:
    """Return the record of these bytes. Raises ValueError if this version of ClawLink cannot read them."""
    try:
        stored = msgspec.msgpack.decode(data, type=Stored)
        kind = _KINDS.get(stored.name)
        if kind is None or stored.version != _SCHEMAS[kind].version:
            raise ValueError(f"no kind of records is stored as {stored.name!r} version {stored.version}")
        return msgspec.msgpack.decode(stored.record, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the bytes are no record: {error}") from error


for _kind, _name in (
    (Agent, "agent"),
    (NameHold, "name_hold"),
    (Delivery, "delivery"),
    (Task, "task"),
    (Pool, "pool"),
    (Broadcast, "broadcast"),
    (Knowledge, "knowledge"),
    (SharedFile, "file"),
    (FileWrite, "file_write"),
    (UnfinishedUpload, "upload"),
    (Act, "act"),
    (Standstill, "standstill"),
):
    register(_kind, _name)
