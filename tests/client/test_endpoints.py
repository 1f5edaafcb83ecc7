"""Faults of a call are named before anything is sent, above all values that would arrive as something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from clawlink import Client
from clawlink.client import endpoints, mailbox_endpoints, operations
from clawlink.client.calls import Identity
from clawlink.client.wait_steps import distinct
from clawlink.config import MAX_TIMEOUT_SECONDS
from clawlink.errors import BadRequest
from tests.tables import each

ME = Identity("a")
NO_JSON = [math.nan, math.inf, {"a": [-math.inf]}, {1, 2}, {"a": b"x"}, bytearray(b"x"), {"a": {(1, 2): 3}}, object()]

SAYING: list[tuple[str, Callable[[Any], Any]]] = [
    ("content", lambda value: endpoints.send(ME, "b", value)),
    ("content", lambda value: endpoints.answer(ME, "t", value)),
    ("result", lambda value: endpoints.respond(ME, "t", value)),
    ("context", lambda value: endpoints.delegate(ME, "b", "x", context={"given": value})),
]


@each("value", NO_JSON)
@each(("field", "say"), SAYING)
def test_what_json_would_change_on_the_way_is_refused(field: str, say: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(BadRequest, match=f"^{field} must be JSON: ") as refused:
        say(value)
    assert refused.value.field == field


def test_what_is_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(BadRequest, match="content must be JSON"):
        endpoints.send(ME, "b", cycle)


@dataclass
class Place:
    name: str
    at: tuple[float, float]


@each("value", [None, True, 1.5, 10**30, "\0é", [], {"a": [1, {"b": None}]}, Place("x", (1.0, 2.0))])
def test_what_json_carries_goes(value: Any) -> None:
    assert endpoints.send(ME, "b", value).body is not None


ONE_FOR_MANY: list[tuple[str, Callable[[Any], Any]]] = [
    ("capabilities", lambda one: endpoints.register(ME, "x", capabilities=one)),
    ("subscriptions", lambda one: endpoints.register(ME, "x", subscriptions=one)),
    ("receipts", lambda one: mailbox_endpoints.ack(ME, one)),
    ("receipts", lambda one: mailbox_endpoints.nack(ME, one)),
    ("receipts", lambda one: mailbox_endpoints.extend(ME, one)),
    ("message_ids", lambda one: mailbox_endpoints.redrive(ME, one)),
    ("tags", lambda one: endpoints.broadcast(ME, "x", tags=one)),
    ("to_any_of", lambda one: endpoints.delegate(ME, task="x", to_any_of=one)),
    ("task_ids", distinct),
]


@each(("field", "give"), ONE_FOR_MANY)
def test_one_string_is_no_list_of_its_letters(field: str, give: Callable[[Any], Any]) -> None:
    with pytest.raises(BadRequest, match=f"{field} takes a list, and this is one string: 'search'") as refused:
        give("search")
    assert refused.value.field == field


WAITING: list[tuple[str, Callable[[Any], Any]]] = [
    ("wait", lambda s: mailbox_endpoints.poll(ME, wait=s)),
    ("wait", lambda s: endpoints.task(ME, "t", wait=s)),
    ("wait", lambda s: mailbox_endpoints.message(ME, "m", wait=s)),
    ("timeout", lambda s: next(operations.wait_for(ME, "t", s).steps)),
    ("timeout", lambda s: next(operations.watch_file(ME, "k", None, s).steps)),
    ("timeout", lambda s: next(operations.wait_message(ME, "m", "acked", s).steps)),
    ("patience", lambda s: next(operations.download(ME, "k", "copy", patience=s).steps)),
    ("timeout", lambda s: Client(timeout=s)),
]


@each("seconds", [math.nan, "10", True])
@each(("field", "wait"), WAITING)
def test_what_is_no_number_of_seconds_is_refused_before_anyone_waits(
    field: str, wait: Callable[[Any], Any], seconds: Any
) -> None:
    with pytest.raises(BadRequest, match=f"^{field} takes a number of seconds, not ") as refused:
        wait(seconds)
    assert refused.value.field == field


@each("seconds", [0, -1, 1e10, math.inf])
def test_a_client_waits_for_an_answer_no_longer_than_clocks_can_count(seconds: float) -> None:
    with pytest.raises(BadRequest, match="timeout takes more than 0 and at most 31536000 seconds") as refused:
        Client(timeout=seconds)
    assert refused.value.limit == MAX_TIMEOUT_SECONDS
