"""A whole relay for one test: over the memory store, on a clock that only the test moves, and without sockets."""

from __future__ import annotations

from typing import Any

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import Limits
from clawlink.domain.message import Message, TaskResponse, TaskUpdate, decode
from clawlink.protocol import requests
from clawlink.protocol.replies import BroadcastSent, Left, TaskView
from clawlink.relay.ids import receipt
from clawlink.relay.relay import Relay
from clawlink.store.base import Store
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals


class Scene:
    """A relay with these limits, and its agents as they act. ``req`` asks, unless another is named."""

    def __init__(self, *, store: Store | None = None, **limits: Any) -> None:
        self.now = 1_000_000.0
        self.store: Store = store or MemoryStore()
        self.keys: dict[str, str] = {}  # of agents that were claimed
        self.relay = Relay(self.store, LocalSignals(), Limits(**limits), clock=lambda: self.now)

    async def let_pass(self, seconds: float) -> None:
        """Let this much time pass, and the janitor look."""
        self.now += seconds
        await self.relay.janitor.sweep()

    # -- agents ------------------------------------------------------------------------------------------------------

    async def register(self, *ids: str, key: str | None = None, **fields: Any) -> None:
        """Register agents that have all but their ids in common; an agent's name is its id, unless one is given.

        With a ``key`` they are claimed.
        """
        for id in ids:
            ask = requests.Register(**{"agent_id": id, "name": id, "claim": key is not None, **fields})
            await self.relay.agents.register(ask, machine="here", agent_key=key)
            if key is not None:
                self.keys[id] = key

    async def agent(self, id: str) -> Agent:
        """Return an agent as a request of its own finds it, which is a sign of life."""
        return await self.relay.agents.acting(id, self.keys.get(id), field="agent_id")

    async def leave(self, id: str) -> Left:
        return await self.relay.deregistration.leave(await self.agent(id))

    # -- those who ask -----------------------------------------------------------------------------------------------

    async def delegate(self, sender: str = "req", **fields: Any) -> str:
        """Delegate a task and return its id."""
        ask = requests.Delegate(**{"from_agent": sender, "task": "sum", **fields})
        return (await self.relay.submission.delegate(await self.agent(sender), ask)).message_id

    async def send(self, sender: str, to: str, content: Any = "hello") -> str:
        """Send a message and return its id."""
        ask = requests.Send(from_agent=sender, to_agent=to, content=content)
        return (await self.relay.messages.send(await self.agent(sender), ask)).message_id

    async def broadcast(self, sender: str, content: str, **fields: Any) -> BroadcastSent:
        ask = requests.Broadcast(from_agent=sender, content=content, **fields)
        return await self.relay.broadcasts.broadcast(await self.agent(sender), ask)

    async def view(self, id: str, asker: str = "req") -> TaskView:
        return await self.relay.task_views.get(await self.agent(asker), id, requests.TaskQuery())

    async def status(self, id: str) -> str:
        return (await self.view(id)).status

    # -- those who work ----------------------------------------------------------------------------------------------

    async def take(self, id: str, lease: float = 20.0, wait: float = 0.0) -> list[Delivery]:
        """Claim whatever there is for an agent."""
        return (await self.relay.claims.claim(await self.agent(id), limit=1000, wait=wait, lease=lease)).deliveries

    async def claim(self, worker: str, lease: float = 20.0) -> list[str]:
        """Claim what there is, and return the receipts of the tasks."""
        return [receipt_of(d) for d in await self.take(worker, lease) if d.is_task]

    async def respond(self, worker: str, id: str, status: Any = "completed", result: Any = None) -> None:
        ask = requests.Respond(from_agent=worker, message_id=id, status=status, result=result)
        await self.relay.tasks.respond(await self.agent(worker), ask)

    async def use_up(self, worker: str, attempts: int) -> None:
        """Claim the tasks there are so often, and let each lease lapse; nobody looks after the last."""
        for _ in range(attempts):
            assert await self.claim(worker, lease=5)
            self.now += 6

    # -- what they are told ------------------------------------------------------------------------------------------

    async def unread(self, id: str) -> list[Message]:
        """Return what lies in a mailbox, and leave it there."""
        return [decode(d.body) for d in await self.store.pending(id, 100)]

    async def read(self, id: str) -> list[Message]:
        """Claim and acknowledge all there is."""
        found: list[Message] = []
        while taken := await self.take(id):
            found += [decode(d.body) for d in taken]
            await self.relay.acks.ack(id, [receipt_of(d) for d in taken])
        return found

    async def told(self) -> list[tuple[str, str, Any]]:
        """Return who told the requester what."""
        return [(m.from_agent, m.status, m.result) for m in await self.unread("req") if isinstance(m, TaskResponse)]

    async def updates(self, id: str = "req") -> list[tuple[str, str]]:
        """Read what the relay says of tasks, and return where each stands and why."""
        return [(m.status, m.note or "") for m in await self.read(id) if isinstance(m, TaskUpdate)]


def receipt_of(d: Delivery) -> str:
    """Return the receipt of a delivery that was claimed."""
    return receipt(str(d.receipt), d.id)
