"""When an agent is woken, by which adapter, and when nobody is left to wake it: pure, with the time as an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HOUR = 3600.0
_MINUTES_OF_DAY = 1440
# An interrupted attempt is made once more, and not for ever.
MAX_TRIES = 2
_MAX_GIVEN_UP = 1000

# How far an attempt has come. A crash leaves it there. An adapter may ask for a retry.
FIRING, RETRY, FIRED, TOLD = range(4)

STARTED, QUEUED, FAILED, GIVEN_UP = "started", "queued", "failed", "given_up"


class Policy(NamedTuple):
    """How an agent is woken. Times are in seconds, ``quiet`` is a beginning and an end in minutes of the local day.

    ``claim`` is how long unread mail may stay unread after a wake, before the next adapter has its turn. ``batch``
    is how long the first message waits for others. ``per_hour`` limits the wakes of an agent.
    """

    claim: float = 120.0
    batch: float = 0.03
    per_hour: int = 20
    quiet: tuple[int, int] | None = None


class Wake(NamedTuple):
    """The attempts for a batch of messages. ``step`` is the adapter's place in the chain, ``at`` in epoch seconds.

    ``key`` names the attempt: a repeat after a crash has the same. ``phase`` is how far the attempt came.
    """

    ids: tuple[str, ...]
    step: int
    at: float
    key: str
    phase: int = FIRING
    tries: int = 1
    result: str | None = None
    note: str | None = None
    retry_at: float = 0.0


class State(NamedTuple):
    """All that is kept of an agent over a crash. ``times`` are the wakes of the last hour."""

    wake: Wake | None = None
    given_up: tuple[str, ...] = ()
    times: tuple[float, ...] = ()


class Look(NamedTuple):
    """The facts of a moment: unread messages, when the oldest new one was seen, and the state of the agent.

    ``ready`` are the places in the chain of adapters that can work now. ``minute`` is that of the local day.
    ``left`` is how many wakes the account may still make today, None without a budget. ``back`` says that the woken
    agent has been in a turn since, and is idle again.
    """

    unread: tuple[str, ...]
    seen_at: float
    busy: bool = False
    ready: Sequence[int] = ()
    minute: int = 0
    left: int | None = None
    back: bool = False


class Wait(NamedTuple):
    """Nothing to do before ``until``, in epoch seconds; None until something changes. ``why`` is for people."""

    until: float | None
    why: str


class Fire(NamedTuple):
    """Wake the agent by the adapter at ``step`` for these messages. ``again`` repeats an interrupted attempt."""

    step: int
    ids: tuple[str, ...]
    again: bool = False


class Tell(NamedTuple):
    """Tell the relay what came of the last attempt: a crash, or the relay's absence, came between."""

    wake: Wake


class GiveUp(NamedTuple):
    """No adapter is left: tell the senders of these messages and the person."""

    ids: tuple[str, ...]
    why: str


Decision = Wait | Fire | Tell | GiveUp


def decide(state: State, look: Look, policy: Policy, now: float) -> Decision:
    """Return what to do now. Before a ``Fire`` is done, look again and decide again."""
    wake = state.wake
    if wake is not None and wake.phase == FIRED:
        return Tell(wake)
    if wake is not None and wake.phase == RETRY and now >= _since(wake.at, now) + policy.claim:
        return Tell(wake._replace(phase=FIRED, result=FAILED))
    unread = [id for id in look.unread if id not in state.given_up]
    if not unread:
        return Wait(None, "nothing is unread")
    under_way = wake is not None and not set(wake.ids).isdisjoint(unread)
    if wake is not None and under_way:
        deadline = _since(wake.at, now) + policy.claim
        repeat = _repeat(wake, deadline, now)
        if isinstance(repeat, Wait):
            return repeat
        if repeat and wake.step in look.ready:
            return _allowed(Fire(wake.step, wake.ids, again=True), state, look, policy, now, counted=True)
        fresh = tuple(id for id in unread if id not in wake.ids)
        if look.back and fresh:
            return _allowed(Fire(wake.step, fresh), state, look, policy, now)
        if wake.result != FAILED and now < deadline:
            return Wait(deadline, "it was woken, and has not looked yet")
        step = next((step for step in look.ready if step > wake.step), None)
        if step is None and look.busy:
            return Wait(None, "it is busy; its next hook tells it")
        if step is None:
            given = tuple(id for id in unread if id in wake.ids)
            return GiveUp(given, "it was woken in all ways that are set up, and did not look")
        return _allowed(Fire(step, tuple(unread)), state, look, policy, now)
    if look.busy:
        return Wait(None, "it is busy; its next hook tells it")
    seen_at = _since(look.seen_at, now)
    if not look.ready:
        if now < seen_at + policy.claim:
            return Wait(seen_at + policy.claim, "no way to wake it is open now")
        return GiveUp(tuple(unread), "no way to wake it is open")
    if now < seen_at + policy.batch:
        return Wait(seen_at + policy.batch, "more may come")
    return _allowed(Fire(look.ready[0], tuple(unread)), state, look, policy, now)


def _repeat(wake: Wake, deadline: float, now: float) -> bool | Wait:
    """Return True if the attempt is to be made once more, or when."""
    if wake.phase == RETRY:
        at = min(wake.retry_at, deadline)
        return Wait(at, "the way to wake it is tried again") if now < at else True
    return wake.phase == FIRING and wake.tries < MAX_TRIES


def _allowed(fire: Fire, state: State, look: Look, policy: Policy, now: float, *, counted: bool = False) -> Fire | Wait:
    """Return the attempt, or when it may be made. ``counted`` is an attempt that the limits have counted already."""
    if look.busy:
        return Wait(None, "it is busy; its next hook tells it")
    if (minutes := _quiet_for(policy.quiet, look.minute)) > 0:
        return Wait(now + 60.0 * minutes, "these are quiet hours")
    if counted:
        return fire
    times = _recent(state.times, now)
    if len(times) >= policy.per_hour:
        return Wait(times[-policy.per_hour] + HOUR if policy.per_hour else None, "it was woken often enough this hour")
    if look.left is not None and look.left <= 0:
        return Wait(now + 60.0 * (_MINUTES_OF_DAY - look.minute), "the budget of this day is used up")
    return fire


def _since(at: float, now: float) -> float:
    """Return the time, unless it lies ahead: a clock that was set back makes no wait longer."""
    return min(at, now)


def _quiet_for(quiet: tuple[int, int] | None, minute: int) -> int:
    """Return how many minutes of quiet are left; 0 outside of them. They may go over midnight."""
    if quiet is None or quiet[0] == quiet[1]:
        return 0
    begin, end = quiet
    inside = begin <= minute < end if begin < end else minute >= begin or minute < end
    return (end - minute) % _MINUTES_OF_DAY if inside else 0


def _recent(times: Sequence[float], now: float) -> tuple[float, ...]:
    return tuple(at for at in times if now - HOUR < at <= now)


# -- What is kept of it ------------------------------------------------------------------------------------------------


def began(state: State, fire: Fire, key: str, now: float) -> tuple[State, Wake]:
    """Keep an attempt before it is made: a crash in it is known, and counts."""
    if fire.again and state.wake is not None:
        tries = state.wake.tries + (state.wake.phase == FIRING)
        wake = state.wake._replace(phase=FIRING, tries=tries)
        return state._replace(wake=wake), wake
    wake = Wake(fire.ids, fire.step, now, key)
    return state._replace(wake=wake, times=(*_recent(state.times, now), now)), wake


def fired(state: State, wake: Wake, result: str, note: str | None) -> State:
    """Keep the result of an attempt."""
    return state._replace(wake=wake._replace(phase=FIRED, result=result, note=note))


def put_off(state: State, wake: Wake, pause: float, note: str | None, now: float) -> State:
    """Keep that the adapter asks for a retry after some seconds."""
    return state._replace(wake=wake._replace(phase=RETRY, retry_at=now + pause, note=note))


def told(state: State, wake: Wake) -> State:
    """Keep that the relay has the result."""
    return state._replace(wake=wake._replace(phase=TOLD))


def gave_up(state: State, ids: Sequence[str]) -> State:
    """Keep that nobody is woken for these messages any more."""
    wake = state.wake
    if wake is not None and set(wake.ids) <= {*ids, *state.given_up}:
        wake = None
    return state._replace(wake=wake, given_up=(*state.given_up, *ids)[-_MAX_GIVEN_UP:])


def settled(state: State, unread: Sequence[str], now: float) -> State:
    """Forget what is read, and the wakes of more than an hour ago. ``unread`` are all unread messages."""
    wake = state.wake
    if wake is not None and wake.phase != FIRED and set(wake.ids).isdisjoint(unread):
        wake = None
    given_up = tuple(id for id in state.given_up if id in unread)
    return State(wake, given_up, _recent(state.times, now))


def day(times: Sequence[float], midnight: float) -> tuple[float, ...]:
    """Return the wakes since the last local midnight."""
    return tuple(at for at in times if at >= midnight)
