"""The jobs of the writing thread: commits, and questions that run behind them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from clawlink.store.base import Conflict, Failed
from clawlink.store.sqlite.rows import Facts, Row

# A change of a record touches about three pages beside its bytes.
CHANGE_BYTES = 3 * 4096


class Change(msgspec.Struct, frozen=True, gc=False):
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


Done = tuple[Change, Facts | None]
"""A change that took effect, and the counted fields of the version before."""


class Commit:
    """Changes of one or several partitions, and the future of their caller.

    ``size`` is about how many bytes of the log they take. With ``in_order`` nothing behind a partition that has a
    conflict is changed. The commit is ``settled`` once the event loop has counted it, and ``fate`` is done then.
    """

    __slots__ = ("batches", "done", "fate", "future", "in_order", "results", "settled", "size")

    def __init__(
        self,
        batches: Sequence[tuple[str, Sequence[Change]]],
        future: asyncio.Future[Any],
        *,
        in_order: bool = False,
    ) -> None:
        self.batches = batches
        self.in_order = in_order
        size = 0
        for _, changes in batches:
            for change in changes:
                size += CHANGE_BYTES if change.row is None else CHANGE_BYTES + len(change.row.data)
        self.size = size
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


class Work:
    """Jobs whose commits share a transaction. It has ``begun``, and has the first ``applied`` commits."""

    __slots__ = ("applied", "begun", "commits", "jobs", "new_kinds")

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.commits = [job for job in jobs if isinstance(job, Commit)]
        self.begun = False
        self.applied = 0
        self.new_kinds: set[int] = set()
