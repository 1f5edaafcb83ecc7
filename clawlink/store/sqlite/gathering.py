"""The jobs that wait for a transaction, and the moment when they go.

The next transaction begins when the last one is on the disk. The callers whom that answered ask again, so a transaction
that waits for them spares an fsync. On a fast disk the event loop has better things to do than to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from clawlink.store.sqlite.jobs import Job

# The most jobs that share a transaction, so that the first of them does not wait for too many others.
_MOST_JOBS = 256
# A disk is slow if the last transaction took longer. Then the next one pauses half as long for as many jobs.
_SLOW_SECONDS, LONGEST_PAUSE_SECONDS = 0.001, 0.005
# A transaction waits while jobs come, but for this long at most. A caller that was answered needs two turns of the
# event loop to ask again: one that reads its request, and one that handles it.
LONGEST_GATHERING_SECONDS, _STILL_TURNS = 0.002, 2


class Gathering:
    """Gathers the jobs of one event loop at a time, and has ``submit`` take them together, one lot after the other."""

    def __init__(self, submit: Callable[[list[Job]], None]) -> None:
        self._submit = submit
        self._jobs: list[Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # it has jobs that wait, or that are not done
        self._timer: asyncio.TimerHandle | None = None
        self._seen = self._still = 0  # the jobs that were here a turn ago, and since how many turns
        self._began = self._submitted = 0.0  # when this lot began to gather, and when the last one went
        self._last = 1  # the jobs of the last transaction
        self._took = 0.0

    def add(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """Have a job done, together with the others of this turn of the event loop at least."""
        self._jobs.append(job)
        if self._loop is not loop:
            self._loop, self._timer = loop, None
            self._begin(loop)
        elif self._timer is not None and len(self._jobs) >= self._last:
            self._timer.cancel()
            self._go()

    def settled(self) -> None:
        """Begin to gather for the next transaction: the last one is done."""
        self._took = perf_counter() - self._submitted
        if self._jobs and self._loop is not None:
            self._begin(self._loop)
        else:
            self._loop = None

    def rest(self) -> list[Job]:
        """Take all jobs that wait."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._seen, self._still, self._began = 0, 0, perf_counter()
        loop.call_soon(self._look)

    def _look(self) -> None:
        """Submit the jobs, unless it is better to wait for more of them."""
        count, loop, slow = len(self._jobs), self._loop, self._took > _SLOW_SECONDS
        if loop is not None and count < (_MOST_JOBS if slow else self._last):
            self._still = self._still + 1 if count == self._seen else 0
            self._seen = count
            if self._still < _STILL_TURNS and perf_counter() - self._began < LONGEST_GATHERING_SECONDS:
                loop.call_soon(self._look)
                return
            if slow and count < self._last:
                self._timer = loop.call_later(min(self._took / 2, LONGEST_PAUSE_SECONDS), self._go)
                return
        self._go()

    def _go(self) -> None:
        self._timer = None
        jobs, self._jobs = self._jobs[:_MOST_JOBS], self._jobs[_MOST_JOBS:]
        if jobs:
            self._last, self._submitted = len(jobs), perf_counter()
            self._submit(jobs)
