"""The jobs of the writing thread: commits, and questions that run behind them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from clawlink.store.base import Conflict, Failed
from clawlink.store.sqlite.rows import Facts, Row


class Change(NamedTuple):
    """A change of a record. It ``follows`` the stored version, 0 for none; without a ``row`` the record goes.

    ``absent`` changes nothing, and asks only that there is no such record.
    """

    kind: type[Any]
    number: int
    id: str
    follows: int
    row: Row | None
    record: Any
    absent: bool = False
    ends_work: bool = False


class Done(NamedTuple):
    """A change that took effect."""

    change: Change
    old: Facts | None


class Commit:
    """Changes of one or several partitions, and the future of their caller.

    It is ``settled`` once the event loop has counted them, and ``fate`` is done then.
    """

    __slots__ = ("batches", "done", "fate", "future", "results", "settled")

    def __init__(self, batches: Sequence[tuple[str, Sequence[Change]]], future: asyncio.Future[Any]) -> None:
        self.batches = batches
        self.future = future
        self.done: list[Done] = []
        self.results: list[Conflict | Failed | None] = []
        self.settled = False
        self.fate: asyncio.Future[None] | None = None  # of a waiter that was cancelled


class Question:
    """A query that runs behind all commits so far, and the function for its answer on the event loop."""

    __slots__ = ("answer", "ask", "failure", "future", "take")

    def __init__(
        self, ask: Callable[[sqlite3.Connection], Any], take: Callable[[Any], None], future: asyncio.Future[Any]
    ) -> None:
        self.ask = ask
        self.take = take
        self.future = future
        self.answer: Any = None
        self.failure: Exception | None = None


Job = Commit | Question
