"""New work: its admission by its sender's pace, its number of copies, and its chain."""

from __future__ import annotations

import logging
import math
from collections import deque

from clawlink.domain import chain as chain_rules
from clawlink.domain.agent import Agent
from clawlink.domain.chain import Chain
from clawlink.domain.delivery import Delivery, copy_id, is_reader, is_sender
from clawlink.domain.message import KnowledgeBroadcast, PlainMessage, TaskDelegation, decode
from clawlink.domain.task import is_party
from clawlink.errors import LoopStopped, NotAllowed, RateLimited, UnknownTask
from clawlink.protocol.replies import Stop
from clawlink.relay.core import Core
from clawlink.relay.limits.token_buckets import Bucket, Buckets
from clawlink.relay.tasks.reads import read_task

_log = logging.getLogger("clawlink.relay")
_REMEMBERED = 10


class Pace:
    """How fast one agent may do something, and all agents of one address together.

    ``did`` says it in a sentence. ``times`` is how many times as much an address may do; 0 is no limit.
    """

    def __init__(self, did: str, rate: float, burst: float, times: float) -> None:
        self.did = did
        self.agents = Buckets(rate, burst)
        self.addresses = Buckets(rate * times, burst * times)


class Admission:
    """Admits delegations, plain messages and broadcasts. Responses and acknowledgements need no admission."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._agents = Buckets(core.limits.rate_agent, core.limits.burst_agent)
        self._pairs = Buckets(core.limits.rate_pair, core.limits.burst_pair)
        limits = core.limits
        self._copies = Pace("made copies", limits.rate_copies, limits.burst_copies, limits.rate_address)
        self._registrations = Pace("registered", limits.rate_register, limits.burst_register, limits.rate_address)
        self._files = Pace("wrote or locked files", limits.rate_files, limits.burst_files, limits.rate_address)
        self.stops: deque[Stop] = deque(maxlen=_REMEMBERED)

    def require_pace(self, sender: str, to: str | None, *, answers: bool = False) -> float:
        """Count a piece of new work, and return the time at which it came.

        Raises RateLimited if it comes too fast, and then counts nothing. Raises Stopped.
        ``to`` is None for work that does not go to a single other agent. Work that ``answers`` goes on during a stop.
        """
        core, agents, pairs = self._core, self._agents, self._pairs
        if core.time.stopped and not answers:
            core.require_running()
        now = core.steady()
        bucket = agents.filled(sender, now)
        if bucket.tokens < 1:
            self._limited([sender], f"{sender} sends new work to all others", agents, bucket)
        if to is not None:
            of_pair = pairs.filled((sender, to), now)
            if of_pair.tokens < 1:
                self._limited([sender, to], f"{sender} sends new work to {to}", pairs, of_pair)
            of_pair.tokens -= 1
        bucket.tokens -= 1
        return now if core.never_stopped else core.time.at(now)  # without a second look at the clock

    def require_copies(self, sender: Agent, copies: int = 0) -> None:
        """Count copies of a message. Raises RateLimited if its sender has yet to wait for earlier ones.

        A single broadcast or notice may make any number of copies. Its sender waits later until they are paid.
        """
        self._require(self._copies, sender.id, sender.address, tokens=copies)

    def require_registration(self, agent_id: str | None, address: str | None) -> None:
        """Count a registration. Raises RateLimited if it comes too fast, and then counts nothing.

        Without an ``agent_id`` it counts for the address alone.
        """
        self._require(self._registrations, agent_id, address, tokens=1)

    def require_file_request(self, editor: Agent) -> None:
        """Count a write, a deletion or a lock of a file. Raises RateLimited as ``require_registration``."""
        self._require(self._files, editor.id, editor.address, tokens=1)

    def _require(self, pace: Pace, agent_id: str | None, address: str | None, *, tokens: int) -> None:
        """Take tokens of an agent and of its address, each where that is known.

        Raises RateLimited if one of the two has less than a token left, and then takes nothing.
        """
        now = self._core.steady()
        agents = [] if agent_id is None else [agent_id]
        spent: list[tuple[Buckets, Bucket]] = []
        # The address comes first: a refused one makes no bucket for each name that it invents.
        for key, whose, limit in (
            (address, "the agents of your address", pace.addresses),
            (agent_id, f"agent {agent_id}", pace.agents),
        ):
            if key is not None:
                bucket = limit.filled(key, now)
                if bucket.tokens < 1:
                    self._limited(agents, f"{whose} {pace.did}", limit, bucket)
                spent.append((limit, bucket))
        for limit, bucket in spent:
            limit.spend(bucket, tokens)

    def _limited(self, agents: list[str], did: str, limit: Buckets, bucket: Bucket) -> None:
        wait = limit.wait_with(bucket.tokens)
        self._core.stats.rate_limited += 1
        self._note("rate_limited", agents)
        hundredths = math.ceil(100 * wait)  # of a second: what is rounded down comes too early
        raise RateLimited(
            f"{did} faster than {limit.rate:g} a second (at once {limit.burst:g}); "
            f"try again in {hundredths / 100:.2f} s",
            limit=limit.rate,
            retry_after=wait,
            current=agents,
        )

    async def chain(
        self, sender: Agent, to: str | None, *, parent_task: str | None, in_reply_to: str | None = None
    ) -> Chain:
        """Return the chain of new work. Raises LoopStopped, UnknownTask, NotAllowed.

        A message that is answered may be forgotten by now, or none of the sender's: the answer then begins a chain.
        """
        if parent_task is not None:
            cause = await self._of_task(sender, parent_task)
        elif in_reply_to is not None:
            found = await self._of_message(sender, in_reply_to)
            if found is None:
                return chain_rules.first(sender.id)
            cause = found
        else:
            return chain_rules.first(sender.id)
        limits = self._core.limits
        try:
            return chain_rules.follow(
                cause,
                task=parent_task or cause.parent_task,
                sender=sender.id,
                to=to,
                max_hops=limits.max_hops,
                max_cycles=limits.max_cycles,
            )
        except LoopStopped as stopped:
            self._core.stats.loops_stopped += 1
            self._note("loop_stopped", stopped.current)
            raise

    async def _of_task(self, sender: Agent, task_id: str) -> Chain:
        task, _ = await read_task(self._core.store, task_id)
        message = None if task is None else decode(task.body)
        if task is None or not isinstance(message, TaskDelegation):
            raise UnknownTask(
                f"no task {task_id!r} is known here, or it was finished long ago; leave parent_task out for new work",
                field="parent_task",
            )
        if not is_party(task, sender):
            raise NotAllowed(
                f"task {task_id} belongs to other agents, so your work cannot follow from it; leave parent_task out",
                field="parent_task",
            )
        return message.chain

    async def _of_message(self, sender: Agent, message_id: str) -> Chain | None:
        store = self._core.store
        task, d = await read_task(store, message_id)
        if task is None and d is None:
            d = await store.get(Delivery, copy_id(message_id, sender.id))
        body = None
        if task is not None:
            body = task.body if is_party(task, sender) else None
        elif d is not None and (is_sender(d, sender) or is_reader(d, sender)):
            body = d.body
        message = None if body is None else decode(body)
        return message.chain if isinstance(message, TaskDelegation | PlainMessage | KnowledgeBroadcast) else None

    def _note(self, code: str, agents: list[str]) -> None:
        """Tell the operator; of the same agents once until others are stopped, so that a flood does not hide them."""
        if self.stops and self.stops[-1].code == code and self.stops[-1].agents == agents:
            return
        _log.warning("new work stopped", extra={"code": code, "agents": agents})
        self.stops.append(Stop(self._core.time.stamp(), code, agents))
