"""The rules of wakes, as tables: what is done at a moment, and what a crash in between leaves."""

from __future__ import annotations

import random

from clawlink.wake import rules
from clawlink.wake.rules import (
    FAILED,
    FIRED,
    FIRING,
    HOUR,
    QUEUED,
    RETRY,
    TOLD,
    Fire,
    GiveUp,
    Look,
    Policy,
    State,
    Tell,
    Wait,
    Wake,
    decide,
)

NOW = 1_000_000.0
BUSY = Wait(None, "it is busy; its next hook tells it")
WOKEN = Wait(NOW + 110, "it was woken, and has not looked yet")
POLICY = Policy(claim=120.0, batch=1.0, per_hour=3)


def look(*unread: str, **fields: object) -> Look:
    return Look(unread, **{"seen_at": NOW - 60, "ready": (0, 1), **fields})  # type: ignore[arg-type]


def wake(*ids: str, ago: float = 10.0, **fields: object) -> State:
    made = {"phase": TOLD, "result": QUEUED, **fields}
    return State(Wake(ids, made.pop("step", 0), NOW - ago, "k", **made))  # type: ignore[arg-type]


def test_moments() -> None:
    table: list[tuple[str, State, Look, object]] = [
        # A new batch
        ("nothing is there", State(), look(), Wait(None, "nothing is unread")),
        ("mail came", State(), look("a", "b"), Fire(0, ("a", "b"))),
        ("mail came just now", State(), look("a", seen_at=NOW - 0.25), Wait(NOW + 0.75, "more may come")),
        ("the clock was set back", State(), look("a", seen_at=NOW + 9), Wait(NOW + 1, "more may come")),
        ("the first way is closed", State(), look("a", ready=(1,)), Fire(1, ("a",))),
        ("all given up", State(given_up=("a",)), look("a"), Wait(None, "nothing is unread")),
        ("some given up", State(given_up=("a",)), look("a", "b"), Fire(0, ("b",))),
        # A busy agent
        ("busy", State(), look("a", busy=True), BUSY),
        ("busy, no way", State(), look("a", busy=True, ready=()), BUSY),
        ("busy at the next way", wake("a", ago=130), look("a", busy=True), BUSY),
        ("busy at the end", wake("a", ago=130, step=1), look("a", busy=True), BUSY),
        # No way
        ("no way yet", State(), look("a", ready=()), Wait(NOW + 60, "no way to wake it is open now")),
        ("no way", State(), look("a", ready=(), seen_at=NOW - 121), GiveUp(("a",), "no way to wake it is open")),
        # After a wake
        ("woken", wake("a"), look("a"), WOKEN),
        ("more comes after a wake", wake("a"), look("a", "b", "c"), WOKEN),
        ("idle again, unread", wake("a"), look("a", back=True), WOKEN),
        ("idle again, and more came", wake("a"), look("a", "b", back=True), Fire(0, ("b",))),
        ("idle again, woken often", wake("a")._replace(times=(NOW - 3, NOW - 2, NOW - 1)), look("a", "b", back=True),
         Wait(NOW - 3 + HOUR, "it was woken often enough this hour")),
        ("read, and more came", wake("a"), look("b"), Fire(0, ("b",))),
        ("not read in time", wake("a", ago=120), look("a", "b"), Fire(1, ("a", "b"))),
        ("failed", wake("a", result=FAILED), look("a"), Fire(1, ("a",))),
        ("the end", wake("a", ago=120, step=1), look("a", "b"),
         GiveUp(("a",), "it was woken in all ways that are set up, and did not look")),
        ("the last one failed", wake("a", step=1, result=FAILED), look("a"),
         GiveUp(("a",), "it was woken in all ways that are set up, and did not look")),
        # Limits
        ("often", State(times=(NOW - HOUR - 1, NOW - 50, NOW - 40, NOW - 30)), look("a"),
         Wait(NOW - 50 + HOUR, "it was woken often enough this hour")),
        ("not too often", State(times=(NOW - HOUR, NOW - 40, NOW - 30)), look("a"), Fire(0, ("a",))),
        ("often, at the next way", wake("a", ago=130)._replace(times=(NOW - 50, NOW - 40, NOW - 30)), look("a"),
         Wait(NOW - 50 + HOUR, "it was woken often enough this hour")),
        ("no budget", State(), look("a", left=0, minute=1430), Wait(NOW + 600, "the budget of this day is used up")),
        ("a budget", State(), look("a", left=1), Fire(0, ("a",))),
        # A crash
        ("killed in an attempt", wake("a", phase=FIRING, result=None), look("a"), Fire(0, ("a",), again=True)),
        ("killed in it twice", wake("a", phase=FIRING, result=None, tries=2), look("a"),
         WOKEN),
        ("killed, which the limits have counted", wake("a", phase=FIRING, result=None)._replace(
            times=(NOW - 50, NOW - 40, NOW - 10)), look("a", left=0), Fire(0, ("a",), again=True)),
        ("killed, and read", wake("a", phase=FIRING, result=None), look("b"), Fire(0, ("b",))),
        ("killed, and the way is closed", wake("a", phase=FIRING, result=None), look("a", ready=(1,)),
         WOKEN),
        ("killed before the relay knew", wake("a", phase=FIRED), look("a"), Tell(wake("a", phase=FIRED).wake)),  # type: ignore[arg-type]
        ("the same, and read", wake("a", phase=FIRED), look(), Tell(wake("a", phase=FIRED).wake)),  # type: ignore[arg-type]
        # A retry
        ("to be tried again", wake("a", phase=RETRY, retry_at=NOW + 5, result=None), look("a"),
         Wait(NOW + 5, "the way to wake it is tried again")),
        ("to be tried after the end", wake("a", phase=RETRY, retry_at=NOW + 500, result=None), look("a"),
         Wait(NOW + 110, "the way to wake it is tried again")),
        ("tried again", wake("a", phase=RETRY, retry_at=NOW, result=None, tries=9), look("a"),
         Fire(0, ("a",), again=True)),
        ("tried long enough", wake("a", ago=121, phase=RETRY, retry_at=NOW, result=None), look("a"),
         Tell(wake("a", ago=121, phase=FIRED, result=FAILED, retry_at=NOW).wake)),  # type: ignore[arg-type]
    ]  # fmt: skip
    for name, state, seen, wanted in table:
        assert decide(state, seen, POLICY, NOW) == wanted, name


def test_quiet_hours() -> None:
    table = [
        ((22 * 60, 7 * 60), 23 * 60, 8 * 60),
        ((22 * 60, 7 * 60), 60, 6 * 60),
        ((22 * 60, 7 * 60), 7 * 60, 0),
        ((22 * 60, 7 * 60), 22 * 60, 9 * 60),
        ((9 * 60, 17 * 60), 12 * 60, 5 * 60),
        ((9 * 60, 17 * 60), 17 * 60, 0),
        ((9 * 60, 9 * 60), 9 * 60, 0),
    ]
    for quiet, minute, left in table:
        found = decide(State(), look("a", minute=minute), POLICY._replace(quiet=quiet), NOW)
        wanted = Wait(NOW + 60 * left, "these are quiet hours") if left else Fire(0, ("a",))
        assert found == wanted, (quiet, minute)


def test_what_is_kept_goes_with_the_mail() -> None:
    state, made = rules.began(State(times=(NOW - 4000, NOW - 5)), Fire(0, ("a", "b")), "key", NOW)
    assert (made.ids, made.phase, made.key, state.times) == (("a", "b"), FIRING, "key", (NOW - 5, NOW))
    again, made = rules.began(state, Fire(0, ("a", "b"), again=True), "other", NOW + 1)
    assert (made.key, made.tries, again.times) == ("key", 2, state.times), "the same attempt, counted once"
    put_off = rules.put_off(again, made, 7.0, "busy", NOW)
    assert put_off.wake is not None
    assert (put_off.wake.phase, put_off.wake.retry_at) == (RETRY, NOW + 7)
    done = rules.told(rules.fired(again, made, QUEUED, None), made._replace(result=QUEUED))
    assert done.wake is not None
    assert (done.wake.phase, done.wake.result) == (TOLD, QUEUED)
    assert rules.settled(done, ["b"], NOW).wake == done.wake
    assert rules.settled(done, ["c"], NOW + HOUR).wake is None
    assert rules.settled(done, ["c"], NOW + 2 * HOUR).times == ()
    fired = rules.fired(state, made, QUEUED, None)
    assert rules.settled(fired, [], NOW).wake == fired.wake, "the relay has to be told of it first"
    given = rules.gave_up(done, ["a"])
    assert (given.wake, given.given_up) == (done.wake, ("a",))
    given = rules.gave_up(given, ["b"])
    assert (given.wake, given.given_up) == (None, ("a", "b"))
    assert rules.settled(given, ["b", "c"], NOW).given_up == ("b",)


def test_whatever_happens_wakes_are_few_and_each_message_is_woken_for_or_given_up() -> None:
    """Let random things happen, with a kill between any two steps, and check the promises."""
    for seed in range(60):
        chance = random.Random(seed)
        now, state, unread, named = NOW, State(), [], 0
        fires: list[tuple[float, str]] = []
        covered: set[str] = set()
        first: dict[str, float] = {}
        for _ in range(400):
            now += chance.choice((0.1, 1.0, 20.0, 121.0))
            if chance.random() < 0.3:
                named += 1
                unread.append(f"m{named}")
                first[f"m{named}"] = now
            if unread and chance.random() < 0.2:
                del unread[: chance.randint(1, len(unread))]
            state = rules.settled(state, unread, now)
            busy = chance.random() < 0.2
            open_ones = [id for id in unread if id not in state.given_up]
            seen = Look(
                tuple(unread),
                min((first[id] for id in open_ones), default=now),
                busy,
                chance.choice(((0, 1), (1,), ())),
            )
            decision = decide(state, seen, POLICY, now)
            if isinstance(decision, Fire):
                assert not busy
                assert decision.step in seen.ready
                assert set(decision.ids) <= set(unread) or decision.again
                killed = chance.random() < 0.1
                state, made = rules.began(state, decision, f"{seed}-{now}", now)
                fires.append((now, made.key))
                covered |= set(decision.ids)
                if not killed:
                    state = rules.fired(state, made, chance.choice((QUEUED, FAILED)), None)
            elif isinstance(decision, Tell):
                state = rules.told(state, decision.wake)
            elif isinstance(decision, GiveUp):
                assert set(decision.ids) <= set(unread)
                state = rules.gave_up(state, decision.ids)
                covered |= set(decision.ids)
        keys = [key for _, key in fires]
        assert max((keys.count(key) for key in keys), default=0) <= 2, "no more than one wake is doubled by a kill"
        for at, _ in fires:
            started = {
                key for when, key in fires if at - HOUR < when <= at and keys.index(key) == fires.index((when, key))
            }
            assert len(started) <= POLICY.per_hour
        # Left alone, it comes to an end: all that is unread is woken for or given up.
        for _ in range(400):
            seen = Look(tuple(unread), min((first[id] for id in unread), default=now), ready=(0, 1))
            decision = decide(state, seen, POLICY, now)
            if isinstance(decision, Wait):
                if decision.until is None:
                    break
                now = max(now, decision.until)
            elif isinstance(decision, Fire):
                state, made = rules.began(state, decision, f"{now}", now)
                covered |= set(decision.ids)
                state = rules.fired(state, made, QUEUED, None)
            elif isinstance(decision, Tell):
                state = rules.told(state, decision.wake)
            else:
                state = rules.gave_up(state, decision.ids)
            state = rules.settled(state, unread, now)
        else:
            raise AssertionError(f"seed {seed} comes to no end")
        assert set(unread) <= covered
