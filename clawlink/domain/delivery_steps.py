"""The steps of a message in a mailbox.

Each function takes a delivery and the time and returns the delivery to store next, or raises.

One number drives it all: a pending delivery is due once ``visible_at <= now``. A lease, a delay and a lapse only move
that number, so nothing has to run for a message to be handed out again.

    pending --lease--> pending (leased: visible later, attempts + 1, new receipt)
    leased  --ack----> acked        --lapse, nack, release--> due again
    leased  --extend-> leased
    pending --its time to live is over----------> expired
    pending --leased once too often-------------> dead     --redrive--> pending
"""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain.delivery import ACKED, DEAD, PENDING, AttemptEnd, Delivery, State, due, require_receipt
from clawlink.domain.wake import Wake, added
from clawlink.errors import LeaseLost


def lease(
    d: Delivery,
    *,
    receipt: str,
    now: float,
    seconds: float,
    max_attempts: float,
    keep: float,
    key_hash: str | None = None,
) -> Delivery:
    """Lease the message until ``now + seconds``.

    Expire it if its time is over, make it a dead letter if it is out of attempts.

    A leased message lives at least as long as its lease. A settled result is kept for ``keep`` seconds. ``key_hash`` is
    the hash of the reader's key. Raises LeaseLost if the delivery is not due, because another claim was faster.
    """
    if not due(d, now):
        raise LeaseLost(f"message {d.id} is not due")
    if d.expires_at <= now:
        return expire(d, now=now, keep=keep)
    if d.attempts >= max_attempts:
        return bury(d, now=now, keep=keep)
    return replace(
        d,
        version=d.version + 1,
        attempts=d.attempts + 1,
        receipt=receipt,
        visible_at=now + seconds,
        expires_at=max(d.expires_at, now + seconds),
        delivered_at=now,
        reader_key=key_hash,
        ended=None,
    )


def lease_task(
    d: Delivery,
    *,
    by: str,
    receipt: str,
    now: float,
    seconds: float,
    alone: bool,
    key_hash: str | None = None,
) -> Delivery:
    """Lease a due task to the agent ``by`` with this key. The task is neither past its time nor out of attempts.

    ``alone`` is True while the task has no record of its own.
    """
    return replace(
        d,
        version=d.version + 1,
        attempts=d.attempts + 1,
        receipt=receipt,
        visible_at=now + seconds,
        delivered_at=now,
        has_record=not alone,
        holder=None if by == d.mailbox else by,
        lease=seconds,
        reader_key=key_hash,
        ended=None,
    )


def ack(d: Delivery, *, receipt: str, now: float, keep: float) -> Delivery:
    """Settle the message for good. Repeating it with the same receipt changes nothing.

    A lapsed lease still counts until another claim of the message: the receipt decides, not the clock.
    """
    if d.state is ACKED and d.receipt == receipt:
        return d
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, state=ACKED, settled_at=now, expires_at=now + keep)


def ack_unread(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Settle a message that its recipient has read in another way. Raises LeaseLost while a reader holds it."""
    if d.state is ACKED:
        return d
    if not due(d, now):
        raise LeaseLost(f"message {d.id} is held by a reader at this moment, or settled", current=d.state.value)
    delivered_at = d.delivered_at or now
    return replace(
        d, version=d.version + 1, state=ACKED, delivered_at=delivered_at, settled_at=now, expires_at=now + keep
    )


def ack_task(d: Delivery, *, receipt: str, now: float, until: float) -> Delivery:
    """Note that its holder has the task, and keeps it until ``until`` if no sign of life lengthens that."""
    if d.state is ACKED and d.receipt == receipt:
        return d
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, state=ACKED, settled_at=now, visible_at=max(d.visible_at, until))


def nack(d: Delivery, *, receipt: str, now: float, delay: float, end: AttemptEnd = AttemptEnd.GIVEN_BACK) -> Delivery:
    """Give the message back, to be due again after ``delay`` seconds. The attempt counts."""
    require_receipt(d, receipt)
    return replace(d, version=d.version + 1, receipt=None, visible_at=now + delay, ended=end)


def release(d: Delivery, *, receipt: str, now: float) -> Delivery:
    """Release a lease whose message never left the relay: due again at once, and the attempt does not count."""
    require_receipt(d, receipt)
    attempts = d.attempts - 1
    return replace(
        d,
        holder=None,
        version=d.version + 1,
        receipt=None,
        visible_at=now,
        attempts=attempts,
        delivered_at=d.delivered_at if attempts else None,
    )


def extend(d: Delivery, *, receipt: str, now: float, seconds: float) -> Delivery:
    """Lengthen the lease to ``now + seconds``; it is never shortened."""
    require_receipt(d, receipt)
    until = max(d.visible_at, now + seconds)
    return replace(d, version=d.version + 1, visible_at=until, expires_at=max(d.expires_at, until))


def extend_task(d: Delivery, *, receipt: str, now: float, seconds: float) -> Delivery:
    """Lengthen the hold on a task to ``now + seconds``, also after the ack; it is never shortened."""
    if d.state is not ACKED or d.receipt != receipt:
        require_receipt(d, receipt)
    return replace(d, version=d.version + 1, visible_at=max(d.visible_at, now + seconds))


def with_record(d: Delivery) -> Delivery:
    """Return the delivery, changed in the same step already, as that of a task that has a record now."""
    return replace(d, has_record=True, holder=None)


def expire(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Settle a message that no reader took within its time to live."""
    return replace(d, version=d.version + 1, state=State.EXPIRED, receipt=None, settled_at=now, expires_at=now + keep)


def bury(d: Delivery, *, now: float, keep: float) -> Delivery:
    """Make a dead letter of a message that was handed out too often."""
    ended = AttemptEnd.LAPSED if d.ended is None and d.receipt is not None else d.ended
    return replace(
        d, version=d.version + 1, state=DEAD, receipt=None, settled_at=now, expires_at=now + keep, ended=ended
    )


def redrive(d: Delivery, *, now: float, ttl: float) -> Delivery:
    """Put a dead letter back at its old place, with all its attempts and a new time to live; a deadline stands."""
    if d.state is not DEAD:
        raise LeaseLost(f"message {d.id} is not a dead letter", current=d.state.value)
    return replace(
        d,
        version=d.version + 1,
        state=PENDING,
        attempts=0,
        ended=None,
        visible_at=now,
        settled_at=None,
        expires_at=d.deadline_at or now + ttl,
    )


def placeholder(d: Delivery, *, keep: float) -> Delivery:
    """Return a message that is settled from the start: no reader gets it, but its id is taken."""
    return replace(d, state=ACKED, settled_at=d.stored_at, expires_at=d.stored_at + keep)


def answered(d: Delivery, *, now: float) -> Delivery:
    """Note that the recipient has answered the message. Only the first answer counts."""
    return d if d.answered_at is not None else replace(d, version=d.version + 1, answered_at=now)


def woken(d: Delivery, wake: Wake) -> Delivery:
    """Note that the reader's program tried to wake it for the message. Nothing else about the message changes."""
    wakes = added(d.wakes, wake)
    return d if wakes is d.wakes else replace(d, version=d.version + 1, wakes=wakes)


def postpone(d: Delivery, until: float) -> Delivery:
    """Leave the task with its holder, which has shown signs of life, until ``until``."""
    return replace(d, version=d.version + 1, visible_at=max(d.visible_at, until))


def beside_record(d: Delivery, until: float, *, expires_at: float) -> Delivery:
    """Go on as the delivery of a task that has a record now, held until ``until`` and living until ``expires_at``."""
    return replace(d, version=d.version + 1, has_record=True, visible_at=until, expires_at=expires_at)


def take_back(d: Delivery, *, now: float, keep_receipt: bool) -> Delivery:
    """Take a task from its holder, also after the ack: due at once."""
    return replace(
        d,
        version=d.version + 1,
        has_record=True,
        state=PENDING,
        settled_at=None,
        visible_at=now,
        holder=None,
        receipt=d.receipt if keep_receipt else None,
        ended=AttemptEnd.TAKEN_BACK if d.state is ACKED else AttemptEnd.LAPSED,
    )


def supersede(d: Delivery, body: bytes, *, now: float, ttl: float) -> Delivery | None:
    """Replace an unread notice by newer news at the same place; None if it has been read or is being read."""
    if d.state is not PENDING or d.attempts or d.merge is None:
        return None
    return replace(d, version=d.version + 1, body=body, expires_at=now + ttl)
