"""Events in a local folder: the layout and the files of the original, for several processes at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import string
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from clawlink.client.identity import account_home
from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.client.locked_folder import LockedFolder, Opened, require_object
from clawlink.doors.agentrelay.client.records import HERE, from_meta, stamp, to_event, to_record
from clawlink.doors.agentrelay.client.recovery import Note
from clawlink.doors.agentrelay.client.registry import encode_event, read_event
from clawlink.doors.agentrelay.client.transactions import entry
from clawlink.doors.agentrelay.rules import Event, Verdict
from clawlink.doors.agentrelay.wire import line as lines
from clawlink.errors import BadRequest, UnknownEvent
from clawlink.private import Replacement

SECRET_LENGTH = 6
_LETTERS = string.ascii_letters + string.digits


class Updated(NamedTuple):
    """Where new contents are, and the line that leads to them."""

    file: str
    csv_message: str


class Completed(NamedTuple):
    """The CMP of an event, and the line of the contents that its result stands in."""

    cmp_message: str
    csv_message: str


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the root of the original's data: ``$OPENCLAW_DATA_DIR``, or ``~/.openclaw/data``."""
    named = environ.get("OPENCLAW_DATA_DIR")
    return Path(named) if named else account_home() / ".openclaw" / "data"


def draw_secret(length: int = SECRET_LENGTH) -> str:
    """Return random letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


class Folder(LockedFolder):
    """The verbs of AgentRelay, over the events of one folder."""

    def __init__(
        self, data: Path, *, tell: Callable[[str], object] = lambda _: None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(data, tell=tell, clock=clock)
        self._sent: set[str] = set()

    # -- the verbs ---------------------------------------------------------------------------------------------------

    def send(
        self, agent_id: str, type: str, id: str, content: dict[str, Any], secret: str | None = None
    ) -> dict[str, Any]:
        """Keep contents under a new id, and return the line that leads to them. Raises BadRequest, WrongState."""
        require_object(content, "content")
        now = self._clock()
        event = rules.send(
            id,
            type,
            content,
            sender=content.get("sender_agent"),
            receiver=content.get("receiver_agent") or agent_id,
            secret=draw_secret() if secret is None else secret,
            now=now,
        )
        data = encode_event(_as_file(event, content))
        ptr = names.pointer(id)
        told = entry(now, id, type, event.sender, agent_id, "SENT", f"{type} to {agent_id}", ptr, "File created")
        with self.open() as opened:
            names.require_unused(id, [*opened.registry.alike(id), *([id] if opened.has_contents(id) else [])])
            self._carry_out(opened, "send", event, now, told, data=data)
        self._sent.add(id)
        return {
            "file_path": str(self.file_of(id)),
            "ptr": ptr,
            "csv_message": lines.build(type, id, ptr),
            "secret": event.secret,
        }

    def receive(self, message: str) -> dict[str, Any]:
        """Return the contents that a line leads to. Raises BadRequest, UnknownEvent."""
        line = lines.parse(message)
        id, ptr = line.event_id, names.require_pointer(line.ptr, line.event_id)
        now = self._clock()
        with self.open() as opened:
            event = self._known(opened, id, now)
            rules.require_present(event)
            data = self.contents_of(id)
            meta = data["meta"]
            if meta.get("event_id", id) != id:
                raise BadRequest(f"{ptr} is the file of event {meta.get('event_id')!r}, not of {id!r}", field="ptr")
            rules.require_said(event, line.type)
            content = _content_of(data)
            if not event.sender or not event.receiver:
                raise BadRequest(f"Event {id} is missing explicit sender/receiver metadata", field="sender_agent")
            event = rules.receive(replace(event, burns=rules.burns(content, meta)), HERE, now)
            told = (
                entry(
                    now,
                    id,
                    line.type,
                    event.sender,
                    event.receiver,
                    "RECEIVED",
                    f"Read {ptr}",
                    ptr,
                    "File read and burned" if event.burned_at == now else "File read successfully",
                    "Will acknowledge and fetch file",
                ),
                entry(
                    now,
                    id,
                    "RECEIVED_CONFIRMATION",
                    event.receiver,
                    event.sender,
                    "CONFIRMED",
                    "Confirmed request receipt",
                    "",
                    f"Received {line.type}, will process task",
                    "Processing task, will send CMP when done",
                ),
            )
            self._carry_out(opened, "receive", event, now, *told)
        return {
            "type": line.type,
            "event_id": id,
            "ptr": ptr,
            "content": content,
            "secret": event.secret,
            "full_data": data,
        }

    def update(self, id: str, updates: dict[str, Any], next_id: str | None = None) -> Updated:
        """Merge updates into an event's contents, or into those of the next event, which is made if need be.

        Raises BadRequest, UnknownEvent, WrongState.
        """
        require_object(updates, "updates")
        names.require_id(id)
        target = names.require_id(next_id, field="next_event_id") if next_id else id
        now = self._clock()
        made = False
        with self.open() as opened:
            event = self._known(opened, id, now)
            content = self._content(event)
            if target != id:
                following = self._following(opened, event, target, now)
                if following is None:
                    content = rules.handed_on(content, updates, event)
                    event = rules.send(
                        target,
                        event.type,
                        content,
                        sender=event.receiver,
                        receiver=content["receiver_agent"],
                        secret=draw_secret(),
                        now=now,
                    )
                    made = True
                else:
                    event, content = rules.update(following, now), {**self._content(following), **updates}
            else:
                event, content = rules.update(event, now), {**content, **updates}
            ptr = names.pointer(target)
            told = entry(
                now,
                target,
                "CREATE_POINTER",
                event.receiver if target == id else event.sender,
                "next_hop",
                "PREPARING",
                f"Created pointer file {ptr}",
                ptr,
                f"Prepared for next hop with: {', '.join(map(str, updates))}",
                "Preparing pointer file for next hop",
            )
            self._carry_out(opened, "update", event, now, told, data=encode_event(self._updated(event, content)))
        if made:
            self._sent.add(target)
        return Updated(str(self.file_of(target)), lines.build(event.type, target, ptr))

    def cmp(self, id: str, secret: str | None = None, sender: str | None = None, receiver: str | None = None) -> str:
        """Return the line that proves the read of an event; without a secret, with the secret of its contents.

        Raises WrongState for an event that was not received here, BadRequest for a wrong secret, UnknownEvent.
        """
        now = self._clock()
        with self.open() as opened:
            event = rules.complete(self._known(opened, names.require_id(id), now), HERE, secret, now)
            if not event.sender or not event.receiver:
                raise BadRequest(f"Event {id} is missing explicit sender/receiver metadata", field="sender_agent")
            message = lines.build(rules.COMPLETION, id, "", event.secret)
            told = entry(
                now,
                id,
                rules.COMPLETION,
                names.require_party(sender or event.receiver, "sender_override", id),
                names.require_party(receiver or event.sender, "receiver_override", id),
                "COMPLETED",
                f"CMP generated for {id}",
                "",
                f"CMP message: CMP,{id},,,(secret)",
                "Event completed",
            )
            self._carry_out(opened, "cmp", event, now, told, more={"cmp_message": message})
        return message

    def complete(
        self, id: str, result: str = "", next_agent: str = "", next_id: str | None = None, secret: str | None = None
    ) -> Completed:
        """Write down a result, for the next event if one is named, and return the CMP, unless that is refused."""
        now = self._clock()
        with self.open() as opened:
            rules.complete(self._known(opened, names.require_id(id), now), HERE, secret, now)
        done = self.update(id, {"status": "completed", "result": result, "next_agent": next_agent}, next_id)
        return Completed(self.cmp(id, secret), done.csv_message)

    def verify(self, message: str) -> dict[str, Any]:
        """Verify a CMP: ``ok`` the first time, ``repeat`` from then on, ``mismatch`` if it is forged.

        The result has the expected secret only for a caller with the right secret, and for the process that sent the
        event. Raises BadRequest for another line, UnknownEvent.
        """
        line = lines.parse(message)
        if line.type != rules.COMPLETION:
            raise BadRequest(f"Expected CMP message, got {line.type}", field="type")
        id, now = line.event_id, self._clock()
        with self.open() as opened:
            verdict, event = rules.verify(self._known(opened, id, now), line.data, now)
            status = {Verdict.OK: "VERIFIED", Verdict.REPEAT: "REPEATED", Verdict.MISMATCH: "VERIFICATION_FAILED"}
            told = entry(
                now,
                id,
                rules.COMPLETION,
                event.receiver,
                event.sender,
                status[verdict],
                f"CMP {verdict.value} for {id}",
                "",
                "It counts" if verdict is Verdict.OK else "It changes nothing",
            )
            if verdict is Verdict.OK:
                self._carry_out(opened, "verify", event, now, told, more={"last_received_secret": event.secret})
            else:
                self.transactions.append(told)
            exists = opened.has_contents(id)
        verified = verdict is not Verdict.MISMATCH
        return {
            "status": verdict.value,
            "event_id": id,
            "verified": verified,
            "expected_secret": event.secret if verified or id in self._sent else "",
            "received_secret": line.data,
            "sender": event.sender,
            "receiver": event.receiver,
            "file_exists": exists,
        }

    def cleanup(
        self,
        ttl_hours: int = rules.DEFAULT_TTL_HOURS,
        registry_ttl_hours: int = rules.DEFAULT_REGISTRY_TTL_HOURS,
        now: datetime | None = None,
    ) -> dict[str, Any]:
        """Delete expired contents and old events, by a look into each file.

        The other verbs do the same with fewer looks.
        """
        _require_hours(ttl_hours, "default_ttl_hours")
        _require_hours(registry_ttl_hours, "registry_ttl_hours")
        at = datetime.fromtimestamp(self._clock()) if now is None else now
        if not isinstance(at, datetime):
            raise BadRequest(f"now must be a datetime, and is {at!r:.40}", field="now")
        if at.tzinfo is not None:
            at = at.astimezone().replace(tzinfo=None)
        with self._locked():
            registry, swept = self._in_order(
                at, ttl_hours=ttl_hours, registry_ttl_hours=registry_ttl_hours, thorough=True
            )
            kept = sorted(registry.raw())
        return {
            "status": "ok",
            "deleted_files": swept.files,
            "deleted_registry": swept.records,
            "kept_events": kept,
            "default_ttl_hours": ttl_hours,
            "registry_ttl_hours": registry_ttl_hours,
        }

    # -- steps of the verbs -------------------------------------------------------------------------------------------

    def _known(self, opened: Opened, id: str, now: float) -> Event:
        """Return the record of an event. Raises UnknownEvent."""
        record = opened.registry.get(id)
        if not record:
            raise UnknownEvent(
                f"File not found: there is no event {id!r} in {self.root}; was it sent elsewhere, or long ago?",
                field="event_id",
            )
        present = opened.has_contents(id)
        if present and not (record.get("secret") and record.get("sender") and record.get("receiver")):
            with contextlib.suppress(BadRequest):
                record = {**record, **from_meta((read_event(self.file_of(id)) or {}).get("meta", {}))}
        return to_event(id, record, present=present, burns=False, now=now)

    def _content(self, event: Event) -> dict[str, Any]:
        """Return the contents of an event; none, if they were burned or are torn."""
        if not event.present:
            return {}
        try:
            return _content_of(self.contents_of(event.id))
        except BadRequest as error:
            self._tell(f"{error.message}; the update takes its place")
            return {}

    def _following(self, opened: Opened, event: Event, id: str, now: float) -> Event | None:
        """Return the next event, which may be filled, or None if there is none. Raises WrongState."""
        if id not in opened.registry and not opened.has_contents(id):
            names.require_unused(id, opened.registry.alike(id))
            return None
        following = self._known(opened, id, now)
        rules.require_fillable(following, event, id, event.receiver)
        return following

    def _updated(self, event: Event, content: dict[str, Any]) -> dict[str, Any]:
        """Return an event's file with new contents; its other fields stay."""
        data: dict[str, Any] = {}
        with contextlib.suppress(BadRequest):
            data = read_event(self.file_of(event.id)) or {}
        if not data:
            return _as_file(event, content)
        payload = data.get("payload")
        return {**data, "payload": {**(payload if isinstance(payload, dict) else {}), "content": content}}

    def _carry_out(
        self,
        opened: Opened,
        verb: str,
        event: Event,
        now: float,
        *told: dict[str, str],
        data: bytes | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a change: the event's file if it has new contents, the registry, the log.

        A note of it is written first.

        Without room nothing changes: all is on the disk before any of it is put in its place.
        """
        path = self.file_of(event.id)
        before = opened.registry.get(event.id)
        record = {**to_record(event, before, file_path=str(path), now=now), **(more or {})}
        record = json.loads(json.dumps(record))  # as it will be read again
        burned = not event.present and opened.has_contents(event.id)
        digest = None if data is None else hashlib.sha256(data).hexdigest()
        opened.registry.put(event.id, record)
        with contextlib.ExitStack() as all_of_it:
            new: dict[Path, Replacement] = {}
            if data is not None:
                new[path] = all_of_it.enter_context(Replacement(path.parent, data))
            new[self.registry] = all_of_it.enter_context(opened.registry.written())
            try:
                self._recovery.begin(Note(verb, event.id, record, digest, burned, list(told)))
                for place, replacement in new.items():
                    replacement.put(place)
            except OSError:
                if not any(replacement.in_place for replacement in new.values()):
                    self._recovery.end()
                raise
        if burned:
            path.unlink(missing_ok=True)
        opened.next_at = min(opened.next_at, rules.expires_at(event))
        self.transactions.append(*told)
        self._recovery.end()


def _as_file(event: Event, content: Mapping[str, Any]) -> dict[str, Any]:
    meta = {
        "event_id": event.id,
        "type": event.type,
        "secret": event.secret,
        "created_at": stamp(event.created_at),
        "sender": event.sender,
        "receiver": event.receiver,
        "ttl_hours": event.ttl_hours,
    }
    return {"meta": meta, "payload": {"content": content}}


def _content_of(data: Mapping[str, Any]) -> dict[str, Any]:
    payload = data.get("payload")
    content = payload.get("content") if isinstance(payload, dict) else None
    return content if isinstance(content, dict) else {}


def _require_hours(value: object, field: str) -> None:
    if not isinstance(value, int):
        raise BadRequest(f"{field} must be a whole number of hours, and is {value!r:.40}", field=field)
