"""The clients: each is an agent of the relay, which the door registers and speaks for.

The relay's token is one client, ``a2a``; each credential of the operator's file is another, ``a2a/NAME``. A client sees
the tasks that it asked for, and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging

from aiohttp import hdrs
from msgspec.structs import replace

from clawlink.domain.agent import Agent, forms
from clawlink.domain.delivery import AttemptEnd
from clawlink.doors.a2a.wire.clients import CLIENTS, hash_of
from clawlink.doors.a2a.wire.list_file import Watch
from clawlink.errors import ClawLinkError, NotAuthenticated, UnknownAgent
from clawlink.protocol import requests
from clawlink.relay.ids import receipt
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.relay import Relay
from clawlink.server.request import Request

_log = logging.getLogger("clawlink.a2a")

OWN = "a2a"
_BEFORE = OWN + "/"
# All clients count as those of one address, for fair shares.
_SHARED = "a2a"
_TOUCH_SECONDS = 20.0
_CREDIT = 64
_LEASE_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_PLAIN = b'{"type":"message"'
_NO_MAILBOX = "a client of A2A reads no messages; answer its task with respond"


def reserved(name: str) -> str | None:
    """Describe the id or the name of a client, or a look-alike of it; None for any other."""
    if any(form == OWN or form.startswith(_BEFORE) for form in forms(name)):
        return "kept for clients of A2A, which the relay registers itself"
    return None


class Callers:
    """The clients: their credentials, their agents, and the readers of the agents' mailboxes."""

    def __init__(self, relay: Relay, tokens: list[str], file: str | None) -> None:
        self._relay = relay
        self._tokens = {hash_of(token) for token in tokens}
        self._file = file
        self._names: dict[str, str] = {}  # by the hash of the credential
        self._watch = None if file is None else Watch(file)
        self._agents: dict[str, Agent] = {}
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._touched = 0.0
        relay.agents.reserve(reserved)

    @property
    def bearer(self) -> bool:
        """Return True if a request needs a token."""
        return bool(self._tokens)

    @property
    def count(self) -> int:
        """How many clients have a credential of their own."""
        return len(self._names)

    async def start(self) -> None:
        """Register the agents of all clients."""
        await self._agent(OWN)
        await self._reload()

    async def upkeep(self, now: float) -> None:
        """Read the file again once it has changed, and keep the agents online."""
        await self._reload()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            for id in list(self._agents):
                await self._agent(id)
                await self._relay.agents.touch(id)

    async def close(self) -> None:
        """Stop reading the mailboxes."""
        for reader in self._readers.values():
            reader.cancel()
        if self._readers:
            await asyncio.wait(self._readers.values())

    async def asking(self, request: Request) -> Agent:
        """Return the agent of the client that asks. Raises NotAuthenticated."""
        agent = await self._agent(self._id_of(request))
        return agent if request.block is None else replace(agent, address=request.block)

    def known(self, request: Request) -> bool:
        """Return True if the request has the right to see agents; False without a token. Raises NotAuthenticated."""
        if self._tokens and hdrs.AUTHORIZATION not in request.headers:
            return False
        self._id_of(request)
        return True

    def _id_of(self, request: Request) -> str:
        scheme, _, rest = request.headers.get(hdrs.AUTHORIZATION, "").strip().partition(" ")
        given = rest.strip(" ") if scheme.lower() == "bearer" else ""
        hashed = hash_of(given) if given else ""
        name = self._names.get(hashed)
        if name is not None:
            return _BEFORE + name
        if hashed in self._tokens or not (self._tokens or (given and self._names)):
            return OWN
        raise NotAuthenticated(
            "the token is neither that of this relay nor a client's: its operator makes one with "
            "'clawlink a2a client add NAME'"
            if given
            else "this relay asks for a token: send the header 'Authorization: Bearer <token>'; its operator makes one "
            "with 'clawlink a2a client add NAME'"
        )

    async def _reload(self) -> None:
        if self._file is None or self._watch is None:
            return
        try:
            if not self._watch.changed():
                return
            clients = CLIENTS.read(self._file)
        except (OSError, ClawLinkError) as error:  # the clients that are known stay
            _log.warning("the file of A2A clients cannot be read; the clients stay", extra={"reason": str(error)})
            return
        self._names = {client.sha256: client.name.casefold() for client in clients}
        for name in self._names.values():
            try:
                await self._agent(_BEFORE + name)
            except ClawLinkError as error:
                _log.warning("a client of A2A was refused", extra={"client": name, "reason": error.message})

    async def _agent(self, id: str) -> Agent:
        """Return a client's agent, registered if it is not. Raises the errors of a register."""
        known = self._agents.get(id)
        if known is not None:
            with contextlib.suppress(UnknownAgent):
                found = await self._relay.agents.resolve(id)
                if found.id == id and found.key_hash == known.key_hash:
                    self._agents[id] = found
                    return found
        key = self._key(id)
        ask = requests.Register(
            agent_id=id,
            name=id,
            description="A client of A2A. It takes no messages; answer its tasks with respond.",
            subscriptions=[],
            claim=True,
            notices=False,
        )
        done = await self._relay.agents.register(
            ask, machine=OWN, agent_key=key, address=_SHARED, by_operator=True, by_door=True
        )
        self._agents[id] = done.agent
        if id not in self._readers:
            self._readers[id] = asyncio.create_task(self._read(done.agent))
        return done.agent

    def _key(self, id: str) -> str:
        """Return the key of a client's agent: the same after a restart, if the relay's secret is."""
        return hmac.new(self._relay.core.secret, f"a2a client {id}".encode(), hashlib.sha256).hexdigest()

    async def _read(self, agent: Agent) -> None:
        """Settle the messages of a client's mailbox: the task already has their contents."""
        consumer = self._relay.consumer(agent, lease=_LEASE_SECONDS, credit=_CREDIT)
        try:
            while not self._relay.draining:
                try:
                    await self._settle(agent, consumer)
                except UnknownAgent:  # it is registered again by the next request
                    await asyncio.sleep(_RETRY_SECONDS)
                except Exception:
                    _log.exception("reading the mailbox of an A2A client failed; it goes on")
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            await asyncio.shield(consumer.close())

    async def _settle(self, agent: Agent, consumer: Consumer) -> None:
        touch = self._relay.agents.touch
        taken, _ = await consumer.next(agent, tick=lambda: touch(agent.id))
        plain = [receipt(str(d.receipt), d.id) for d in taken if d.body.startswith(_PLAIN)]
        news = [receipt(str(d.receipt), d.id) for d in taken if not d.body.startswith(_PLAIN)]
        if news:
            await self._relay.acks.ack(agent.id, news)
            consumer.settled(news)
        if plain:
            await self._relay.acks.nack(agent.id, plain, _RETRY_SECONDS, note=_NO_MAILBOX, end=AttemptEnd.UNDELIVERABLE)
            consumer.settled(plain)
