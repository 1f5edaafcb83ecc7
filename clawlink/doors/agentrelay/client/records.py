"""The record of an event in a local folder, in the original's words. Times are naive and local."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from clawlink.domain.iso_time import read_iso
from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.rules import Event, Status

HERE = "here"
"""The reader of a folder. A folder does not tell its readers apart."""
# The original records no more about the reader.
_READ = (Status.RECEIVED, Status.BURNED, Status.COMPLETED, Status.VERIFIED)


def stamp(at: float) -> str:
    """Write a time."""
    return datetime.fromtimestamp(at).isoformat()


def moment(value: Any) -> datetime | None:
    """Read a time; None for any other text."""
    if not value or not isinstance(value, str):
        return None
    try:
        return read_iso(value)
    except ValueError:
        return None


def seconds(value: Any) -> float | None:
    """Read a time as seconds since the epoch; None for any other text, and for a time that cannot be written again."""
    found = moment(value)
    try:
        at = None if found is None else found.timestamp()
        if at is not None:
            stamp(at)
        return at
    except (OverflowError, OSError, ValueError):
        return None


def from_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record in an event's file, in the registry's words."""
    names = ("event_id", "type", "secret", "sender", "receiver", "ttl_hours", "created_at")
    return {name: meta[name] for name in names if meta.get(name) is not None}


def from_log(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the log's record of an event, in the registry's words."""
    known: dict[str, Any] = {}
    for entry in entries:
        at, status = entry.get("timestamp"), entry.get("status")
        if status == "SENT":
            known = {"type": entry.get("type"), "sender": entry.get("sender"), "receiver": entry.get("receiver")}
            known |= {"created_at": at, "status": Status.SENT.value}
        elif status in ("RECEIVED", "CONFIRMED"):
            known |= {"last_received_at": at, "status": Status.RECEIVED.value}
        elif status == "PREPARING":
            known |= {"last_update_at": at, "status": Status.UPDATED.value}
        elif status == "COMPLETED":
            known |= {"completed_at": at, "status": Status.COMPLETED.value}
        elif status == "VERIFIED":
            known |= {"verified": True, "last_verification_at": at, "status": Status.VERIFIED.value}
    return known


def to_event(id: str, record: Mapping[str, Any], *, present: bool, burns: bool, now: float) -> Event:
    """Return the event of a record; missing or wrong fields count as not known."""
    try:
        status = Status(record.get("status"))
    except ValueError:
        status = Status.SENT
    touched_at = seconds(record.get("updated_at"))
    received_at = seconds(record.get("last_received_at"))
    burned_at = seconds(record.get("burned_at"))
    read = received_at is not None or burned_at is not None or status in _READ
    if read and received_at is None:
        received_at = burned_at or touched_at or now
    verified_at = None
    if record.get("verified") is True or status is Status.VERIFIED:
        verified_at = seconds(record.get("last_verification_at")) or touched_at or now
    hours = rules.whole_hours(record.get("ttl_hours"))
    created_at = seconds(record.get("created_at")) or touched_at
    return Event(
        id=id,
        type=_text(record, "type") or "REQ",
        secret=_text(record, "secret"),
        sender=_text(record, "sender"),
        receiver=_text(record, "receiver"),
        created_at=now if created_at is None else created_at,
        ttl_hours=max(1, hours or rules.DEFAULT_TTL_HOURS),
        status=status,
        present=present,
        burns=burns,
        received_by=(HERE,) if read else (),
        received_at=received_at,
        burned_at=burned_at,
        updated_at=seconds(record.get("last_update_at")),
        completed_at=seconds(record.get("completed_at")),
        verified_at=verified_at,
        expired_at=seconds(record.get("expired_at")),
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def to_record(event: Event, before: Mapping[str, Any], *, file_path: str, now: float) -> dict[str, Any]:
    """Return the record of an event; other fields of the earlier record stay."""
    times = {
        "last_received_at": event.received_at,
        "burned_at": event.burned_at,
        "last_update_at": event.updated_at,
        "completed_at": event.completed_at,
        "expired_at": event.expired_at,
    }
    record: dict[str, Any] = {
        **before,
        "event_id": event.id,
        "type": event.type,
        "secret": event.secret,
        "sender": event.sender,
        "receiver": event.receiver,
        "ttl_hours": event.ttl_hours,
        "ptr": names.pointer(event.id),
        "file_path": file_path,
        "file_exists": event.present,
        "status": event.status.value,
        "created_at": before.get("created_at") or stamp(event.created_at),
        **{name: stamp(at) for name, at in times.items() if at is not None},
    }
    if event.verified_at is not None:
        record |= {"verified": True, "last_verification_at": stamp(event.verified_at)}
    record["updated_at"] = stamp(now)
    return record
