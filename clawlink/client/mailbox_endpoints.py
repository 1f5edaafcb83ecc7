"""The endpoints of an agent's mailbox: poll, settle, and the messages that could not be delivered.

As in ``endpoints``, each function takes the asking agent and its arguments, and returns a ``Call``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from clawlink.client.calls import (
    Batch,
    Call,
    DeadLetter,
    Identity,
    checked,
    claimed,
    number_of_seconds,
    read_message,
    reader,
    repeat_key,
    several,
    simple_call,
)
from clawlink.domain.limits import MAX_POLL_MESSAGES
from clawlink.errors import ClawLinkError, MethodNotAllowed, UnknownRoute
from clawlink.protocol import mailbox_paths, mailbox_replies, replies, requests

# The lease asked of a relay that cannot choose it itself, because its polls take no receipts.
_LEASE_SECONDS = 60.0

_read_polled = reader(mailbox_replies.Polled[msgspec.Raw])
_read_polled_and_acked = reader(mailbox_replies.PolledAndAcked[msgspec.Raw])
_read_dead = reader(mailbox_replies.DeadLetters[msgspec.Raw])


def poll(
    me: Identity,
    *,
    wait: float = 0.0,
    max: int | None = None,
    lease: float | None = 60.0,
    ack: Sequence[str] = (),
    nack: Sequence[str] = (),
    delay: float = 0.0,
) -> Call[Batch]:
    """Claim up to ``max`` messages for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

    With ``lease=None`` the relay's own lease counts (``--lease``); an older relay is asked for 60 seconds.
    A message without an ack before the end of its lease is handed out again. A poll can carry receipts of earlier
    messages: ``ack`` settles them and ``nack`` gives them back, due again after ``delay`` seconds, before the wait
    begins. This saves the requests of ``client.ack`` and ``client.nack``. The list that comes back has their
    ``results``.
    """
    wait = number_of_seconds(wait, "wait")
    most = None if max is None else min(max, MAX_POLL_MESSAGES)
    ack, nack = several(ack, "ack"), several(nack, "nack")
    if lease is not None and not (ack or nack):
        return _poll_alone(me, wait, most, lease, ())
    ask = {"ack": ack, "nack": nack, "delay": delay, "wait": wait, "max": most, "lease": lease}
    body = checked(ask, requests.PollAndAck)

    def otherwise(error: ClawLinkError) -> Call[Any] | None:
        if not isinstance(error, MethodNotAllowed | UnknownRoute):
            return None
        me.acks_apart = True
        return _apart(me, body)

    def read(reply: bytes) -> Batch:
        polled = _read_polled_and_acked(reply)
        return _batch(polled.messages, polled.deliveries, polled.results)

    if me.acks_apart:
        return _apart(me, body)
    call = simple_call(mailbox_paths.POLL_AND_ACK, body, read=read, wait=wait, agent_id=me.require())
    return dataclasses.replace(call, otherwise=otherwise)


def _poll_alone(
    me: Identity, wait: float, most: int | None, lease: float, results: Sequence[mailbox_replies.Settled]
) -> Call[Batch]:
    def read(body: bytes) -> Batch:
        polled = _read_polled(body)
        return _batch(polled.messages, polled.deliveries, results)

    query = {"wait": wait, "max": most, "lease": lease}
    return simple_call(mailbox_paths.POLL, query=query, read=read, wait=wait, agent_id=me.require())


def _batch(
    messages: Sequence[msgspec.Raw],
    deliveries: Sequence[mailbox_replies.Lease],
    results: Sequence[mailbox_replies.Settled],
) -> Batch:
    batch = Batch(claimed(raw, held) for raw, held in zip(messages, deliveries, strict=True))
    batch.results = results
    return batch


def _apart(me: Identity, asked: requests.PollAndAck) -> Call[Batch]:
    """Do the same in a request each, for a relay that does not take receipts with a poll."""
    settle = [ack(me, asked.ack)] if asked.ack else []
    settle += [nack(me, asked.nack, delay=asked.delay)] if asked.nack else []
    # A poll alone without a lease would settle what it brings.
    lease = _LEASE_SECONDS if asked.lease is None else asked.lease
    return _one_by_one(settle, (), lambda results: _poll_alone(me, asked.wait, asked.max, lease, results))


def _one_by_one(
    settle: Sequence[Call[mailbox_replies.Receipted]],
    results: Sequence[mailbox_replies.Settled],
    then: Callable[[Sequence[mailbox_replies.Settled]], Call[Any]],
) -> Call[Any]:
    """Return a call that settles receipts in one request after the other, and collects all results."""
    if not settle:
        return then(results)
    return dataclasses.replace(settle[0], follow=lambda done: _one_by_one(settle[1:], [*results, *done.results], then))


def ack(me: Identity, receipts: Sequence[str] = (), *, tasks: Sequence[str] = ()) -> Call[mailbox_replies.Receipted]:
    """Settle leased messages, and messages about the end of ``tasks``, by ids of tasks that this agent delegated.

    An agent that has read a result with ``task`` or ``wait_for`` names the task, and ``poll`` does not bring it again.
    """
    ask = {
        "agent_id": me.require(),
        "receipts": several(receipts, "receipts") or None,
        "tasks": several(tasks, "tasks") or None,
    }
    return simple_call(mailbox_paths.ACK, checked(ask, requests.Ack))


def nack(me: Identity, receipts: Sequence[str], *, delay: float = 0.0) -> Call[mailbox_replies.Receipted]:
    """Give leased messages back, to be due again after ``delay`` seconds."""
    return simple_call(mailbox_paths.NACK, requests.Nack(me.require(), several(receipts, "receipts"), delay))


def extend(me: Identity, receipts: Sequence[str], *, lease: float = 60.0) -> Call[mailbox_replies.Receipted]:
    """Lengthen leases to ``lease`` seconds from now."""
    return simple_call(mailbox_paths.EXTEND, requests.Extend(me.require(), several(receipts, "receipts"), lease))


def dead_letters(me: Identity, *, limit: int = 100, after: str | None = None) -> Call[list[DeadLetter]]:
    """List the messages that were handed out too often, oldest first."""

    def read(body: bytes) -> list[DeadLetter]:
        found = []
        for letter in _read_dead(body).dead_letters:
            message, fields = read_message(letter.message)
            found.append(
                DeadLetter(
                    message,
                    letter.message_id,
                    letter.from_agent,
                    letter.attempts,
                    letter.stored_at,
                    letter.dead_at,
                    letter.kept_until,
                    fields,
                )
            )
        return found

    query = {"limit": limit, "after": after}
    return simple_call(mailbox_paths.DEAD_LETTERS, query=query, read=read, agent_id=me.require())


def redrive(me: Identity, message_ids: Sequence[str] | None = None) -> Call[mailbox_replies.Redriven]:
    """Put the named dead letters back, or all."""
    return simple_call(mailbox_paths.REDRIVE, requests.Redrive(me.require(), several(message_ids, "message_ids")))


def message(
    me: Identity, message_id: str, *, wait: float = 0.0, until: str = "acked"
) -> Call[mailbox_replies.MessageStatus]:
    """Tell how far a message came that this agent sent or was sent.

    With ``wait``, in seconds, once it is ``until`` (delivered, acked, answered), or will not be any more.
    """
    checked({"until": until}, requests.MessageQuery)
    wait = number_of_seconds(wait, "wait")
    query = {"agent_id": me.require(), "wait": wait or None, "until": until if wait else None}
    return simple_call(mailbox_paths.MESSAGE, query=query, wait=wait, message_id=message_id)


def unread(
    me: Identity, *, wait: float = 0.0, since: int | None = None, limit: int = 20, words: int = 0
) -> Call[mailbox_replies.Unread]:
    """Show the messages that wait in this agent's mailbox. It leases nothing, and is no sign of life.

    With ``wait``, in seconds, once a message is newer than ``since``, the ``latest`` of the look before. ``words``
    is the number of first characters that it shows of each text.
    """
    wait = number_of_seconds(wait, "wait")
    query = {"wait": wait or None, "since": since, "limit": limit, "words": words or None}
    return simple_call(mailbox_paths.UNREAD, query=query, wait=wait, agent_id=me.require())


def woken(
    me: Identity, message_id: str, adapter: str, result: str, *, note: str | None = None, key: str | None = None
) -> Call[replies.WakeStored]:
    """Store that this agent's program tried to wake it for a message: started, queued, failed or given_up."""
    ask = {
        "agent_id": me.require(),
        "adapter": adapter,
        "result": result,
        "note": note,
        "idempotency_key": repeat_key(key),
    }
    return simple_call(mailbox_paths.WOKEN, checked(ask, requests.Woken), message_id=message_id)
