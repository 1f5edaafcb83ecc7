"""Relay time: a clock that is set while the relay runs moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from clawlink.domain.limits import Limits
from clawlink.relay.relay import Relay
from clawlink.relay.timestamps import RelayTime, steady_clock
from clawlink.store.signals import LocalSignals
from tests.conftest import Serve
from tests.relay.scene import Scene, receipt_of
from tests.server.asks import claim_one, poll, send
from tests.system.raw import Clock

START = 1_800_000_000.0
_DAY, _HOUR = 86400.0, 3600.0
Until = Callable[[Callable[[], bool]], Awaitable[None]]
STEPS = (2 * _DAY, -_HOUR)


class Machine(SimpleNamespace):
    """The clocks of a machine: the one that can be set, and the steady one."""

    def __init__(self) -> None:
        super().__init__(wall=START, steady=77.0)
        self.time = RelayTime(wall=lambda: self.wall, steady=lambda: self.steady)

    def let_pass(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_relay_time_begins_at_the_systems_clock_and_follows_the_steady_one() -> None:
    for step in STEPS:
        machine = Machine()
        assert machine.time() == START
        machine.wall += step
        assert machine.time() == START, step
        machine.let_pass(5)
        assert machine.time() == START + 5, step


def test_a_step_is_told_once_and_a_clock_that_is_merely_corrected_never() -> None:
    for step in STEPS:
        machine = Machine()
        for _ in range(100):
            machine.let_pass(60)
            machine.wall += 0.05
            assert machine.time.step() is None
        machine.wall += step
        assert machine.time.step() == pytest.approx(step + 5), step
        assert machine.time.step() is None
        machine.wall -= step
        assert machine.time.step() == pytest.approx(5), step


def test_a_step_while_no_relay_ran_is_told_if_anything_shows_it() -> None:
    one_boot, before = ("boot", 1000.0), ("an earlier boot", 9e6)
    for wall, steady, uptime, step in (
        # The machine has run on: the steady clock tells how long the stop was, and the rest is a step.
        (START + 600, 1600.0, one_boot, None),
        (START + 600 + 9, 1600.0, one_boot, None),
        (START + 600 + 2 * _DAY, 1600.0, one_boot, 2 * _DAY),
        (START + 600 - _HOUR, 1600.0, one_boot, -_HOUR),
        (START + 600 - 300, 1600.0, one_boot, -300),  # still later than the stop
        # The machine was started since, or does not tell: only a clock behind the stop is known to be wrong.
        (START + 600, 50.0, before, None),
        (START + 600 + 2 * _DAY, 50.0, before, None),
        (START - _HOUR, 50.0, before, -_HOUR),
        (START - 9, 50.0, before, None),
        (START + 600 + 2 * _DAY, 1600.0, None, None),
        (START - _HOUR, 1600.0, None, -_HOUR),
    ):
        case = (wall - START, steady, uptime)
        time = RelayTime(wall=lambda at=wall: at, steady=lambda at=steady: at, not_before=START, boot="boot")  # type: ignore[misc]
        told = time.step_since(START, uptime)
        assert (told if step is None else told == pytest.approx(step)) is (None if step is None else True), case
        assert time.step() is None, case  # it is not told again as a step of this run
        assert time() == max(wall, START), case
        assert time.uptime() == ("boot", steady), case


def test_the_steady_clock_counts_seconds_and_never_goes_back() -> None:
    clock = steady_clock()
    seen = [clock() for _ in range(1000)]
    assert seen == sorted(seen)
    assert isinstance(seen[0], float)


@pytest.mark.both_loops
async def test_a_clock_that_is_set_moves_no_lease_no_deadline_and_no_presence() -> None:
    for step in STEPS:
        machine, scene = Machine(), Scene()
        scene.relay = relay = Relay(scene.store, LocalSignals(), Limits(), clock=machine.time)
        await scene.register("req", "bob", "eve")
        task = await scene.delegate(to_agent="bob", deadline=_HOUR)
        waiting = await scene.delegate(to_agent="eve", deadline=_HOUR)
        (held,) = [d for d in await scene.take("bob", lease=20) if d.is_task]
        await scene.read("eve")
        machine.wall += step
        machine.let_pass(19)
        await relay.janitor.sweep()
        assert [d for d in await scene.take("bob") if d.is_task] == [], step
        assert (await scene.status(task), await scene.status(waiting)) == ("delivered", "delivered"), step
        agents = await relay.agents.directory.presence()
        assert agents == (3, 0), step
        machine.let_pass(2)
        (again,) = [d for d in await scene.take("bob") if d.is_task]
        assert (again.id, again.attempts) == (held.id, 2), step
        await relay.acks.ack("bob", [receipt_of(again)])
        machine.let_pass(_HOUR)
        await relay.janitor.sweep()
        assert (await scene.status(task), await scene.status(waiting)) == ("expired", "expired"), step


async def test_a_relay_counts_in_relay_time_and_logs_that_the_clock_was_set(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    wall = SimpleNamespace(now=START)
    monkeypatch.setattr("clawlink.relay.timestamps.time.time", lambda: wall.now)
    relay = await serve()
    monkeypatch.undo()  # others ask for the time, too; relay time keeps the function that it was given
    assert abs(relay.app.relay.clock() - START) < 600
    wall.now += 2 * _DAY
    await until(lambda: any("clock" in record.message for record in caplog.records))
    (told,) = [record for record in caplog.records if "clock" in record.message]
    assert told.levelname == "WARNING"
    assert abs(relay.app.relay.clock() - START) < 600


@pytest.mark.both_loops
async def test_after_the_machine_has_slept_a_lease_that_lapsed_meanwhile_comes_to_one_that_waits(
    serve: Serve, until: Until
) -> None:
    clock = Clock()
    relay = await serve(clock=clock)
    await relay.register("Ann", agent_id="a")
    await relay.register("Bob", agent_id="b")
    await send(relay, "a", "b")
    await claim_one(relay, "b", lease=60)
    waiting = asyncio.create_task(poll(relay, "b", wait=20, lease=60))
    await until(lambda: relay.app.relay.waiting == 1)
    clock.skip(61)
    reply = await waiting
    assert [held["attempt"] for held in reply["deliveries"]] == [2]


def test_restarts_do_not_lead_relay_time_away_from_the_systems_clock() -> None:
    now = SimpleNamespace(wall=START, steady=START)
    clocks: Any = {"wall": lambda: now.wall, "steady": lambda: now.steady, "boot": "boot"}
    clock = RelayTime(**clocks)
    for _ in range(10):
        noted, uptime = clock(), clock.uptime()
        now.wall, now.steady = now.wall + 0.25, now.steady + 0.25  # it goes on behind its note, and is killed
        told = clock()
        clock = RelayTime.after_stop(noted, uptime, **clocks)
        assert clock() == told == now.wall
    noted, uptime = clock(), clock.uptime()
    # After a start of the machine nothing tells how long it went on.
    assert RelayTime.after_stop(noted, uptime, **{**clocks, "boot": "next boot"})() == noted + 2
    # A clock that was set back meanwhile does not take relay time back.
    now.wall, now.steady = now.wall - 3600, now.steady + 60
    assert RelayTime.after_stop(noted, uptime, **clocks)() == noted + 2
