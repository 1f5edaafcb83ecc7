"""The door: the shared parts of its connections and routes, and their addresses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from clawlink.domain.agent import Agent
from clawlink.doors.agentlink.server import http
from clawlink.doors.agentlink.server.checks import Checks, Envelopes
from clawlink.doors.agentlink.server.connection import Connection, serve
from clawlink.doors.agentlink.server.fan_out import FanOut
from clawlink.doors.agentlink.server.instances import Instance, Instances
from clawlink.doors.agentlink.server.members import Members
from clawlink.doors.agentlink.server.ownership import Ownership
from clawlink.doors.agentlink.server.records import INSTANCES, Following, Member, member_id
from clawlink.doors.agentlink.server.routing import Routing
from clawlink.doors.agentlink.server.sending import Sending
from clawlink.doors.agentlink.server.service import EXTEND_SECONDS
from clawlink.doors.agentlink.wire.files import RelayFile
from clawlink.doors.registry import OpenDoor
from clawlink.errors import RelayFull
from clawlink.protocol.endpoint import Endpoint
from clawlink.relay.relay import Relay
from clawlink.relay.time_slices import Turns
from clawlink.server.request import Handler
from clawlink.server.ws_connection import Websockets
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.agentlink")

# Signatures identify the client, so these two need no token: old clients have none.
SOCKET = Endpoint("agentlink", "GET", "/agentlink", "Agent Link's websocket.", None, open=True, text=True, stays=True)
SEND = Endpoint("agentlink_send", "POST", "/api/v1/send", "Send a message as an instance's agent.", None, open=True)
REGISTER = Endpoint("agentlink_register", "POST", "/api/v1/register", "Register an instance.", None)
MAX_CONNECTIONS = 100
_ELSEWHERE = "another relay has the old clients of this instance; connect again"


class AgentLinkServer(OpenDoor):
    """Agent Link in front of a relay. ``no_store`` refuses messages for agents that are not connected."""

    def __init__(
        self,
        relay: Relay,
        file: RelayFile,
        websockets: Websockets,
        *,
        wall: Callable[[], float],
        self_register: bool = False,
        no_store: bool = False,
    ) -> None:
        self.relay = relay
        self.websockets = websockets
        self.instances = Instances(file, relay, self_register=self_register)
        relay.agents.reserve(self.instances.own)
        self.checks = Checks(self.instances, wall, relay.core)
        self.routing: Routing[Connection] = Routing()
        self.members = Members(relay, self.instances, self._learned)
        self.ownership = Ownership(relay.core, self.members, used=self.routing.any_old, lost=self._lost)
        self.holders: dict[str, FanOut] = {}
        """By receipt, who holds a message that was written to old connections."""
        self.envelopes = Envelopes(relay.core.secret)
        self.sending = Sending(relay, self.checks, self.members, self.routing, self.envelopes, no_store=no_store)
        self._no_store = no_store
        self._connections: dict[Connection, Instance] = {}
        self.copies: dict[str, FanOut] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._goodbye: asyncio.Task[None] | None = None
        self._extending: asyncio.Task[None] | None = None
        self._following: Following | None = None

    def routes(self) -> Iterator[tuple[Endpoint, Handler]]:
        yield SOCKET, lambda relay, request: serve(self, request)
        yield SEND, lambda relay, request: http.send(self.sending, request)
        yield REGISTER, lambda relay, request: http.register(self.instances, request)

    async def start(self) -> None:
        """Register the agents of the operator's file, and log warnings for the operator."""
        self._extending = asyncio.create_task(self._extend())
        self._following = Following(self.relay.core, INSTANCES, lambda changed: self.instances.load())
        await self._following.loaded()
        for error in await self.members.start():
            _log.warning("an agent of the configuration was refused", extra={"reason": error.message})
        sharing = [instance.id for instance in self.instances.all() if instance.shares_secret]
        if len(sharing) > 1:
            _log.warning(
                "instances share one secret: each of them can sign as any other; give each its own",
                extra={"instances": sharing},
            )

    async def upkeep(self, now: float) -> None:
        """Begin to say goodbye once the relay shuts down; until then hold what is this relay's."""
        if self.relay.draining:
            if self._goodbye is None:
                self._goodbye = asyncio.create_task(self.close())
            return
        with contextlib.suppress(Failed):  # the store is away, which others tell; the next call goes on
            if self.relay.leads and self.checks.used is not None:
                await self.checks.used.forget()
            await self.ownership.upkeep()

    async def close(self) -> None:
        try:
            await asyncio.gather(*(c.say_goodbye() for c in list(self._connections)))
            while self._leaving:
                await asyncio.wait(self._leaving)
        finally:
            if self._extending is not None:
                self._extending.cancel()
            if self._following is not None:
                self._following.close()
            self.ownership.close()

    async def info(self) -> dict[str, Any]:
        return {"instances": len(self.instances.all()), "connections": len(self._connections)}

    # -- events of connections ---------------------------------------------------------------------------------------

    def require_room(self, instance: Instance) -> None:
        """Refuse a connection too many. Raises RelayFull."""
        count = self.routing.count(instance.id)
        if count >= MAX_CONNECTIONS:
            raise RelayFull(
                f"instance {instance.id!r} has {count} connections and may have no more",
                limit=MAX_CONNECTIONS,
                actual=count,
            )

    def joined(self, instance: Instance, connection: Connection) -> None:
        """Note a connection that has registered."""
        self._connections[connection] = instance
        self.routing.add(instance.id, connection)
        if connection.agent is None:
            self._came(instance.id, connection)
        else:
            connection.serve(self.members.agent(connection.agent))
            self._aim(connection.agent)

    async def spoke(self, instance: Instance, connection: Connection, agent: Agent) -> None:
        """Note that a connection has sent as an agent: an old one is known by that."""
        address = agent.id
        there = self._there(instance)
        was_stranger = not connection.spoken_for
        if self.routing.spoke(instance.id, connection, address) and connection.agent is None:
            # First of all: a read by the others no longer proves anything for this agent.
            self._aim(address)
            if was_stranger:
                self._went(instance.id, connection)
            await self.members.heard(agent)
            await self._expire(there)

    def _learned(self, member: Member) -> None:
        """Note how an agent is known, which another relay may have learned."""
        self.routing.know(member.address, named=member.named, heard=member.heard)
        self._aim(member.address)

    def _lost(self, instance_id: str) -> None:
        """End the old connections of an instance that another relay has taken."""
        for connection in self.routing.of(instance_id):
            if connection.agent is None:
                self._background(connection.send_away(_ELSEWHERE))

    async def _sure(self, address: str) -> bool:
        """Return True if all strangers that may be an agent are here, also by what other relays have learned."""
        if self.relay.core.peers is None:
            return True
        instance_id, _, agent_id = address.partition("/")
        await self.members.load(instance_id, [member_id(instance_id, agent_id)])
        return await self.ownership.holds(instance_id) and self.routing.readers(address).settles

    def _came(self, instance_id: str, connection: Connection) -> None:
        """Have a stranger read for each agent of its instance that no connection is known to be."""
        unread = []
        for address in self.members.of(instance_id):
            copies = self.copies.get(address)
            if copies is None:
                unread.append(address)
            elif copies.reads(connection):
                copies.came(connection)
        if unread:
            self._background(self._aim_all(unread))

    def _went(self, instance_id: str, connection: Connection) -> None:
        """Have one stranger less read, because it has ended or is known now."""
        read = [a for a in self.members.of(instance_id) if a in self.copies and not self.copies[a].knows_its_reader]
        for address in read:
            self.copies[address].went(connection)
        if read and not self.routing.strangers(instance_id):
            self._background(self._aim_all(read))

    async def _aim_all(self, addresses: Iterable[str]) -> None:
        """Decide again for many agents, with turns for others in between."""
        turns = Turns()
        closing = []
        for address in addresses:
            closing += self._aim(address)
            await turns.next()
        await asyncio.gather(*closing, return_exceptions=True)

    def _aim(self, address: str) -> list[asyncio.Task[None]]:
        """Decide again about the old connections that read for an agent; return the tasks that close its copies."""
        readers = self.routing.readers(address)
        copies = self.copies.get(address)
        if readers.connections:
            if copies is None:
                agent = self.members.agent(address)
                copies = self.copies[address] = FanOut(
                    self.relay, agent, self.envelopes, lambda: self.routing.latest, self.holders, self._sure
                )
            copies.aim(readers)
        elif copies is not None:
            return [self._background(self.copies.pop(address).close())]
        return []

    def _latest(self) -> int:
        return self.routing.latest

    async def _extend(self) -> None:
        """Hold the messages under way for some more time, and note which agents are connected."""
        while True:
            await asyncio.sleep(EXTEND_SECONDS)
            holders: list[FanOut | Connection] = [*self.copies.values(), *self._connections]
            for holder in holders:
                try:
                    await holder.extend()
                except Exception:
                    _log.exception("holding messages failed; it goes on")

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    def _there(self, instance: Instance) -> list[str]:
        """Return the agents that are connected, where that matters."""
        return [a for a in self.members.of(instance.id) if self.routing.connected(a)] if self._no_store else []

    async def _expire(self, addresses: list[str]) -> None:
        """Expire the waiting messages of those agents that are no longer connected."""
        for address in addresses:
            if not self.routing.connected(address):
                await self.relay.mailbox.close(address)

    async def left(self, connection: Connection) -> None:
        """Note that a connection has ended; its messages under way are due again, for others of its instance too.

        It runs to its end even if the caller is cancelled.
        """
        await self._background(self._left(connection))

    async def _left(self, connection: Connection) -> None:
        instance = self._connections.pop(connection)
        there = self._there(instance)
        before = set(self._leaving)
        connection.ended = True
        self.routing.remove(instance.id, connection)
        # At once: others may read at any moment, and that does not settle messages that this one has not read.
        if connection.agent is None and not connection.spoken_for:
            self._went(instance.id, connection)
        elif connection.agent is None:
            for address in connection.spoken_for:
                self._aim(address)
        await connection.close()
        await asyncio.gather(*(self._leaving - before), return_exceptions=True)
        await self._expire(there)
        with contextlib.suppress(Failed):  # then the place lapses
            await self.ownership.leave(instance.id)
