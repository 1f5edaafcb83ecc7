"""The way of a message to another portal: the next step, and the effect of each outcome.

    queued --> sending --> sent            the other portal has stored it
       ^          |------> refused         it said no for good
       |          |------> queued          it surely has not stored it: later again
       |          '------> sending         nobody knows: ask for its kind, then post again
       |          '------> unknown         it is in doubt, and is not posted again
       '---- expired                       the time is over, and it surely has not stored it

A portal of ClawLink takes a repeat of a message once, because it carries a key. An old portal stores every repeat. So a
message is ``sending`` before its post, unless the portal is known to be ours. That one gets it again after a lost
answer or a kill, which leave it ``sending``, too. To an old portal a message in doubt is posted once more.
"""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace

from clawlink.doors.portal.records import OPEN, Message, State

MOST_LOST = 2


class Step(str, Enum):
    """The next step for a message that waits."""

    POST = "post"
    ASK = "ask"
    """Ask the other portal whether it is a relay of ClawLink."""
    SETTLED = "settled"


class Outcome(str, Enum):
    """The outcome of a post."""

    STORED = "stored"
    REFUSED = "refused"
    """For good: the same message will be refused again."""
    NOT_STORED = "not stored"
    LOST = "lost"
    """The message may be stored there or not."""


def step(message: Message, ours: bool | None) -> Step:
    """Return the next step for a message to a portal that is ``ours``, is not, or is not known yet."""
    if message.state not in OPEN:
        return Step.SETTLED
    if message.state is State.SENDING and ours is None:
        return Step.ASK
    return Step.POST


def begun(message: Message, ours: bool | None) -> Message:
    """Return a message that is about to be posted. It stays as it is for a portal that takes a repeat once.

    A message that is in doubt as often as it may be becomes ``unknown``.
    """
    if ours:
        return message
    if message.lost >= MOST_LOST:
        return settled(
            message,
            State.UNKNOWN,
            "the answer was lost twice: the other portal may have it once, twice or not at all; ask its owner",
        )
    return replace(message, version=message.version + 1, state=State.SENDING, lost=message.lost + 1)


def after(message: Message, outcome: Outcome, detail: str, now: float) -> Message:
    """Return a message after the outcome of its post. ``detail`` says for people what happened."""
    version = message.version + 1
    if outcome is Outcome.STORED:
        return replace(message, version=version, state=State.SENT, detail="", sent_at=now)
    if outcome is Outcome.REFUSED:
        return settled(message, State.REFUSED, detail)
    if outcome is Outcome.NOT_STORED and message.lost:
        lost = message.lost - 1
        state = State.SENDING if lost else State.QUEUED
        return replace(message, version=version, state=state, lost=lost, detail=detail)
    state = State.SENDING if outcome is Outcome.LOST else message.state
    return replace(message, version=version, state=state, detail=detail)


def cut_off(message: Message) -> Message:
    """Return a message for a portal of ours that was with the outbox when its relay was killed."""
    if message.state is not State.QUEUED:
        return message
    return replace(
        message,
        version=message.version + 1,
        state=State.SENDING,
        detail="this portal ended while it sent the message",
    )


def settled(message: Message, state: State, detail: str) -> Message:
    """Return a message for which nothing more is done."""
    return replace(message, version=message.version + 1, state=state, detail=detail)


def given_up(message: Message, state: State, why: str) -> Message:
    """Return a message that is not posted again: as ``state``, or ``unknown`` while the other portal may have it."""
    if message.state is State.SENDING:
        return settled(message, State.UNKNOWN, f"an answer was lost, so the other portal may have it; {why}")
    return settled(message, state, why)


def lapse(message: Message, now: float) -> Message:
    """Return a message whose time to live is over."""
    if message.state not in OPEN or message.expires_at is None or message.expires_at > now:
        return message
    last = f"; the last failure: {message.detail}" if message.detail else ""
    if message.state is State.SENDING:
        return given_up(message, State.EXPIRED, f"its time to live is over{last}")
    return settled(message, State.EXPIRED, f"it was not sent within its time to live{last}")
