"""Events on a relay, with the verbs and the answers of a local folder. Actions are logged on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from clawlink.client.sync import Client
from clawlink.doors.agentrelay import names, rules
from clawlink.doors.agentrelay.client import calls
from clawlink.doors.agentrelay.client.disk import make_private
from clawlink.doors.agentrelay.client.folder import Completed, Updated
from clawlink.doors.agentrelay.client.transactions import PLACE, Transactions, entry
from clawlink.doors.agentrelay.wire import line as lines
from clawlink.doors.agentrelay.wire.exchange import EventMeta, EventVerified
from clawlink.errors import BadRequest


class Remote:
    """The events that an agent has sent, or may read, on one relay."""

    def __init__(self, client: Client, transactions: Transactions, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._log = transactions
        self._clock = clock

    def send(
        self, agent_id: str, type: str, id: str, content: dict[str, Any], secret: str | None = None
    ) -> dict[str, Any]:
        """Keep contents under a new id; the relay brings the line to their receiver, if it is registered."""
        if secret is not None:
            raise BadRequest("the relay draws the secret itself; leave it out, or use --local", field="secret")
        names.require_id(id)
        sent = self._client.perform(calls.send(self._client.identity, agent_id, type, id, content))
        hint = f"{type} to {agent_id}"
        self._note(id, type, *_names(sent), "SENT", hint, sent.ptr, "Kept by the relay")
        return {
            "file_path": sent.ptr,
            "ptr": sent.ptr,
            "csv_message": sent.csv_message,
            "secret": sent.secret,
            "message_id": sent.message_id,
            "expires_at": sent.expires_at,
        }

    def receive(self, message: str) -> dict[str, Any]:
        """Return the contents that a line leads to."""
        line = lines.parse(message)
        read = self._client.perform(calls.receive(self._client.identity, str(line)))
        meta, content = _named(read.meta), msgspec.json.decode(read.content)
        notes = "Read and burned" if read.burned else "Read successfully"
        self._note(line.event_id, line.type, meta["sender"], meta["receiver"], "RECEIVED", "Read", read.ptr, notes)
        return {
            "type": line.type,
            "event_id": line.event_id,
            "ptr": read.ptr,
            "content": content,
            "secret": read.meta.secret,
            "full_data": {"meta": meta, "payload": {"content": content}},
        }

    def update(self, id: str, updates: dict[str, Any], next_id: str | None = None) -> Updated:
        """Merge updates into an event's contents, or into those of the next event, which is made if need be."""
        names.require_id(id)
        done = self._client.perform(calls.update(self._client.identity, id, updates, next_id))
        hint = f"Created pointer {done.ptr}"
        self._note(
            done.event_id,
            "CREATE_POINTER",
            _names(done)[0],
            "next_hop",
            "PREPARING",
            hint,
            done.ptr,
            "Prepared for next hop",
        )
        return Updated(done.ptr, done.csv_message)

    def cmp(self, id: str, secret: str | None = None) -> str:
        """Return the line that proves that an event was read."""
        done = self._client.perform(calls.cmp(self._client.identity, names.require_id(id), secret))
        self._note(id, rules.COMPLETION, *_names(done)[::-1], "COMPLETED", f"CMP generated for {id}")
        return done.cmp_message

    def complete(
        self, id: str, result: str = "", next_agent: str = "", next_id: str | None = None, secret: str | None = None
    ) -> Completed:
        """Write down a result, for the next event if one is named, and return the CMP, unless that is refused."""
        self._client.perform(calls.cmp(self._client.identity, names.require_id(id), secret, check=True))
        done = self.update(id, {"status": "completed", "result": result, "next_agent": next_agent}, next_id)
        return Completed(self.cmp(id, secret), done.csv_message)

    def verify(self, message: str) -> dict[str, Any]:
        """Verify a CMP; the relay answers only the sender of its event."""
        line = lines.parse(message)
        found = self._client.perform(calls.verify(self._client.identity, str(line)))
        status = {"ok": "VERIFIED", "repeat": "REPEATED"}.get(found.status, "VERIFICATION_FAILED")
        self._note(found.event_id, rules.COMPLETION, *_names(found)[::-1], status, f"CMP {found.status}")
        return _named(found)

    def cleanup(
        self,
        ttl_hours: int = rules.DEFAULT_TTL_HOURS,
        registry_ttl_hours: int = rules.DEFAULT_REGISTRY_TTL_HOURS,
    ) -> dict[str, Any]:
        """Let go of this agent's events that are over; on the relay every event has a time of its own."""
        done = self._client.perform(calls.clean_up(self._client.identity, registry_ttl_hours))
        hours = {"default_ttl_hours": ttl_hours, "registry_ttl_hours": registry_ttl_hours}
        return {"status": "ok", **msgspec.to_builtins(done), **hours}

    def _note(self, id: str, type: str, sender: str, receiver: str, status: str, hint: str, *more: str) -> None:
        with contextlib.suppress(OSError, BadRequest):  # then writing tells it
            make_private(self._log.folder.parent, may_be_link=True)
            make_private(self._log.folder)
        told = entry(self._clock(), id, type, sender, receiver, status, hint, *more)
        self._log.append({**told, PLACE: self._client.relay})


def _named(answer: EventMeta | EventVerified) -> dict[str, Any]:
    """Return an answer of the relay with names as sender and receiver, as a folder has them."""
    told: dict[str, Any] = msgspec.to_builtins(answer)
    sender, receiver = _names(answer)
    return {**told, "sender": sender, "receiver": receiver, "sender_id": answer.sender}


def _names(answer: Any) -> tuple[str, str]:
    """Return the names of sender and receiver. A relay of version 1.1 tells ids alone."""
    return answer.sender_name or answer.sender, answer.receiver_name or answer.receiver
