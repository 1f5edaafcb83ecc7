"""Deliveries that wait for a contact stay leased, and are due again in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clawlink.domain.delivery import Delivery, sort_key
from clawlink.doors.portal.server import held_back
from clawlink.doors.portal.server.held_back import LEASE_SECONDS, HeldBack
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Failed
from tests.domain.agents import agent
from tests.waiting import until

BOB = agent("bob")


class Acks:
    """The receipts of a relay: what was released, and how often each was extended. ``ended`` tasks are not."""

    def __init__(self) -> None:
        self.released: list[str] = []
        self.extended: list[str] = []
        self.ended: set[str] = set()
        self.fails: list[Exception] = []

    async def release(self, agent_id: str, receipts: Sequence[str]) -> None:
        assert agent_id == BOB.id
        self.released += receipts

    async def extend(self, agent_id: str, receipts: Sequence[str], seconds: float) -> list[Any]:
        assert (agent_id, seconds) == (BOB.id, LEASE_SECONDS)
        if self.fails:
            raise self.fails.pop()
        self.extended += receipts
        return [SimpleNamespace(error="gone" if receipt in self.ended else None) for receipt in receipts]


class Stage:
    """Deliveries that wait while their ids are in ``waiting``."""

    def __init__(self) -> None:
        self.acks = Acks()
        self.waiting: set[str] = set()
        relay = cast(Relay, SimpleNamespace(acks=self.acks))
        self.held = HeldBack(relay, BOB, self._waits)

    async def _waits(self, delivery: Delivery) -> bool:
        return delivery.id in self.waiting

    async def put(self, number: int, *, waits: bool = True) -> Delivery:
        """Keep the delivery that came as this number; return it once it is looked at."""
        made = came(number)
        if waits:
            self.waiting.add(made.id)
        extended = len(self.acks.extended)
        self.held.put(made, "task")
        await until(lambda: len(self.acks.extended) > extended)
        return made


def came(number: int) -> Delivery:
    """Return a delivery with its place in the order of arrival."""
    return Delivery(f"d{number}", 1, "bob", "ann", sort_key(2, number), b"{}", 0.0, 60.0, 99.0, receipt="r")


def receipts(*numbers: int) -> list[str]:
    return [f"r-d{number}" for number in numbers]


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """A stage on which no time passes: all that moves was told to."""
    monkeypatch.setattr(held_back, "EXTEND_SECONDS", 3600.0)
    stage = Stage()
    yield stage
    await stage.held.close()


async def test_news_of_a_task_are_due_again_in_their_order(stage: Stage) -> None:
    for number in (3, 1, 2):
        await stage.put(number)
    assert stage.acks.released == []
    stage.waiting.clear()
    stage.held.look()
    await until(lambda: len(stage.acks.released) == 3)
    assert stage.acks.released == receipts(1, 2, 3)


async def test_only_later_news_of_the_same_task_follow(stage: Stage) -> None:
    await stage.put(2)
    table: list[tuple[int, str | None, bool]] = [
        (3, "task", True),
        (2, "task", False),  # itself, once its lease has lapsed
        (1, "task", False),
        (3, "another", False),
        (3, None, False),
    ]
    for number, task_id, follows in table:
        assert stage.held.follows(came(number), task_id) is follows, (number, task_id)
    stage.waiting.clear()
    stage.held.look()
    await until(lambda: not stage.held.follows(came(3), "task"))


async def test_news_behind_a_task_that_was_cancelled_go_at_once(stage: Stage) -> None:
    await stage.put(1)
    stage.acks.ended.update(receipts(1))
    await stage.put(2, waits=False)
    await until(lambda: stage.acks.released == receipts(2))


@pytest.mark.parametrize(
    "failure", [Conflict(Delivery, "d1", "it has changed"), Failed("it is away")], ids=["conflict", "away"]
)
async def test_a_store_that_fails_is_asked_again(stage: Stage, failure: Exception) -> None:
    stage.acks.fails.append(failure)
    stage.waiting.add("d1")
    stage.held.put(came(1), "task")
    await until(lambda: not stage.acks.fails)
    assert stage.held.follows(came(2), "task"), "it still waits"
    stage.waiting.clear()
    stage.held.look()
    await until(lambda: stage.acks.released == receipts(1))


async def test_all_are_due_again_when_it_closes(stage: Stage) -> None:
    for number in (1, 2):
        await stage.put(number)
    await asyncio.wait_for(stage.held.close(), 30)
    assert sorted(stage.acks.released) == receipts(1, 2)
