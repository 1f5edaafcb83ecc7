"""Waiting for tasks and messages, in many short questions, through whatever happens to the relay meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, Generic, TypeVar

from clawlink.client.retry import PASSING, Backoff
from clawlink.domain.task import FINAL as _FINAL
from clawlink.errors import ClawLinkError, NotARelay
from clawlink.protocol.replies import MessageStatus, TaskView

T = TypeVar("T", TaskView, MessageStatus)

FINAL = frozenset(state.value for state in _FINAL)
# One question waits no longer than this, so that a connection that died in silence is noticed.
_STEP_SECONDS = 25.0
# Of several tasks, each is asked for on a connection of its own; what was not waited for ends within such a step.
_CROWD_STEP_SECONDS = 10.0
CROWD = 64
# More than that take turns on them, each so often.
_TURN_SECONDS = 1.0
# A relay that shuts down answers at once; asking again at once would only load it.
_HURRIED_SECONDS = 0.5
# Who has little time left gives an answer at least this long to come.
_LEAST_PATIENCE_SECONDS = 1.0
_AWAY = Backoff(tries=1_000_000, first=0.2, most=5.0)


class StillPending(ClawLinkError):
    """The time that was given for waiting is over. What was waited for goes on; ``current`` says where it stands."""

    code = "still_pending"


@dataclass(frozen=True)
class Trouble:
    """The relay cannot be asked, and why; None: it can be again."""

    error: ClawLinkError | None


@dataclass(frozen=True)
class Question(Generic[T]):
    """What is waited for. ``ask`` takes what is known, how long to wait, and the patience for the answer beyond that.

    ``ended`` tells whether there is nothing more to come; ``check`` fails if the relay is shutting down.
    """

    id: str
    ask: Callable[[T | None, float, float], T]
    ended: Callable[[T], bool]
    check: Callable[[float], object]


class Follower(Generic[T]):
    """Follows one task or message. What is news is said once: a change, the relay's going away, its coming back."""

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

    def turn(self) -> list[T | Trouble]:
        """Ask once, and return the news; afterwards wait for ``pause`` seconds. Raises what no patience mends."""
        started = time.monotonic()
        left = max(0.0, self._until - started)
        # What is new to us is asked without a wait: what it says, and that it can be asked again.
        wait = 0.0 if self.last is None or self.trouble is not None else round(min(self._step, left), 3)
        patience = max(_LEAST_PATIENCE_SECONDS, left - wait)
        self.pause = 0.0
        try:
            now_is = self._question.ask(self.last, wait, patience)
            changed = self.last is None or _differ(self.last, now_is)
            hurried = not changed and time.monotonic() - started < min(wait, _HURRIED_SECONDS)
            if hurried:
                self.pause = _HURRIED_SECONDS
            if hurried or self.trouble is not None:
                self._question.check(patience)
        except (*PASSING, NotARelay) as error:
            # What stands before a relay may answer in its place while it is away; but it must have been one.
            if isinstance(error, NotARelay) and self.last is None:
                raise
            return self._away(error)
        news: list[T | Trouble] = []
        if self.trouble is not None:
            news.append(Trouble(None))
        self.trouble, self._failed = None, 0
        if changed:
            news.append(now_is)
        self.last = now_is
        self.ended = self._question.ended(now_is)
        return news

    def _away(self, error: ClawLinkError) -> list[T | Trouble]:
        first = self.trouble is None
        self.trouble = error
        self._failed += 1
        self.pause = _AWAY.pause(error, attempt=self._failed, repeatable=True, random=random.random()) or 0.0
        return [Trouble(error)] if first else []


def follow(question: Question[T], timeout: float | None) -> Iterator[T | Trouble]:
    """Give the news of one task or message until it ends. Raises StillPending if that takes too long."""
    until = _end(timeout)
    follower = Follower(question, until)
    while True:
        yield from follower.turn()
        if follower.ended:
            return
        left = until - time.monotonic()
        if left <= 0:
            raise _late([follower], timeout)
        time.sleep(min(follower.pause, left))


def follow_all(
    lines: Iterable[tuple[Sequence[Question[T]], Callable[[], None]]], timeout: float | None
) -> Iterator[tuple[str, T | Trouble]]:
    """Give the news of several, each with its id, until all have ended. Raises StillPending if that takes too long.

    A line is what is asked on one connection, in a thread of its own, and what closes that in the end.
    """
    until = _end(timeout)
    crowd = _Crowd()
    going: dict[str, Follower[T]] = {}
    away: set[str] = set()
    for questions, close in lines:
        step = _CROWD_STEP_SECONDS if len(questions) == 1 else 0.0
        followers = [Follower(question, until, step=step) for question in questions]
        going.update((follower.id, follower) for follower in followers)
        crowd.start(followers, close)
    try:
        while going:
            # Each is asked once, however short the time is.
            grace = _LEAST_PATIENCE_SECONDS if any(f.last is None and f.trouble is None for f in going.values()) else 0
            left = until + grace - time.monotonic()
            try:
                id, news = crowd.news.get(timeout=max(0.0, min(left, threading.TIMEOUT_MAX)))
            except Empty:
                raise _late(list(going.values()), timeout) from None
            if isinstance(news, BaseException):
                raise news
            if news is None:
                del going[id]
            elif isinstance(news, Trouble):
                # All are away together: that is one piece of news.
                before = bool(away)
                (away.discard if news.error is None else away.add)(id)
                if bool(away) != before:
                    yield id, news
            else:
                yield id, news
    finally:
        crowd.over.set()


class _Crowd:
    """The threads that ask. They end with the process, and soon after nobody waits for them any more."""

    def __init__(self) -> None:
        self.news: Queue[tuple[str, Any]] = Queue()
        self.over = threading.Event()

    def start(self, followers: list[Follower[T]], close: Callable[[], None]) -> None:
        """Ask for these in a thread. Its news come with their ids; None is the end of one, an exception of all."""
        threading.Thread(target=self._run, args=(followers, close), daemon=True).start()

    def _run(self, followers: list[Follower[Any]], close: Callable[[], None]) -> None:
        least = _TURN_SECONDS if len(followers) > 1 else 0.0
        try:
            while followers and not self.over.is_set():
                started = time.monotonic()
                for follower in followers:
                    for one in follower.turn():
                        self.news.put((follower.id, one))
                    if follower.ended:
                        self.news.put((follower.id, None))
                pause = max(least - (time.monotonic() - started), *(follower.pause for follower in followers))
                followers = [follower for follower in followers if not follower.ended]
                self.over.wait(max(0.0, pause) if followers else 0.0)
        except BaseException as error:
            self.news.put(("", error))
        finally:
            close()


def _end(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout


def _late(followers: list[Follower[Any]], timeout: float | None) -> ClawLinkError:
    """Return what to raise when the time is over: that it goes on, or why nothing was heard at all."""
    for follower in followers:
        if follower.last is None and follower.trouble is not None:
            return follower.trouble
    away = next((f"; {f.trouble.message}" for f in followers if f.trouble is not None), "")
    states = {follower.id: _state(follower.last) for follower in followers}
    (id, state), *others = states.items()
    what = f"{len(states)} of them are still open" if others else f"{id} is still {state}"
    goes_on = "go on" if others else "goes on"
    return StillPending(f"{what} after {timeout or 0.0:g} s, and {goes_on}{away}", current=states if others else state)


def _differ(before: TaskView | MessageStatus, now_is: TaskView | MessageStatus) -> bool:
    """Tell whether there is news. That an owner was seen since is none."""
    if isinstance(before, TaskView) and isinstance(now_is, TaskView):
        return before.version != now_is.version
    return before != now_is


def _state(last: TaskView | MessageStatus | None) -> str:
    if isinstance(last, TaskView):
        return last.status
    return "unknown" if last is None else last.state


def reached(status: MessageStatus, until: str) -> bool:
    """Tell whether a message is ``until``: delivered, acked or answered."""
    if until == "answered":
        return status.answered_at is not None
    if status.counts:
        return not {"stored", "delivered" if until == "acked" else "stored"} & set(status.counts)
    further = status.acked_at is not None or status.answered_at is not None
    return further or (until == "delivered" and status.delivered_at is not None)


def next_stage(status: MessageStatus, until: str) -> str:
    """Return what to wait for next on the way to ``until``, so that each step of the way is seen."""
    stages = ("delivered", "acked", "answered")
    return next((stage for stage in stages[: stages.index(until)] if not reached(status, stage)), until)


def settled(status: MessageStatus, until: str) -> bool:
    """Tell whether a message is ``until``, or will not be any more."""
    return (
        reached(status, until)
        or status.task_status in FINAL
        or status.state in ("expired", "dead", "withdrawn")
        or (status.answered_at is not None)
    )
