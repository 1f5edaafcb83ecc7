"""The task rules beside a model that knows only the table and who was given the task last.

No relay and no store: one task of a name and one of a pool, and everything that any function of ``domain/task.py`` may
do to them, in any order. The relay as a whole is driven so in ``tests/relay/test_task_machine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from clawlink.domain import task_steps
from clawlink.domain.agent import Agent, beaten, seen
from clawlink.domain.limits import MAX_HISTORY, MAX_HISTORY_BYTES
from clawlink.domain.pool import pool_for
from clawlink.domain.record import SETTLED
from clawlink.domain.task import ANSWERS, FINAL, TRANSITIONS, Task, TaskState
from clawlink.errors import LeaseLost, NotAllowed, WrongState
from tests.effort import size

pytestmark = pytest.mark.storm

REQUESTER = "otto"
AGENTS = ("mia", "eve")
TTL = 300.0
KEEP = 60.0
STALE = 40.0

agents = st.sampled_from(AGENTS)
seconds = st.sampled_from([0.0, 1.0, 7.0, 25.0, 60.0])
reports = st.sampled_from([TaskState.IN_PROGRESS, TaskState.IN_PROGRESS, TaskState.INPUT_REQUIRED, *sorted(ANSWERS)])
contents = st.sampled_from([None, None, b"1", b"x" * (MAX_HISTORY_BYTES // 3)])
_OPEN_REPORTS = (TaskState.IN_PROGRESS, TaskState.INPUT_REQUIRED)


class TaskRules(RuleBasedStateMachine):
    """The steps of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.claims = 0  # receipts are r1, r2 ...
        self.owner: str | None = None  # who was given it last and has not lost it
        self.receipt: str | None = None
        self.receipts: list[tuple[str, str]] = []
        self.reported = 0
        self.agents = {
            id: Agent(
                id=id,
                version=1,
                name=id,
                capabilities=(),
                machine="",
                description="",
                registered_at=self.now,
                last_heartbeat=self.now,
                resumed_at=self.now,
            )
            for id in AGENTS
        }

    @initialize(pooled=st.booleans(), deadline=st.sampled_from([None, 1_050.0]))
    def delegate(self, pooled: bool, deadline: float | None) -> None:
        mailbox, assignee = (pool_for(["go"], []).id, None) if pooled else ("mia", "mia")
        self.task = Task(
            "t1", 1, mailbox, REQUESTER, assignee, b"please", self.now, deadline or self.now + TTL, deadline
        )
        self.owner = assignee

    def take(self, step: Callable[[Task], Task], to: frozenset[TaskState]) -> bool:
        """Take a step that the table allows from here to one of these states, and see it refused otherwise."""
        before = self.task
        try:
            after = step(before)
        except WrongState:
            assert not to & TRANSITIONS[before.state] or before.expires_at <= self.now
            return False
        assert after.version == before.version + 1
        assert after.state in to
        assert after.state in TRANSITIONS[before.state] or after.state is before.state
        assert before.state not in FINAL or after.state is before.state
        self.task = after
        return True

    def until(self) -> float:
        """Return until when it is kept."""
        owner = None if self.task.assignee is None else self.agents[self.task.assignee]
        return task_steps.loses_at(self.task, owner, stale_after=STALE)

    # -- steps -------------------------------------------------------------------------------------------------------

    @rule(by=agents, lease=seconds)
    def claim(self, by: str, lease: float) -> None:
        """Claim it if nobody holds it, as whoever may look into its mailbox."""
        if self.until() > self.now or (not self.task.pooled and by != "mia"):
            return
        receipt = f"r{self.claims + 1}"
        state = self.task.state
        to = frozenset({TaskState.DELIVERED, *(_OPEN_REPORTS if state in _OPEN_REPORTS else ())})
        before = self.task

        def claim(t: Task) -> Task:
            return task_steps.claim(t, by=by, receipt=receipt, now=self.now, seconds=lease)

        if state in FINAL:
            assert not self.take(claim, frozenset({TaskState.DELIVERED}))
            return
        after = claim(before)
        assert after.state in to
        assert (after.version, after.attempts) == (before.version + 1, before.attempts + 1)
        self.task = after
        self.claims += 1
        self.owner, self.receipt = by, receipt
        self.receipts.append((by, receipt))

    @rule()
    def undo(self) -> None:
        """Undo the last claim, as long as it is under its receipt."""
        t = self.task
        if t.delivered_at is not None and t.receipt is not None and t.acked_at is None and t.state not in FINAL:
            try:
                self.task = task_steps.release(t, now=self.now)
            except LeaseLost:
                assert t.started_at is not None
                return
            assert self.task.state in (t.state, TaskState.QUEUED)
            self.owner, self.receipt = (None if t.pooled else "mia"), None

    @rule(for_good=st.booleans())
    def ack(self, for_good: bool) -> None:
        t = self.task
        until = task_steps.kept_until(t.mailbox, now=self.now, stale_after=STALE, for_good=for_good)
        if t.receipt is not None and t.acked_at is None:
            self.task = task_steps.ack(t, now=self.now, until=until)
            assert self.task.state is (TaskState.DELIVERED if t.state is TaskState.QUEUED else t.state)
            assert self.until() >= until or t.state in FINAL

    @rule(by=st.none() | agents)
    def lapse(self, by: str | None) -> None:
        """Take it back, whether or not its owner is there: that is for the relay to know."""
        if self.take(lambda t: task_steps.lapse(t, now=self.now, note="back", by=by), frozenset({TaskState.QUEUED})):
            self.owner = None if self.task.pooled else "mia"
            self.receipt = None if self.task.pooled else self.receipt

    @rule()
    def redrive(self) -> None:
        step = frozenset({TaskState.QUEUED})
        if self.take(lambda t: task_steps.redrive(t, now=self.now, ends_at=self.now + TTL), step):
            self.owner = None if self.task.pooled else "mia"
            self.receipt = None

    @rule(pick=st.integers(0, 99), state=reports, shown=st.sampled_from(["own", "none", "any"]), content=contents)
    def report(self, pick: int, state: TaskState, shown: str, content: bytes | None) -> None:
        by, receipt = self.receipts[pick % len(self.receipts)] if self.receipts else (AGENTS[pick % 2], "r0")
        if shown == "own" and self.owner is not None:
            by, receipt = self.owner, self.receipt or receipt
        given = None if shown == "none" or (shown == "own" and self.receipt is None) else receipt

        def respond(t: Task) -> Task:
            return task_steps.respond(
                t,
                by=by,
                receipt=given,
                state=state,
                response=f"answer {self.now}".encode(),
                now=self.now,
                ttl=TTL,
                keep=KEEP,
                content=content,
            )

        if by != self.owner or given not in (None, self.receipt):
            before = self.task
            try:
                respond(before)
            except LeaseLost:
                assert by == self.owner or given != self.receipt or any(by == holder for holder, _ in self.receipts)
            except NotAllowed:
                assert by != self.owner
            else:
                raise AssertionError("one that does not hold it was heard")
            return
        if self.take(respond, frozenset({state})):
            self.reported += 1

    @rule()
    def answer(self) -> None:
        asked = self.task.state is TaskState.INPUT_REQUIRED
        before = self.task
        try:
            self.task = task_steps.answer(before, by=REQUESTER, content=b'"this"', now=self.now, ttl=TTL)
        except WrongState:
            assert not asked
        else:
            assert asked
            assert self.task.state is TaskState.IN_PROGRESS
            self.reported += 1

    @rule(state=st.sampled_from([TaskState.CANCELLED, TaskState.EXPIRED, TaskState.FAILED]), really=st.integers(0, 5))
    def end(self, state: TaskState, really: int) -> None:
        if really == 0 or self.task.state in FINAL:
            self.take(lambda t: task_steps.end(t, state, by=None, now=self.now, keep=KEEP), frozenset({state}))

    @rule(seconds=seconds)
    def hold(self, seconds: float) -> None:
        before = self.task
        self.task = task_steps.hold(before, self.now + seconds)
        assert (self.task.held_until is None) == (before.held_until is None)
        assert (self.task.held_until or 0) >= (before.held_until or 0)

    @rule(by=agents, kind=st.sampled_from(["beat", "sign", "restart"]))
    def live(self, by: str, kind: str) -> None:
        """Show a sign of life: that keeps a task for longer or changes nothing, and a restart keeps nothing."""
        before = self.until()
        agent = self.agents[by]
        change = {"beat": beaten, "sign": seen}.get(kind)
        self.agents[by] = (
            replace(seen(agent, self.now), resumed_at=self.now) if change is None else change(agent, self.now)
        )
        if change is not None:
            assert self.until() >= before

    @rule(seconds=seconds)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # -- what must be true -------------------------------------------------------------------------------------------

    @invariant()
    def it_has_the_owner_that_was_given_it_last(self) -> None:
        t = self.task
        assert t.assignee == self.owner
        assert t.receipt == self.receipt
        assert t.pooled or t.assignee == "mia"
        assert t.assignee is not None or t.state in {TaskState.QUEUED} | FINAL
        if t.held_until is not None:
            assert t.assignee is not None
            assert t.delivered_at is not None
            assert t.state not in FINAL
        assert t.state is not TaskState.QUEUED or t.delivered_at is None

    @invariant()
    def it_ends_once_and_answers_and_times_fit(self) -> None:
        t = self.task
        final = t.state in FINAL
        assert (t.finished_at is not None) == final
        assert t.answer is None or t.state in ANSWERS
        assert sum(event.status in FINAL for event in t.history) == final
        assert (SETTLED in t.index_keys) == final
        assert t.ends_at <= t.expires_at
        assert t.deadline_at is None or final or t.expires_at == t.deadline_at
        assert not math.isinf(t.ends_at)
        assert len(set(t.index_keys)) == len(t.index_keys)

    @invariant()
    def its_history_leads_to_where_it_is_and_stays_within_bounds(self) -> None:
        t = self.task
        at = [event.at for event in t.history]
        assert at == sorted(at)
        assert t.reported_bytes == sum(
            len(event.content or b"") + len((event.note or "").encode()) for event in t.history
        )
        newest = t.history[-1] if t.history else None
        assert t.reported_bytes <= MAX_HISTORY_BYTES + len((newest and newest.content) or b"") + 4000
        said = sum(event.status in (*_OPEN_REPORTS, *ANSWERS) for event in t.history)
        ended_without = t.state is TaskState.FAILED and t.answer is None
        assert said - ended_without + t.dropped_events == self.reported
        ownership = len(t.history) - sum(event.status in _OPEN_REPORTS for event in t.history)
        assert len(t.history) <= max(MAX_HISTORY, ownership + 1) + self.claims
        state = TaskState.QUEUED
        for event in t.history:
            if event.status is TaskState.DELIVERED and state in _OPEN_REPORTS:
                continue  # it was reported on before it was claimed: that stands
            same = event.status is state and state not in (TaskState.DELIVERED, *FINAL)
            assert same or event.status in TRANSITIONS[state], f"{state} to {event.status}"
            state = event.status
        if not t.dropped_events:
            assert state is t.state


TestTaskRules = TaskRules.TestCase
TestTaskRules.settings = settings(
    max_examples=size(40, 80, 1000),
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
