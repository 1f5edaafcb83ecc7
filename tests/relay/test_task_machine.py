"""The life of tasks on a whole relay: whatever its agents do, and in whatever order, no task is lost or ends twice.

A requester and three workers do all that they may, and some things that they may not. Two workers have the same name
one after the other: they answer late, twice, or under receipts that are no longer theirs; they crash and forget what
they held; they go silent, leave, and come back. The relay is real, its clock is not, and there are no sockets. After
each step the records, the lists and the counts must agree. In the end every open task can be finished.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from clawlink.domain import task as rules
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery, State
from clawlink.domain.limits import Limits
from clawlink.domain.message import Message, Priority, TaskDelegation, TaskResponse, decode, says_the_same
from clawlink.domain.pool import Pool, is_pool, pool_for
from clawlink.domain.task import FINAL, OPEN, TRANSITIONS, Task, TaskState
from clawlink.errors import KeyReused, LeaseLost, NameTaken, NotAllowed, UnknownAgent, WrongState
from clawlink.protocol import requests
from clawlink.protocol.replies import ResponseSent, TaskView
from clawlink.relay.ids import receipt as full_receipt
from clawlink.relay.ids import split_receipt
from clawlink.relay.mailbox.receipts import Outcome
from clawlink.relay.relay import Relay
from clawlink.store.base import Store
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals
from tests.effort import size
from tests.store.faulty import FaultyStore

pytestmark = pytest.mark.storm

T = TypeVar("T")

REQUESTER = "req"
# Each worker by its id and name: v1 is the next one called w1.
WORKERS = {"w1": "w1", "w2": "w2", "v1": "w1"}
# Long enough for all that is finished to be remembered, and for nothing to expire that somebody works on.
LIMITS = Limits(
    lease=20,
    max_attempts=2,
    message_ttl=1_000,
    retention=1e7,
    stale_after=30,
    forget_after=400,
    rate_agent=0,
    rate_pair=0,
)
MAX_TASKS = 4

Status = Literal["in_progress", "input_required", "completed", "failed", "rejected"]
End = Literal["finish", "leave", "silence"]
After = Literal["keep", "ack", "settle", "release", "crash"]

workers = st.sampled_from(["w1", "w1", "w2", "w2", "v1"])
recipients = st.sampled_from(["w1", "w2", "v1", "pool", "pool", "pool", "any of w1"])
rivals = st.sampled_from(
    ["claim", "claim", "respond", "respond", "ack", "nack", "release", "cancel", "leave", "sweep", "beat"]
)
seldom = st.sampled_from([False, False, False, False, False, True])
some = st.integers(0, 2**16)


class Held(NamedTuple):
    """A task that a worker was handed, and its receipt."""

    task_id: str
    receipt: str


class Report(NamedTuple):
    """A report that a worker is about to make, or has made."""

    worker: str
    ask: requests.Respond


class TaskLife(RuleBasedStateMachine):
    """The steps of tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.now = 1_000_000.0
        self.relay = Relay(self.behind(self.store), LocalSignals(), LIMITS, clock=lambda: self.now)
        self.tasks: dict[str, requests.Delegate] = {}  # all that was accepted, by id
        self.handed: dict[str, list[Held]] = {worker: [] for worker in WORKERS}  # what each remembers
        self.receipts: list[tuple[str, Held]] = []  # what anyone ever got
        self.said: list[Report] = []  # sent or not: it may come once more, and late
        self.accepted: dict[str, tuple[Report, ResponseSent]] = {}  # the final answer, by task
        self.cancelled: set[str] = set()
        self.read: list[Message] = []  # what the requester has read
        self.ended: dict[str, Task] = {}
        self.deserted: set[str] = set()  # mailboxes that at some time were without their agent
        self.seen: dict[str, TaskView] = {}
        self.end: End = "finish"

    def behind(self, store: Store) -> Store:
        """Return the store as the relay sees it."""
        return store

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.loop.run_until_complete(work)

    async def acting(self, agent_id: str) -> Agent:
        """Return an agent as a request of its own finds it."""
        return await self.relay.agents.acting(agent_id, None, field="agent_id")

    def one_of(self, pick: int, found: Iterable[T]) -> T | None:
        """Return one of several."""
        listed = list(found)
        return listed[pick % len(listed)] if listed else None

    async def task(self, task_id: str) -> Task:
        """Return a task as it is stored now."""
        task = await self.store.get(Task, task_id)
        if task is None:
            d = await self.store.get(Delivery, task_id)
            assert d is not None, "a task is lost"
            assert d.is_task
            assert not d.has_record, "the record of a task is lost"
            task = rules.task_from_delivery(d)
        return task

    # -- agents ------------------------------------------------------------------------------------------------------

    @initialize(end=st.sampled_from(["finish", "leave", "silence"]), first=st.lists(recipients, min_size=1, max_size=2))
    def everyone_comes(self, end: End, first: list[str]) -> None:
        self.end = end
        self.run(self.register(REQUESTER))
        self.run(self.register("w1"))
        self.run(self.register("w2"))
        for to in first:
            self.delegate(to, None, False)

    async def register(self, agent_id: str, name: str | None = None) -> None:
        capabilities = [] if agent_id == REQUESTER else ["Python"]
        ask = requests.Register(
            agent_id=agent_id, name=name or WORKERS.get(agent_id, agent_id), capabilities=capabilities
        )
        await self.relay.agents.register(ask, machine="here", agent_key=None)

    def come_back(self, worker: str) -> None:
        """Register: for the first time, or after a restart."""
        try:
            self.run(self.register(worker))
        except NameTaken:
            assert worker in ("w1", "v1")

    def leave(self, worker: str) -> None:
        self.handed[worker] = []
        self.run(self.leaving(worker))

    async def leaving(self, worker: str) -> None:
        agent = await self.store.get(Agent, worker)
        if agent is not None:
            await self.relay.deregistration.leave(agent)

    def crash(self, worker: str) -> None:
        """Forget all that was held, without a word to the relay."""
        self.handed[worker] = []

    @rule(worker=workers)
    def heartbeat(self, worker: str) -> None:
        async def beat() -> None:
            if await self.store.get(Agent, worker) is not None:
                await self.relay.agents.beat(worker)

        self.run(beat())

    # -- the requester -----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.tasks) < MAX_TASKS)
    @rule(
        to=recipients,
        deadline=st.sampled_from([None] * 6 + [8.0, 45.0, 200.0]),
        urgent=st.booleans(),
    )
    def delegate(self, to: str, deadline: float | None, urgent: bool) -> None:
        pooled = to not in WORKERS
        ask = requests.Delegate(
            from_agent=REQUESTER,
            task=f"task {len(self.tasks)}",
            to_agent=None if pooled else to,
            capability="python" if pooled else None,
            to_any_of=["w1"] if to == "any of w1" else None,
            deadline=deadline,
            idempotency_key=f"key {len(self.tasks)}",
            priority=Priority.URGENT if urgent else Priority.NORMAL,
        )
        try:
            id = self.run(self.delegating(ask))
        except UnknownAgent:
            return
        assert id not in self.tasks
        self.tasks[id] = ask

    async def delegating(self, ask: requests.Delegate) -> str:
        return (await self.relay.submission.delegate(await self.acting(REQUESTER), ask)).message_id

    def delegate_once_more(self, pick: int) -> None:
        """The reply got lost, so the request comes again."""
        if not self.tasks:
            return
        id, ask = list(self.tasks.items())[pick % len(self.tasks)]
        try:
            assert self.run(self.delegating(ask)) == id
        except KeyReused:  # who has taken the name since is another agent than the one that was meant
            assert ask.to_agent is not None or ask.to_any_of is not None

    @precondition(lambda self: self.tasks)
    @rule(pick=some, text=st.sampled_from(["this", "that"]))
    def answer(self, pick: int, text: str) -> None:
        self.run(self.answering(str(self.one_of(pick, self.tasks)), text))

    async def answering(self, id: str, text: str) -> None:
        before = await self.task(id)
        try:
            agent = await self.acting(REQUESTER)
            await self.relay.tasks.answer(agent, id, requests.Answer(from_agent=REQUESTER, content=text))
        except WrongState:
            pass
        else:
            asked = before.state is TaskState.INPUT_REQUIRED
            assert asked or any(e.by == REQUESTER and e.content is not None for e in before.history)

    def cancel(self, pick: int) -> None:
        if self.tasks:
            self.run(self.cancelling(str(self.one_of(pick, self.tasks))))

    async def cancelling(self, id: str, *, alone: bool = True) -> None:
        before = await self.task(id)
        try:
            agent = await self.acting(REQUESTER)
            await self.relay.tasks.cancel(agent, id, requests.Cancel(from_agent=REQUESTER))
        except WrongState:
            assert (await self.task(id)).state in FINAL
        else:
            assert not alone or before.state not in FINAL - {TaskState.CANCELLED}
            self.cancelled.add(id)

    async def reading(self) -> None:
        agent = await self.acting(REQUESTER)
        while (taken := await self.relay.claims.claim(agent, limit=100, wait=0, lease=60)).deliveries:
            self.read += [decode(d.body) for d in taken.deliveries]
            settled = await self.relay.acks.ack(
                REQUESTER, [full_receipt(str(d.receipt), d.id) for d in taken.deliveries]
            )
            assert all(outcome.error is None for outcome in settled)

    # -- the workers -------------------------------------------------------------------------------------------------

    @rule(
        worker=workers,
        limit=st.sampled_from([1, 10]),
        lease=st.sampled_from([5.0, 20.0, 60.0]),
        after=st.sampled_from(["keep", "keep", "ack", "settle", "release", "crash"]),
    )
    def claim(self, worker: str, limit: int, lease: float, after: After) -> None:
        if self.run(self.store.get(Agent, worker)) is None:
            self.come_back(worker)
        self.run(self.claiming(worker, limit, lease, after))

    async def claiming(self, worker: str, limit: int = 10, lease: float = 20.0, after: After = "keep") -> list[Held]:
        """Claim, and settle at once what is no task; ``settle`` and ``release`` are what a plain poll comes to."""
        try:
            agent = await self.acting(worker)
            taken = await self.relay.claims.claim(agent, limit=limit, wait=0, lease=lease)
        except UnknownAgent:  # it has left, perhaps in the middle of its claim
            return []
        held, others = [], []
        for d in taken.deliveries:
            given = full_receipt(str(d.receipt), d.id)
            if not d.is_task:
                others.append(given)
                continue
            message = decode(d.body)
            assert isinstance(message, TaskDelegation)
            self.may_have(agent, message)
            assert d.attempts <= LIMITS.max_attempts
            held.append(Held(d.id, given))
        if others:
            await self.relay.acks.ack(worker, others)
        receipts = [one.receipt for one in held]
        if receipts and after in ("ack", "settle"):
            outcomes = await self.relay.acks.ack(worker, receipts, for_good=after == "settle")
            assert all(outcome.error is None for outcome in outcomes)
        elif receipts and after == "release":
            await self.relay.acks.release(worker, receipts)
        self.receipts += [(worker, one) for one in held]
        if after not in ("release", "crash"):
            self.handed[worker] += held
        return held

    def may_have(self, agent: Agent, message: TaskDelegation) -> None:
        """Check that a task went to one that it was meant for."""
        if message.to_agent is not None:
            assert message.to_agent == agent.id or WORKERS[message.to_agent] == agent.name
        elif isinstance(message.to_any_of, tuple):
            assert agent.id in message.to_any_of

    def any_held(self, pick: int, old: bool) -> tuple[str, Held] | None:
        """Return what some worker holds, or ever held; if nobody holds anything, somebody fetches some."""
        if not old and not any(self.handed.values()):
            self.claim(sorted(WORKERS)[pick % len(WORKERS)], 1, 20.0, "keep")
        return self.one_of(pick, self.receipts if old else ((w, h) for w in WORKERS for h in self.handed[w]))

    @rule(pick=some, old=seldom)
    def ack(self, pick: int, old: bool) -> None:
        self.settle(pick, old, lambda worker, receipts: self.relay.acks.ack(worker, receipts))

    @rule(pick=some, old=seldom, delay=st.sampled_from([0.0, 3.0, 50.0]))
    def nack(self, pick: int, old: bool, delay: float) -> None:
        self.settle(pick, old, lambda worker, receipts: self.relay.acks.nack(worker, receipts, delay))

    @rule(pick=some, old=seldom, seconds=st.sampled_from([5.0, 70.0]))
    def extend(self, pick: int, old: bool, seconds: float) -> None:
        self.settle(pick, old, lambda worker, receipts: self.relay.acks.extend(worker, receipts, seconds))

    def release(self, pick: int) -> None:
        """The relay finds out late that nobody has read its reply."""
        found = self.any_held(pick, old=False)
        if found is not None:
            self.run(self.relay.acks.release(found[0], [found[1].receipt]))

    def settle(self, pick: int, old: bool, way: Callable[[str, list[str]], Coroutine[Any, Any, list[Outcome]]]) -> None:
        found = self.any_held(pick, old)
        if found is None:
            return
        worker, held = found

        async def acks() -> None:
            try:
                await self.acting(worker)
            except UnknownAgent:
                return
            before = await self.task(held.task_id)
            (outcome,) = await way(worker, [held.receipt])
            current = before.receipt is not None and before.receipt == split_receipt(held.receipt)[0]
            if not current or before.assignee != worker:
                assert isinstance(outcome.error, LeaseLost), "a receipt that is not the present claim's did something"

        self.run(acks())

    @rule(
        pick=some,
        status=st.sampled_from(["in_progress", "in_progress", "input_required", "completed", "failed"]),
        said=st.sampled_from([None, "one", "other"]),
        shown=st.sampled_from(["its own", "its own", "its own", "old", "another's", "none"]),
        later=seldom,
    )
    def report(self, pick: int, status: Status, said: str | None, shown: str, later: bool) -> None:
        """Say something of a task, now or later, under whatever receipt."""
        found = self.any_held(pick, old=shown in ("old", "another's"))
        if found is None:
            return
        worker, held = found
        if shown == "another's":
            worker = sorted(WORKERS)[pick % len(WORKERS)]
        ask = requests.Respond(
            from_agent=worker,
            message_id=held.task_id,
            result=said,
            status=status,
            progress=50.0 if status == "in_progress" and said != "one" else None,
            receipt=None if shown == "none" else held.receipt,
        )
        self.said.append(Report(worker, ask))
        if not later:
            self.run(self.responding(self.said[-1]))

    @precondition(lambda self: self.said)
    @rule(pick=some)
    def report_late_or_again(self, pick: int) -> None:
        """An earlier report arrives, for the first time or not, after a later one."""
        self.run(self.responding(self.said[pick % len(self.said)]))

    async def responding(self, report: Report, *, alone: bool = True) -> None:
        """Send a report and check who is heard: the present owner, by its receipt if it shows one."""
        worker, ask = report
        id = str(ask.message_id)
        try:
            agent = await self.acting(worker)
        except UnknownAgent:
            return
        before = await self.task(id)
        first = self.accepted.get(id)
        repeat = first is not None and _says_the_same(first[0], report)
        try:
            sent = await self.relay.tasks.respond(agent, ask)
        except (LeaseLost, NotAllowed, WrongState) as refused:
            assert not repeat, "the repeat of the final answer was not answered as the first"
            if alone and self.must_be_heard(before, worker, ask):
                raise AssertionError("the owner was not heard") from refused
            return
        first = self.accepted.get(id)
        if first is not None and _says_the_same(first[0], report):
            assert (sent.response_id, sent.task_status) == (first[1].response_id, first[1].task_status)
            return
        if alone:
            assert before.state not in FINAL, "a task was moved after its end"
            assert before.assignee == worker, "a task was moved by one that does not have it"
            assert ask.receipt is None or before.receipt == split_receipt(ask.receipt)[0], "an old receipt was heard"
        if TaskState(ask.status) in FINAL:
            assert id not in self.accepted, "two final answers were accepted"
            self.accepted[id] = report, sent

    def must_be_heard(self, before: Task, worker: str, ask: requests.Respond) -> bool:
        mine = before.assignee == worker and before.expires_at > self.now and before.state not in FINAL
        return mine and (ask.receipt is None or before.receipt == split_receipt(ask.receipt)[0])

    # -- time --------------------------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([0.5, 3.0, 6.0, 6.0, 21.0, 21.0, 31.0, 65.0]),
        long=st.sampled_from([None] * 12 + [401.0, 1_001.0]),
        sweep=st.booleans(),
        then=st.sampled_from([None, "w1", "w2", "v1"]),
    )
    def time_passes(self, seconds: float, long: float | None, sweep: bool, then: str | None) -> None:
        """Let time pass, with the janitor or without, and maybe somebody come for work right after."""
        if long is not None:
            self.run(self.reading())  # or its news would expire unread
        self.run(self.let_pass(long or seconds, sweep=sweep))
        if then is not None:
            self.claim(then, 10, 20.0, "keep")

    async def let_pass(self, seconds: float, *, sweep: bool = True) -> None:
        self.now += seconds
        await self.relay.agents.touch(REQUESTER)
        if sweep:
            await self.relay.janitor.sweep()

    # -- what is rare ------------------------------------------------------------------------------------------------

    @rule(
        worker=workers,
        pick=some,
        what=st.sampled_from(
            ["come back", "leave", "crash", "cancel", "redrive", "read", "release", "delegate once more", "sweep"]
        ),
    )
    def something_rare_happens(self, worker: str, pick: int, what: str) -> None:
        if what == "come back":
            self.come_back(worker)
        elif what == "leave":
            self.leave(worker)
        elif what == "crash":
            self.crash(worker)
        elif what == "cancel":
            self.cancel(pick)
        elif what == "redrive":
            self.run(self.relay.mailbox.redrive(worker, None, 10))
        elif what == "read":
            self.run(self.reading())
        elif what == "release":
            self.release(pick)
        elif what == "delegate once more":
            self.delegate_once_more(pick)
        else:
            self.run(self.relay.janitor.sweep())

    # -- what must be true -------------------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        if self.tasks:
            self.run(self.check())

    async def check(self) -> None:
        tasks = {id: await self.task(id) for id in self.tasks}
        self.deserted |= {t.mailbox for t in tasks.values() if await self.store.get(Agent, t.mailbox) is None}
        for task in tasks.values():
            self.check_history(task)
            self.check_end(task)
            await self.check_owner(task)
            await self.check_view(task)
        await self.check_responses(tasks)
        await self.check_sums(tasks)

    def check_history(self, task: Task) -> None:
        """Every step is in the table, and they lead to where the task is."""
        assert task.dropped_events == 0
        state = TaskState.QUEUED
        owner: str | None = None
        for n, event in enumerate(task.history):
            if event.status is TaskState.DELIVERED and state in (TaskState.IN_PROGRESS, TaskState.INPUT_REQUIRED):
                assert owner is None, "a claim of what another holds"  # it was reported on before it was claimed
            else:
                again = state is event.status and state not in (TaskState.DELIVERED, *FINAL)
                assert again or event.status in TRANSITIONS[state], f"{state} to {event.status}"
                state = event.status
            if event.status is TaskState.DELIVERED:
                owner = event.by
            elif event.status is TaskState.QUEUED:
                owner = None
            assert n == 0 or event.at >= task.history[n - 1].at, "history goes back in time"
        assert state is task.state
        assert sum(event.status in FINAL for event in task.history) == (task.state in FINAL)
        assert task.attempts <= sum(event.status is TaskState.DELIVERED for event in task.history)

    def check_end(self, task: Task) -> None:
        """The end of a task is final, and the one that its parties were told."""
        first = self.ended.get(task.id)
        if first is not None:
            kept = (first.state, first.answer, first.finished_at, first.history, first.note)
            assert (task.state, task.answer, task.finished_at, task.history, task.note) == kept, "the end has changed"
        elif task.state in FINAL:
            self.ended[task.id] = task
        assert (task.id in self.accepted) == (task.answer is not None)
        assert (task.id in self.cancelled) == (task.state is TaskState.CANCELLED)
        assert (task.finished_at is not None) == (task.state in FINAL)
        if task.answer is not None:
            assert task.state.value == self.accepted[task.id][0].ask.status
        elif task.state is TaskState.FAILED:
            assert task.pooled or task.mailbox in self.deserted

    async def check_owner(self, task: Task) -> None:
        """An open task is held by somebody who is there, or is where somebody will find it."""
        d = await self.store.get(Delivery, task.id)
        if task.state in FINAL:
            assert d is None, "the delivery of a finished task is still there"
            return
        record = await self.store.get(Task, task.id)
        assert d is None or d.has_record == (record is not None)
        if d is not None and d.state is State.PENDING:
            assert d.visible_at <= self.now + 200, "it is hidden for ever"
            assert d.expires_at == task.expires_at
            await self.check_reachable(task, d)
        elif d is not None and d.state is State.DEAD:
            assert not task.pooled
        else:
            assert task.assignee is not None, "nobody has it, and it is in no mailbox"
            assert task.delivered_at is not None
            assert task.acked_at is not None
            if task.held_until is None:
                assert await self.store.get(Agent, task.assignee) is not None, "one that has left holds it for ever"
        at = min(r.ends_at for r in (d, record) if r is not None)
        assert at <= task.expires_at, "nobody looks when its time is over"
        if task.held_until is not None and (d is None or d.state is State.ACKED):
            assert at <= task.held_until, "nobody looks when its owner's time is over"

    async def check_reachable(self, task: Task, d: Delivery) -> None:
        """An agent that may claim the task looks where it is."""
        assert d.mailbox == task.mailbox
        if await self.store.get(Agent, d.mailbox) is None:
            pool = await self.store.get(Pool, d.mailbox)
            assert pool is not None, "it waits in a mailbox that nobody looks into"
            if is_pool(d.mailbox):
                message = decode(task.body)
                assert isinstance(message, TaskDelegation)
                members = message.to_any_of if isinstance(message.to_any_of, tuple) else ()
                assert pool.id == pool_for(["python"], members).id
            else:
                assert pool.name == WORKERS[d.mailbox]

    async def check_view(self, task: Task) -> None:
        """A waiter for a change after a version is told of every change."""
        view = await self.relay.task_views.get(await self.acting(REQUESTER), task.id, requests.TaskQuery())
        assert view.status == task.state.value
        before = self.seen.get(task.id)
        if before is not None:
            assert view.version >= before.version
            # Presence, that of the owner and of the pool, changes by itself.
            now_is, was = (replace(one, version=0, owner=None, pool_online=None) for one in (view, before))
            changed = now_is != was
            assert view.version > before.version or not changed, "a change that nobody is told of"
        self.seen[task.id] = view

    async def check_responses(self, tasks: dict[str, Task]) -> None:
        """The requester gets one final answer of each task that was answered, and none of any other."""
        unread = [decode(d.body) for d in await self.store.pending(REQUESTER, 10_000)]
        final = [m for m in [*self.read, *unread] if isinstance(m, TaskResponse) and TaskState(m.status) in FINAL]
        final = [m for m in final if not self.may_be_too_late(tasks[m.message_id])]
        counts = Counter(m.message_id for m in final)
        assert counts == Counter(id for id, task in tasks.items() if task.answer is not None)
        for message in final:
            assert says_the_same(message, decode(cast("bytes", tasks[message.message_id].answer)))

    def may_be_too_late(self, task: Task) -> bool:
        """Tell whether an answer may have been put into the requester's mailbox when the task ended otherwise."""
        return False

    async def check_sums(self, tasks: dict[str, Task]) -> None:
        """Lists, counts and counters agree."""
        store = self.store
        for state in TaskState:
            key = rules.by_requester(REQUESTER, state)
            found = sum(task.state is state for task in tasks.values())
            assert (await store.usage(Delivery, key)).count + (await store.usage(Task, key)).count == found
        for worker in WORKERS:
            key = rules.by_owner(worker)
            mine = sum((t.assignee or t.mailbox) == worker and t.state in OPEN for t in tasks.values())
            assert (await store.usage(Delivery, key)).count + (await store.usage(Task, key)).count == mine
        opened = await self.listed(REQUESTER, requests.TasksQuery(status="open", limit=2))
        ended = await self.listed(REQUESTER, requests.TasksQuery(status="final"))
        assert sorted(opened) == sorted(id for id, task in tasks.items() if task.state in OPEN)
        assert sorted(opened + ended) == sorted(tasks)
        stats = self.relay.stats
        without_answer = stats.tasks_cancelled + stats.tasks_expired + stats.tasks_returned + stats.tasks_failed
        assert len(ended) == stats.tasks_answered + without_answer
        assert stats.tasks_answered == len(self.accepted)

    async def listed(self, agent_id: str, ask: requests.TasksQuery) -> list[str]:
        """Return the ids on all pages of a list."""
        agent = await self.store.get(Agent, agent_id)
        assert agent is not None
        found: list[str] = []
        while True:
            page = await self.relay.task_views.list(agent, ask)
            found += [view.task_id for view in page.tasks]
            if page.next is None:
                return found
            ask = replace(ask, after=page.next)

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.tasks:
                self.run(self.check_lists_of_workers())
                self.run(self.finish_everything())
                self.run(self.check())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def check_lists_of_workers(self) -> None:
        tasks = [await self.task(id) for id in self.tasks]
        for worker in WORKERS:
            agent = await self.store.get(Agent, worker)
            if agent is not None:
                its = [t for t in tasks if t.assignee == worker and self.was_its(t, agent)]
                mine = await self.listed(worker, requests.TasksQuery(assignee=worker, limit=3))
                assert sorted(mine) == sorted(t.id for t in its)
                for state in TaskState:
                    mine = await self.listed(worker, requests.TasksQuery(assignee=worker, status=state.value))
                    assert sorted(mine) == sorted(t.id for t in its if t.state is state)

    @staticmethod
    def was_its(task: Task, agent: Agent) -> bool:
        """Return False for a task that ended unread before the agent registered: it was not for this agent."""
        unread = all(event.by != agent.id for event in task.history)
        return not (unread and task.finished_at is not None and task.finished_at < agent.registered_at)

    async def finish_everything(self) -> None:
        """Finish what is open: those who have it do, or they all leave or fall silent, and whoever comes then does."""
        if self.end == "leave":
            for worker in WORKERS:
                await self.leaving(worker)
        elif self.end == "silence":
            await self.reading()
            await self.let_pass(200)
            for id in self.tasks:
                task = await self.task(id)
                if task.state in OPEN and task.delivered_at is not None:
                    assert task.held_until is None, "one that fell silent long ago still has it"
        for round in range(8):
            for worker, name in (("w1", "w1"), ("w2", "w2"), ("v1", "v1")):
                if await self.store.get(Agent, worker) is None:
                    try:
                        await self.register(worker, name)
                    except NameTaken:
                        assert worker in ("w1", "v1")
                        continue
                await self.relay.agents.beat(worker)
                await self.relay.mailbox.redrive(worker, None, 100)
                for held in await self.claiming(worker, limit=100, lease=20):
                    await self.responding(Report(worker, _done(worker, held.task_id, held.receipt)))
                if self.end != "leave":
                    for id in await self.listed(worker, requests.TasksQuery(assignee=worker, status="open")):
                        await self.responding(Report(worker, _done(worker, id, None)))
            await self.reading()
            await self.check()
            await self.let_pass(31)
            if round == 0 and self.end != "leave":
                await self.leaving("v1")  # it may keep w1 from coming back
        for id in self.tasks:
            assert (await self.task(id)).state in FINAL, "a task that nobody can finish"


class ContendedTaskLife(TaskLife):
    """Two requests at once, on a store that yields in between and lets commits conflict for no reason."""

    def behind(self, store: Store) -> Store:
        return FaultyStore(store, Random(1), conflicts=0.1, delays=0.3)

    def may_be_too_late(self, task: Task) -> bool:
        # The answer and the end meet at two partitions, so on such a store the answer may be there when the end is
        # stored.
        return task.state in (TaskState.CANCELLED, TaskState.EXPIRED)

    @rule(
        one=st.tuples(rivals, workers, some, some),
        other=st.tuples(rivals, workers, some, some),
        statuses=st.tuples(*[st.sampled_from(["in_progress", "completed", "failed"])] * 2),
    )
    def at_once(
        self, one: tuple[str, str, int, int], other: tuple[str, str, int, int], statuses: tuple[Status, Status]
    ) -> None:
        """Let two of them ask something of the relay at the same time."""
        both = [self.rival(*one, statuses[0]), self.rival(*other, statuses[1])]

        async def racing() -> None:
            await asyncio.gather(*both)

        self.run(racing())

    async def rival(self, what: str, worker: str, pick: int, turns: int, status: Status) -> None:
        for _ in range(turns % 12):
            await asyncio.sleep(0)
        task_id = self.one_of(pick, self.tasks)
        held = self.one_of(pick, ((w, h) for w in WORKERS for h in self.handed[w]))
        if what == "claim":
            await self.claiming(worker, 10)
        elif what == "sweep":
            await self.relay.janitor.sweep()
        elif what == "beat":
            await self.relay.agents.beat(worker)
        elif what == "leave":
            self.handed[worker] = []
            await self.leaving(worker)
        elif what == "cancel" and task_id is not None:
            await self.cancelling(task_id, alone=False)
        elif held is not None:
            worker, (id, receipt) = held
            if what == "respond":
                ask = requests.Respond(
                    from_agent=worker, message_id=id, result=turns % 2, status=status, receipt=receipt
                )
                await self.responding(Report(worker, ask), alone=False)
            elif what == "ack":
                await self.relay.acks.ack(worker, [receipt])
            elif what == "nack":
                await self.relay.acks.nack(worker, [receipt], 0)
            elif what == "release":
                await self.relay.acks.release(worker, [receipt])


def _done(worker: str, id: str, receipt: str | None) -> requests.Respond:
    return requests.Respond(from_agent=worker, message_id=id, result="done", receipt=receipt)


def _says_the_same(one: Report, other: Report) -> bool:
    return one.worker == other.worker and replace(one.ask, receipt=None) == replace(other.ask, receipt=None)


_settings = settings(
    max_examples=size(25, 60, 1000),
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestTaskLife = TaskLife.TestCase
TestTaskLife.settings = _settings
TestContendedTaskLife = ContendedTaskLife.TestCase
TestContendedTaskLife.settings = settings(_settings, max_examples=size(15, 40, 600))


def test_tasks_that_go_back_to_their_requester_are_among_the_ended() -> None:
    state = ContendedTaskLife()
    try:
        state.everyone_comes(end="silence", first=["w1", "w1"])
        for _ in range(2):
            state.delegate(deadline=None, to="w1", urgent=False)
        left, claimed = ("leave", "w1", 0, 0), ("claim", "w1", 0, 0)
        state.at_once(one=left, other=claimed, statuses=("in_progress", "in_progress"))
        state.time_passes(long=401.0, seconds=0.5, sweep=False, then=None)
    finally:
        state.teardown()
    assert state.relay.stats.tasks_returned == 4  # with those of the teardown
