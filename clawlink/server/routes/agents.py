"""Routes about agents."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.agent import Presence
from clawlink.errors import UnknownAgent
from clawlink.protocol import paths, replies, requests
from clawlink.relay.agents.directory import card
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, Routes, acting, read, read_query
from clawlink.server.response import Reply, reply

routes = Routes()
_log = logging.getLogger("clawlink.server")
_HEAD = b'{"agents":['
_AGENTS_A_PIECE = 1000


@routes.serves(paths.REGISTER)
async def register(relay: Relay, request: Request) -> Reply:
    """Register an agent, or resume one."""
    ask = await read(request, requests.Register)
    done = await relay.agents.register(
        ask,
        machine=request.machine,
        agent_key=request.headers.get(KEY_HEADER),
        address=request.block,
        by_operator=request.by_operator,
    )
    return reply(
        replies.Registered(
            status="registered",
            agent=card(done.agent, Presence.ONLINE, relay.time),
            server_time=relay.time.stamp(),
            resumed=done.resumed,
            agent_key=done.agent_key,
            relay_key=done.relay_key,
        )
    )


@routes.serves(paths.CHALLENGE)
async def challenge(relay: Relay, request: Request) -> Reply:
    """Prove the identity of this relay to an agent with a relay key."""
    ask = await read(request, requests.Challenge)
    return reply(relay.prove(ask, address=request.reached_at, name=request.known_as))


@routes.serves(paths.DISCOVER)
async def discover(relay: Relay, request: Request) -> Reply:
    """List agents; each was encoded when it last changed."""
    ask = read_query(request, requests.DiscoverQuery)
    found, after = await relay.agents.discover(ask)
    facts = b'],"count":%d,"server_time":"%b"' % (len(found), relay.time.stamp().encode())
    if relay.stopped:
        facts += b',"stopped_at":"%b"' % (relay.stops.since or "").encode()
    tail = facts + (b"}" if ask.limit is None else b',"next":%b}' % msgspec.json.encode(after))
    if not found:
        return Reply(_HEAD + tail)
    # Joined once: with thousands of agents, every further copy would cost more than all the rest.
    found[0] = _HEAD + found[0]
    found[-1] += tail
    pieces: list[bytes] = []
    for start in range(0, len(found), _AGENTS_A_PIECE):
        if start:
            await asyncio.sleep(0)
            found[start] = b"," + found[start]
        pieces.append(b",".join(found[start : start + _AGENTS_A_PIECE]))
    return Reply(pieces[0], more=pieces[1:])


@routes.serves(paths.HEARTBEAT)
async def heartbeat(relay: Relay, request: Request) -> Reply:
    """Record a sign of life."""
    ask = await read(request, requests.Heartbeat)
    try:
        agent = await acting(relay, request, ask.agent_id, "agent_id")
    except UnknownAgent:
        return reply(replies.Beat("unknown_agent"))
    await relay.agents.beat(agent.id)
    return reply(replies.Beat("ok"))
