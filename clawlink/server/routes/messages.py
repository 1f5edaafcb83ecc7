"""Routes about messages: send, claim, settle, ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from clawlink.domain.delivery import Delivery, message_id
from clawlink.domain.limits import DEFAULT_POLL_MESSAGES, MAX_LIST_LENGTH, MAX_POLL_MESSAGES
from clawlink.domain.task import Event
from clawlink.errors import RelayFull
from clawlink.protocol import paths, replies, requests
from clawlink.relay.clock import iso
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.relay.settling import Settling
from clawlink.server.leases import acked, lease_of, receipted
from clawlink.server.reply import Reply, reply, tell_by_the_way, write
from clawlink.server.wire import Request, Routes, acting, acting_anyway, asking, parameter, read, read_query, was_reset

routes = Routes()
_RESET_SECONDS = 0.05


@routes.serves(paths.SEND)
async def send(relay: Relay, request: Request) -> Reply:
    """Store a plain message for its recipient."""
    ask = await read(request, requests.Send)
    sender = await acting(relay, request, ask.from_agent, "from_agent")
    return reply(await relay.messages.send(sender, ask))


@routes.serves(paths.MESSAGE)
async def message(relay: Relay, request: Request) -> Reply:
    """Tell how far a message came."""
    ask = read_query(request, requests.MessageQuery)
    asker = await asking(relay, request, ask.agent_id)
    return reply(await relay.messages.status(asker, parameter(request, "message_id"), ask))


@routes.serves(paths.POLL)
async def poll(relay: Relay, request: Request) -> Reply | web.StreamResponse:
    """Lease messages and hand them out. What could not be written is due again at once.

    Without ``lease`` in the query, as in ClawLink 1.0.x, what was written to a live connection is settled.
    """
    ask = read_query(request, requests.PollQuery)
    agent_id = parameter(request, "agent_id")
    agent, new = await acting_anyway(relay, request, agent_id, "agent_id", plain=ask.lease is None)
    taken, earlier = await relay.claims.claim(
        agent,
        limit=ask.max or (MAX_POLL_MESSAGES if ask.lease is None else DEFAULT_POLL_MESSAGES),
        wait=ask.wait,
        lease=ask.lease or relay.limits.lease,
        # The agent may leave while its poll waits, or be claimed with a key that this poll does not have.
        tick=lambda: acting(relay, request, agent_id, "agent_id"),
    )
    answer = _polled(taken, earlier, new=new)
    if not taken:
        return answer
    return await _hand_over(request, answer, relay.settling, agent.id, taken, settle=ask.lease is None)


def _polled(taken: Sequence[Delivery], earlier: Mapping[str, Sequence[Event]], *, new: bool) -> Reply:
    leases = [lease_of(d, earlier) for d in taken]
    polled = replies.Polled([msgspec.Raw(d.body) for d in taken], len(taken), leases)
    return reply(tell_by_the_way(polled, new))


async def _hand_over(
    request: Request, answer: Reply, settling: Settling, agent_id: str, taken: Sequence[Delivery], *, settle: bool
) -> web.StreamResponse:
    """Write the reply; then settle the leases if asked to, or undo them if nobody was there to read it.

    To be settled, a reply must outlast a moment in which its connection is not reset: that is what becomes of one
    whose reader dies without having read it. A reader that is done closes it, and needs not be waited for.
    """
    receipts = [receipt(str(d.receipt), d.id) for d in taken]
    alive = False
    try:
        response = await write(request, answer)
        await request.writer.drain()
        if settle:
            await asyncio.sleep(0)  # the loop looks at what has come: a hang-up from before the reply, perhaps
        alive = request.transport is not None and not request.transport.is_closing()
        if settle and alive:
            await asyncio.sleep(_RESET_SECONDS)
    except (asyncio.CancelledError, ConnectionError, RelayFull):
        read = settle and alive and not was_reset(request)
        await asyncio.shield(
            settling.ack(agent_id, receipts, for_good=True) if read else settling.release(agent_id, receipts)
        )
        raise
    if not alive:
        await settling.release(agent_id, receipts)
    elif settle:
        await asyncio.shield(settling.ack(agent_id, receipts, for_good=True))
    return response


@routes.serves(paths.ACK)
async def ack(relay: Relay, request: Request) -> Reply:
    """Settle messages. Repeating it is harmless."""
    ask = await read(request, requests.Ack)
    agent = await acting(relay, request, ask.agent_id, "agent_id")
    return reply(await acked(relay, agent.id, ask))


@routes.serves(paths.NACK)
async def nack(relay: Relay, request: Request) -> Reply:
    """Give leased messages back."""
    ask = await read(request, requests.Nack)
    agent = await acting(relay, request, ask.agent_id, "agent_id")
    return reply(receipted(await relay.settling.nack(agent.id, ask.receipts, ask.delay), "nacked"))


@routes.serves(paths.EXTEND)
async def extend(relay: Relay, request: Request) -> Reply:
    """Lengthen leases."""
    ask = await read(request, requests.Extend)
    agent = await acting(relay, request, ask.agent_id, "agent_id")
    return reply(receipted(await relay.settling.extend(agent.id, ask.receipts, ask.lease), "extended"))


@routes.serves(paths.DEAD_LETTERS)
async def dead_letters(relay: Relay, request: Request) -> Reply:
    """List dead letters."""
    agent = await acting(relay, request, parameter(request, "agent_id"), "agent_id")
    ask = read_query(request, requests.ListQuery)
    page = await relay.mailbox.dead_letters(agent.id, ask.after, ask.limit)
    letters = [
        replies.DeadLetter(
            message_id(d),
            d.sender,
            d.attempts,
            iso(d.stored_at),
            iso(d.settled_at or 0.0),
            iso(d.ends_at),
            msgspec.Raw(d.body),
        )
        for d in page.records
    ]
    return reply(replies.DeadLetters(letters, len(letters), page.after))


@routes.serves(paths.REDRIVE)
async def redrive(relay: Relay, request: Request) -> Reply:
    """Put dead letters back."""
    ask = await read(request, requests.Redrive)
    agent = await acting(relay, request, ask.agent_id, "agent_id")
    back = await relay.mailbox.redrive(agent.id, ask.message_ids, MAX_LIST_LENGTH)
    return reply(replies.Redriven(back, len(back)))
