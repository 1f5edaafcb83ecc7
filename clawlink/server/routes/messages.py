"""Routes that claim messages."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial

import msgspec

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import DEFAULT_POLL_MESSAGES, MAX_POLL_MESSAGES
from clawlink.domain.task import Event
from clawlink.protocol import mailbox_paths, mailbox_replies, requests
from clawlink.relay.mailbox.long_poll import Taken
from clawlink.relay.mailbox.receipts import lease_of, receipted
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, Routes, acting_anyway, acting_on, key_of, parameter, read, read_query
from clawlink.server.response import Reply, reply, tell_by_the_way

routes = Routes()


@routes.serves(mailbox_paths.POLL)
async def poll(relay: Relay, request: Request) -> Reply:
    """Lease messages and hand them out. If the reply cannot be written, they are due again at once.

    Without ``lease`` in the query, as in ClawLink 1.0.x, a read reply settles them.
    """
    ask = read_query(request, requests.PollQuery)
    agent_id = parameter(request, "agent_id")
    agent, new = await acting_anyway(relay, request, agent_id, "agent_id", plain=ask.lease is None)
    lease = ask.lease or relay.limits.lease
    most = ask.max or (MAX_POLL_MESSAGES if ask.lease is None else DEFAULT_POLL_MESSAGES)
    taken, earlier = await _claim(relay, request, agent, most=most, wait=ask.wait, lease=lease)
    polled = mailbox_replies.Polled(*_shown(relay, taken, earlier))
    out = relay.handed_out(agent, taken, lease=lease, until_read=ask.lease is None) if taken else None
    return reply(tell_by_the_way(polled) if new else polled, out)


@routes.serves(mailbox_paths.POLL_AND_ACK)
async def poll_and_ack(relay: Relay, request: Request) -> Reply:
    """Settle messages, then lease the next. Settled messages stay settled, also if the rest fails."""
    ask = await read(request, requests.PollAndAck)
    given = [*(ask.ack or ()), *(ask.nack or ())]
    agent, known = await acting_on(relay, request, parameter(request, "agent_id"), "agent_id", given)
    results: list[mailbox_replies.Settled] = []
    if ask.ack:
        results += receipted(await relay.acks.ack(agent.id, ask.ack, known=known), "acked", relay.time).results
    if ask.nack:
        outcomes = await relay.acks.nack(agent.id, ask.nack, ask.delay, known=known)
        results += receipted(outcomes, "nacked", relay.time).results
    if results and relay.stopped:
        return reply(mailbox_replies.PolledAndAcked([], 0, [], results))
    if ask.wait:
        request.stay()  # not before: a client that has gone by now settles its messages all the same
    lease = ask.lease or relay.limits.lease
    taken, earlier = await _claim(
        relay, request, agent, most=ask.max or DEFAULT_POLL_MESSAGES, wait=ask.wait, lease=lease
    )
    out = relay.handed_out(agent, taken, lease=lease, until_read=False) if taken else None
    return reply(mailbox_replies.PolledAndAcked(*_shown(relay, taken, earlier), results), out)


def _claim(relay: Relay, request: Request, agent: Agent, *, most: int, wait: float, lease: float) -> Awaitable[Taken]:
    """Lease messages. An agent may leave while its poll waits, or be claimed with a key that this poll lacks."""
    tick = partial(relay.agents.acting, agent.id, key_of(request), field="agent_id") if wait else None
    return relay.claims.claim(agent, limit=most, wait=wait, lease=lease, tick=tick)


def _shown(
    relay: Relay, taken: Sequence[Delivery], earlier: Mapping[str, Sequence[Event]]
) -> tuple[list[msgspec.Raw], int, list[mailbox_replies.Lease]]:
    """Return the messages of a claim, their number, and their leases, as a reply has them."""
    bodies, leases = [], []
    for d in taken:
        bodies.append(msgspec.Raw(d.body))
        leases.append(lease_of(d, earlier, relay.time))
    return bodies, len(bodies), leases
