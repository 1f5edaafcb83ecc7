"""Waiting for tasks and messages, in many short requests, also while the relay is away or restarts.

Nothing here sends or sleeps. A wait is a generator that yields the next request or pause. Its driver does that, in a
thread or in an event loop.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from clawlink.client import calls, endpoints, mailbox_endpoints
from clawlink.client.calls import Call, Identity
from clawlink.client.files import file_endpoints
from clawlink.client.retry import passes, pause_of_wait
from clawlink.domain.task import FINAL as _FINAL
from clawlink.errors import BadRequest, ClawLinkError
from clawlink.protocol.file_replies import FileHistory
from clawlink.protocol.mailbox_replies import MessageStatus
from clawlink.protocol.replies import TaskView

T = TypeVar("T", TaskView, MessageStatus, FileHistory)

FINAL = frozenset(state.value for state in _FINAL)
# A request waits this many seconds at most, so that a silently dead connection is noticed.
_STEP_SECONDS = 25.0
# Each of several tasks has a connection of its own; a wait that is given up ends within such a step.
_CROWD_STEP_SECONDS = 10.0
CROWD = 64
_LEAST_WAIT_SECONDS = 0.001
# More tasks than that take turns, each every this many seconds.
_TURN_SECONDS = 1.0
# A relay that shuts down answers at once; asking again at once would only load it.
_HURRIED_SECONDS = 0.5
# An answer has at least this long to come, however little time is left.
_LEAST_PATIENCE_SECONDS = 1.0


class StillPending(ClawLinkError):
    """The time for waiting is over, and the task or message goes on; ``current`` is its state."""

    code = "still_pending"


@dataclass(frozen=True)
class ConnectionState:
    """The relay cannot be asked, and why; None: it can be again."""

    error: ClawLinkError | None


class Send(NamedTuple):
    """Send this call once, have ``patience`` seconds with it beyond its own wait, and hand in the answer or error."""

    call: Call[Any]
    patience: float


class Sleep(NamedTuple):
    """Do nothing for this many seconds."""

    seconds: float


class RunBlocking(NamedTuple):
    """Run this function, which may block, and send its return value or exception back."""

    work: Callable[[], Any]


class Event(NamedTuple):
    """News of the task or message ``id``; None: there is no more to come."""

    id: str
    news: Any


Step = Send | Sleep | RunBlocking | Event


@dataclass(frozen=True)
class Question(Generic[T]):
    """The goal of a wait. ``ask`` takes the known state and the time to wait.

    ``ended`` tells whether there is nothing more to come; ``check`` fails if the relay is shutting down.
    """

    id: str
    ask: Callable[[T | None, float], Call[T]]
    ended: Callable[[T], bool]
    check: Callable[[], Call[Any]]


def about_task(me: Identity, task_id: str) -> Question[TaskView]:
    """Ask for a task until it is final."""

    def ask(last: TaskView | None, wait: float) -> Call[TaskView]:
        return endpoints.task(me, task_id, wait=wait, since=None if last is None else last.version)

    return Question(task_id, ask, lambda task: task.status in FINAL, lambda: endpoints.health(me))


def about_message(me: Identity, message_id: str, until: str) -> Question[MessageStatus]:
    """Ask for a message until it is ``until``, or will not be any more."""

    def ask(last: MessageStatus | None, wait: float) -> Call[MessageStatus]:
        return mailbox_endpoints.message(
            me, message_id, wait=wait, until=until if last is None else next_stage(last, until)
        )

    return Question(message_id, ask, lambda status: settled(status, until), lambda: endpoints.health(me))


def about_file(me: Identity, file_key: str, since: int | None) -> Question[FileHistory]:
    """Ask for a file until it is at another version than ``since``, or than at the first answer."""
    known = since

    def ask(last: FileHistory | None, wait: float) -> Call[FileHistory]:
        # Always with a wait, so that the relay can hold the request until there is news.
        return file_endpoints.file_history(me, file_key, since=known, wait=max(wait, _LEAST_WAIT_SECONDS))

    def ended(history: FileHistory) -> bool:
        nonlocal known
        if known is None:
            known = history.version
        return history.version != known

    return Question(file_key, ask, ended, lambda: endpoints.health(me))


class Follower(Generic[T]):
    """Follows one task or message. It reports each news once: a change, the relay's absence, its return."""

    def __init__(self, question: Question[T], until: float, *, step: float = _STEP_SECONDS) -> None:
        self.id = question.id
        self.last: T | None = None
        self.trouble: ClawLinkError | None = None
        self.ended = False
        self.pause = 0.0
        self._question: Question[T] = question
        self._until = until
        self._step = step
        self._failed = 0

    def turn(self) -> Generator[Send, Any, list[T | ConnectionState]]:
        """Ask once, and return the news; afterwards rest for ``pause`` seconds.

        Raises an error that waiting cannot mend.
        """
        started = time.monotonic()
        left = max(0.0, self._until - started)
        # The first question does not wait: it shows the state, and that it can be asked again.
        wait = 0.0 if self.last is None or self.trouble is not None else round(min(self._step, left), 3)
        patience = max(_LEAST_PATIENCE_SECONDS, left - wait)
        self.pause = 0.0
        try:
            now_is: T = yield Send(self._question.ask(self.last, wait), patience)
            changed = self.last is None or _differ(self.last, now_is)
            hurried = not changed and time.monotonic() - started < min(wait, _HURRIED_SECONDS)
            if hurried:
                self.pause = _HURRIED_SECONDS
            if hurried or self.trouble is not None:
                yield Send(self._question.check(), patience)
        except ClawLinkError as error:
            if not passes(error, answered=self.last is not None):
                raise
            return self._away(error)
        news: list[T | ConnectionState] = []
        if self.trouble is not None:
            news.append(ConnectionState(None))
        self.trouble, self._failed = None, 0
        if changed:
            news.append(now_is)
        self.last = now_is
        self.ended = self._question.ended(now_is)
        return news

    def _away(self, error: ClawLinkError) -> list[T | ConnectionState]:
        first = self.trouble is None
        self.trouble = error
        self._failed += 1
        self.pause = pause_of_wait(error, attempt=self._failed, random=random.random())
        return [ConnectionState(error)] if first else []


def follow(question: Question[T], timeout: float | None) -> Generator[Send | Sleep | Event, Any, None]:
    """Give the news of one task or message until it ends. Raises StillPending if that takes too long."""
    until = _end(timeout)
    follower = Follower(question, until)
    while True:
        for news in (yield from follower.turn()):
            yield Event(follower.id, news)
        if follower.ended:
            return
        left = until - time.monotonic()
        if left <= 0:
            raise _late([follower], timeout)
        yield Sleep(min(follower.pause, left))


class TaskGroupWaiter(Generic[T]):
    """Follows several tasks at once, on up to ``lines`` generators, each with a connection of its own.

    The driver of the lines collects their news, and gives them to ``hear``.
    """

    def __init__(self, questions: Iterable[Question[T]], timeout: float | None) -> None:
        self._timeout = timeout
        self._until = _end(timeout)
        asked = list(questions)
        shared = [asked[at::CROWD] for at in range(min(len(asked), CROWD))]
        crews = [
            [Follower(one, self._until, step=0.0 if len(line) > 1 else _CROWD_STEP_SECONDS) for one in line]
            for line in shared
        ]
        self._going: dict[str, Follower[T]] = {follower.id: follower for crew in crews for follower in crew}
        self._away: set[str] = set()
        self.lines = [_line(crew) for crew in crews]

    @property
    def going(self) -> bool:
        """Return True if any has not ended yet."""
        return bool(self._going)

    @property
    def left(self) -> float:
        """The seconds until ``late``, 0 at least: each is asked once, however short the time is."""
        going = self._going.values()
        grace = _LEAST_PATIENCE_SECONDS if any(f.last is None and f.trouble is None for f in going) else 0.0
        return max(0.0, self._until + grace - time.monotonic())

    def late(self) -> ClawLinkError:
        """Return the error for the end of the time."""
        return _late(list(self._going.values()), self._timeout)

    def hear(self, said: Event) -> T | ConnectionState | None:
        """Take the report of a line, and return its news for the waiting caller."""
        news: T | ConnectionState | None = said.news
        if news is None:
            del self._going[said.id]
        elif isinstance(news, ConnectionState):
            # All are away together: that is one piece of news.
            before = bool(self._away)
            (self._away.discard if news.error is None else self._away.add)(said.id)
            return news if bool(self._away) != before else None
        return news


def _line(followers: list[Follower[T]]) -> Generator[Send | Sleep | Event, Any, None]:
    least = _TURN_SECONDS if len(followers) > 1 else 0.0
    while followers:
        started = time.monotonic()
        for follower in followers:
            for one in (yield from follower.turn()):
                yield Event(follower.id, one)
            if follower.ended:
                yield Event(follower.id, None)
        pause = max(least - (time.monotonic() - started), *(follower.pause for follower in followers))
        followers = [follower for follower in followers if not follower.ended]
        if followers:
            yield Sleep(max(0.0, pause))


def distinct(task_ids: Iterable[str]) -> list[str]:
    """Return each id once. Raises BadRequest if there is none."""
    ids = list(dict.fromkeys(calls.several(task_ids, "task_ids")))
    if not ids:
        raise BadRequest("there is no task to wait for", field="task_ids")
    return ids


def _end(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + calls.number_of_seconds(timeout, "timeout")


def _late(followers: list[Follower[Any]], timeout: float | None) -> ClawLinkError:
    """Return the error for the end of the time: that the task goes on, or why there was no answer at all."""
    for follower in followers:
        if follower.last is None and follower.trouble is not None:
            return follower.trouble
    away = next((f"; {f.trouble.message}" for f in followers if f.trouble is not None), "")
    histories = [follower.last for follower in followers if isinstance(follower.last, FileHistory)]
    if histories:
        (one,) = histories
        at = f"at version {one.version}" if one.version else "not there"
        return StillPending(f"{one.file_key!r} is still {at} after {timeout or 0.0:g} s{away}", current=one.version)
    states = {follower.id: _state(follower.last) for follower in followers}
    (id, state), *others = states.items()
    what = f"{len(states)} of them are still open" if others else f"{id} is still {state}"
    goes_on = "go on" if others else "goes on"
    return StillPending(f"{what} after {timeout or 0.0:g} s, and {goes_on}{away}", current=states if others else state)


def _differ(before: T, now_is: T) -> bool:
    """Return True if there is news. A later sign of life of the owner is none; its going stale is."""
    if isinstance(before, TaskView) and isinstance(now_is, TaskView):
        return (before.version, _presence(before)) != (now_is.version, _presence(now_is))
    return before != now_is


def _presence(task: TaskView) -> tuple[str | None, bool]:
    return None if task.owner is None else task.owner.status, task.pool_online == 0


def _state(last: TaskView | MessageStatus | None) -> str:
    if isinstance(last, TaskView):
        return last.status
    return "unknown" if last is None else last.state


def reached(status: MessageStatus, until: str) -> bool:
    """Return True if a message came as far as ``until``: delivered, acked or answered."""
    if until == "answered":
        return status.answered_at is not None
    if status.to_agent is None and status.task_status is None:  # all copies of a broadcast
        left = {"stored", "delivered" if until == "acked" else "stored"} & set(status.counts)
        return status.state != "refused" and not left
    further = status.acked_at is not None or status.answered_at is not None
    return further or (until == "delivered" and status.delivered_at is not None)


def next_stage(status: MessageStatus, until: str) -> str:
    """Return the next state to wait for on the way to ``until``, so that each step is seen."""
    stages = ("delivered", "acked", "answered")
    return next((stage for stage in stages[: stages.index(until)] if not reached(status, stage)), until)


def settled(status: MessageStatus, until: str) -> bool:
    """Return True if a message came as far as ``until``, or never will."""
    return (
        reached(status, until)
        or status.task_status in FINAL
        or status.state in ("expired", "dead", "withdrawn", "refused")
        or (status.answered_at is not None)
    )
