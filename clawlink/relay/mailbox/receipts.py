"""Receipts and leases as the wire has them: the lease of each message, and the result of each receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, message_id
from clawlink.domain.task import Event
from clawlink.protocol import requests
from clawlink.protocol.mailbox_replies import Lease, Receipted, Settled
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.acks import Acks, Known, Outcome
from clawlink.relay.tasks.views import reported
from clawlink.relay.timestamps import StoppableTime


class Receipts:
    """Settles messages by their receipts, with a result for each."""

    def __init__(self, acks: Acks, time: StoppableTime) -> None:
        self._acks = acks
        self._time = time

    async def ack(self, agent: Agent, ask: requests.Ack, known: Known | None = None) -> Receipted:
        """Settle messages: by receipts, and by tasks, whose ids stand in place of receipts. A repeat is harmless."""
        outcomes: list[Outcome] = []
        if ask.receipts is not None:
            outcomes += await self._acks.ack(agent.id, ask.receipts, known=known)
        if ask.tasks is not None:
            outcomes += await self._acks.ack_ends(agent.id, ask.tasks)
        return receipted(outcomes, "acked", self._time)

    async def nack(self, agent: Agent, ask: requests.Nack, known: Known | None = None) -> Receipted:
        """Give leased messages back."""
        return receipted(await self._acks.nack(agent.id, ask.receipts, ask.delay, known=known), "nacked", self._time)

    async def extend(self, agent: Agent, ask: requests.Extend, known: Known | None = None) -> Receipted:
        """Lengthen leases."""
        return receipted(
            await self._acks.extend(agent.id, ask.receipts, ask.lease, known=known), "extended", self._time
        )


def receipted(outcomes: Sequence[Outcome], done: str, time: StoppableTime) -> Receipted:
    """Return the result of each receipt; ``done`` is the status of a receipt that took effect."""
    results, count = [], 0
    for o in outcomes:
        if o.message_id is None:
            why = ("unknown", None) if o.error is None else (o.error.code, o.error.message)
            results.append(Settled(o.receipt, "", *why))
        else:
            until = time.iso_or_none(o.held_until) if done == "extended" else None
            results.append(Settled(o.receipt, o.message_id, done, lease_expires_at=until))
            count += 1
    return Receipted(results, count)


def lease_of(d: Delivery, earlier: Mapping[str, Sequence[Event]], time: StoppableTime) -> Lease:
    """Return the delivery of a claimed message; ``earlier`` has the earlier reports on tasks, by id."""
    return Lease(
        message_id(d),
        receipt(str(d.receipt), d.id),
        d.attempts,
        time.iso(d.visible_at),
        reported(earlier[d.id], time) if d.id in earlier else None,
    )
