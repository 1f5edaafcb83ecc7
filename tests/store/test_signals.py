"""Signals: whoever listens is woken, whenever the signal comes, and nobody else is."""

from __future__ import annotations

import asyncio

import pytest

from clawlink.store.events import Signals
from clawlink.store.signals import LocalSignal, LocalSignals
from tests.waiting import PATIENCE

pytestmark = pytest.mark.both_loops

SOON = PATIENCE  # bounds a wait that ends much earlier unless something is wrong


@pytest.fixture
def signals() -> LocalSignals:
    return LocalSignals()


async def woken(signal: LocalSignal) -> bool:
    """Tell whether the signal has been given since it was last cleared."""
    try:
        await asyncio.wait_for(signal.wait(None), 0.01)
    except asyncio.TimeoutError:
        return False
    return True


async def asleep(signal: LocalSignal, seconds: float | None = None) -> asyncio.Task[None]:
    """Return a task that sleeps on the signal."""
    task = asyncio.ensure_future(signal.wait(seconds))
    await asyncio.sleep(0)
    return task


async def test_signals_in_one_process_are_signals(signals: LocalSignals) -> None:
    interface: Signals = signals
    assert interface.listeners() == 0


async def test_a_signal_before_the_wait_is_not_slept_through(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        signals.publish("mia")
        await asyncio.wait_for(signal.wait(None), SOON)


async def test_a_signal_during_the_wait_ends_it(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        sleeper = await asleep(signal)
        signals.publish("mia")
        await asyncio.wait_for(sleeper, SOON)


async def test_several_signals_during_one_wait_are_one(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        sleeper = await asleep(signal)
        signals.publish("mia")
        signals.publish("mia")
        await asyncio.wait_for(sleeper, SOON)
        signal.clear()
        assert not await woken(signal)


async def test_a_signal_counts_until_it_is_cleared(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        signals.publish("mia")
        assert await woken(signal)
        assert await woken(signal)
        signal.clear()
        assert not await woken(signal)


async def test_a_signal_after_the_clear_counts(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        signals.publish("mia")
        signal.clear()
        signals.publish("mia")
        assert await woken(signal)


@pytest.mark.parametrize("seconds", [0.01, 0.0005, 0.0001, 0.0, -1.0])
async def test_a_wait_ends_when_its_time_is_over_and_no_signal_was_given(signals: LocalSignals, seconds: float) -> None:
    with signals.listen("mia") as signal:
        await asyncio.wait_for(signal.wait(seconds), SOON)
        assert not await woken(signal)


async def test_a_sleep_ends_neither_later_nor_earlier_for_those_before_it(signals: LocalSignals) -> None:
    loop = asyncio.get_running_loop()
    with signals.listen("mia") as signal:
        for before, seconds in ((SOON * 10, 0.05), (0.05, 0.2), (0.05, None)):
            sleeper = await asleep(signal, before)
            signal.give()
            await sleeper
            signal.clear()
            if seconds is None:
                sleeper = await asleep(signal)
                assert not (await asyncio.wait([sleeper], timeout=0.1))[0]
                signal.give()
                await sleeper
                signal.clear()
            else:
                started = loop.time()
                await asyncio.wait_for(signal.wait(seconds), SOON)
                assert loop.time() - started > seconds - 0.02


async def test_a_sleep_ends_when_its_alarm_was_set_for_next_to_no_time(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        for before, seconds in ((0.0001, 0.02), (0.02, 0.0001), (0.0001, 0.0001), (SOON * 10, 0.0001)):
            sleeper = await asleep(signal, before)
            signal.give()
            await sleeper
            signal.clear()
            await asyncio.wait_for(signal.wait(seconds), SOON)


async def test_a_consumer_that_gave_up_waiting_is_still_woken_at_its_next_wait(signals: LocalSignals) -> None:
    with signals.listen("mia") as signal:
        sleeper = await asleep(signal)
        sleeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeper
        signals.publish("mia")
        assert await woken(signal)


async def test_everyone_who_listens_to_a_mailbox_is_woken_and_nobody_else(signals: LocalSignals) -> None:
    with signals.listen("mia") as one, signals.listen("mia") as other, signals.listen("eve") as eve:
        assert signals.listeners() == 3
        signals.publish("mia")
        assert [await woken(s) for s in (one, other, eve)] == [True, True, False]


async def test_publish_all_wakes_every_mailbox(signals: LocalSignals) -> None:
    with signals.listen("mia") as mia, signals.listen("eve") as eve, signals.listen("eve") as eve2:
        sleepers = [await asleep(s) for s in (mia, eve, eve2)]
        signals.publish_all()
        await asyncio.wait_for(asyncio.gather(*sleepers), SOON)


async def test_a_listener_that_left_hears_nothing_and_leaves_nothing_behind(signals: LocalSignals) -> None:
    with signals.listen("mia") as stays:
        with signals.listen("mia") as left:
            pass
        assert signals.listeners() == 1
        signals.publish("mia")
        assert [await woken(s) for s in (stays, left)] == [True, False]
    assert signals.listeners() == 0
    assert not signals._listeners


async def test_a_listener_that_fails_has_left(signals: LocalSignals) -> None:
    with pytest.raises(RuntimeError), signals.listen("mia"):
        raise RuntimeError
    assert signals.listeners() == 0


async def test_a_signal_that_nobody_listens_to_is_no_trouble(signals: LocalSignals) -> None:
    signals.publish("mia")
    signals.publish_all()
    with signals.listen("mia") as signal:
        assert not await woken(signal)
