"""Fills a store with records of every kind, and prints for each what it is said to take, as a share of what it takes.

Run as ``python -m tests.store.footprints``, in a process of its own: memory that was freed before would hide what is
taken.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from clawlink.domain import delivery as rules
from clawlink.domain import delivery_steps, task_steps
from clawlink.domain import task as task_rules
from clawlink.domain.agent import Agent, Presence
from clawlink.domain.broadcast import Broadcast, Knowledge
from clawlink.domain.delivery import Delivery
from clawlink.domain.file import Content, Lock, SharedFile, Version
from clawlink.domain.file_write import FileWrite
from clawlink.domain.pool import Pool
from clawlink.domain.readers import Access, Party
from clawlink.domain.record import Record
from clawlink.domain.task import TaskState
from clawlink.relay.agents.directory import card
from clawlink.relay.timestamps import StoppableTime
from clawlink.store.base import Put
from clawlink.store.memory import MemoryStore
from tests.store.asking import memory
from tests.store.test_machine import run

_MOST_BYTES = 12 * 2**20
_MOST = 6_000
BOXES = [f"agent{n:010d}" for n in range(100)]


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


def at(n: int) -> float:
    return 1_700_000_000.0 + n * 0.013


def text(n: int, length: int, character: str = "x") -> str:
    return f"{n:09d}" + character * (length - 9)


def delivery(n: int, *, is_task: bool = False, merge: str | None = None) -> Delivery:
    now = at(n)
    sort_key = rules.sort_key(2, n + 10**15)
    ends_at = float(int(now) + 86_400)
    box = BOXES[n % 100]
    return Delivery(
        f"{n:024x}", 1, box, BOXES[0], sort_key, bytes(250), now, now, ends_at, merge=merge, is_task=is_task
    )


def acked(n: int) -> Iterator[Record]:
    new = delivery(n)
    leased = delivery_steps.lease(new, receipt=f"{n:022d}", now=at(n) + 1, seconds=60.0, max_attempts=5, keep=3600.0)
    yield from (new, leased, delivery_steps.ack(leased, receipt=f"{n:022d}", now=at(n) + 2, keep=3600.0))


def task(n: int) -> Iterator[Record]:
    """Report 20 times on a task."""
    new = delivery(n, is_task=True)
    now = at(n) + 1
    seconds = 60.0 + n / 7
    leased = delivery_steps.lease_task(new, by=new.mailbox, receipt=f"{n:022d}", now=now, seconds=seconds, alone=True)
    yield from (new, leased)
    reported = task_rules.task_from_delivery(leased)
    for report in range(20):
        reported = task_steps.respond(
            reported,
            by=new.mailbox,
            receipt=None,
            state=TaskState.IN_PROGRESS,
            response=bytes(300),
            now=now + report,
            ttl=86_400.0,
            keep=3600.0,
            progress=report / 20,
            note=f"note {report}",
            content=None,
        )
        yield reported
    yield delivery_steps.beside_record(leased, now, expires_at=now + 86_400)


def agent(n: int, *capabilities: str, description: str = "", subscriptions: tuple[str, ...] = ("*",)) -> Agent:
    return Agent(
        id=f"{n:016x}",
        version=1,
        name=f"worker-{n}",
        capabilities=capabilities,
        machine="10.0.0.1",
        description=description,
        registered_at=at(n),
        last_heartbeat=at(n),
        resumed_at=at(n),
        subscriptions=subscriptions,
    )


def version(n: int, revision: int, length: int) -> Version:
    number = n * 100 + revision
    return Version(
        revision=revision,
        content=Content(f"{number:064x}", 5),
        file_type=text(number, length),
        content_type=text(number, length),
        editor=BOXES[0],
        written_at=at(n) + revision,
    )


def file(n: int, versions: int, length: int) -> SharedFile:
    kept = tuple(version(n, revision, length) for revision in range(versions))
    return SharedFile(id=text(n, length), version=1, revision=versions, versions=kept)


def reader(n: int) -> Party:
    return Party(BOXES[n % 100], f"{n:064x}", at(n))


def file_for_readers(n: int, readers: int, tasks: int) -> SharedFile:
    key = text(n, 40)
    kept = msgspec.structs.replace(version(n, 1, 12), content=Content(f"{n:064x}", 5, key))
    access = Access(
        reader(n), tuple(reader(n * 64 + i) for i in range(readers)), tuple(f"{n * 64 + i:024x}" for i in range(tasks))
    )
    return SharedFile(id=key, version=1, revision=1, versions=(kept,), access=access)


def knowledge(n: int, tags: int) -> Knowledge:
    return Knowledge(
        f"{n:024x}",
        1,
        BOXES[0],
        bytes(300),
        text(n, 12),
        tuple(text(n * 32 + tag, 100) for tag in range(tags)),
        at(n),
        at(n) + 3600,
        3,
    )


MAKERS: dict[str, Callable[[int], Iterable[Record]]] = {
    "message": lambda n: [delivery(n)],
    "message that was acked": acked,
    "notice of a long key": lambda n: [delivery(n, merge=text(n, 1024, "\N{GRINNING FACE}"))],
    "task with reports": task,
    "agent": lambda n: [agent(n, "python", "sql")],
    "agent with long texts": lambda n: [agent(n, *(text(n * 20 + i, 200) for i in range(20)), description='"' * 2000)],
    "agent of another script": lambda n: [agent(n, text(n, 200, "\u4e2d"), description=text(n, 2000, "\u4e2d"))],
    "agent with subscriptions": lambda n: [agent(n, subscriptions=tuple(text(n * 64 + i, 100) for i in range(64)))],
    "file": lambda n: [file(n, 1, 12)],
    "file with long texts": lambda n: [file(n, 10, 1000)],
    "file for two": lambda n: [file_for_readers(n, 1, 0)],
    "file for many": lambda n: [file_for_readers(n, 60, 60)],
    "lock": lambda n: [SharedFile(id=text(n, 12), version=1, revision=0, lock=Lock(BOXES[0], at(n)), ends_at=at(n))],
    "lock with a note": lambda n: [
        SharedFile(
            id=text(n, 1024), version=1, revision=0, lock=Lock(BOXES[0], at(9 * n), text(n, 1000)), ends_at=at(n)
        )
    ],
    "write": lambda n: [
        FileWrite(
            id=f"{n:024x}",
            version=1,
            file_key=text(n, 12),
            revision=1,
            content=Content(f"{n:064x}", 5),
            ends_at=at(n),
        )
    ],
    "broadcast": lambda n: [Broadcast(f"{n:024x}", 1, BOXES[0], bytes(300), tuple(BOXES), at(n), at(n) + 3600, 0)],
    "knowledge": lambda n: [knowledge(n, 0)],
    "knowledge with tags": lambda n: [knowledge(n, 32)],
    "pool": lambda n: [Pool(id=f" pool {n:024x}", version=1, capabilities=(f"cap{n}",), used_at=at(n))],
    "pool of many": lambda n: [
        Pool(id=f" pool {n:024x}", version=1, any_of=tuple(f"{n * 256 + i:016x}" for i in range(64)), used_at=at(n))
    ],
}


def measure(make: Callable[[int], Iterable[Record]]) -> float:
    """Return what the store says that records take, as a share of what they take."""
    store = MemoryStore()
    listings: dict[str, bytes] = {}
    gc.collect()
    before = resident()
    for n in range(_MOST):
        for record in make(n):
            run(store.commit(record.partition_key, Put(record)))
            if isinstance(record, Agent):
                listings[record.id] = msgspec.json.encode(card(record, Presence.ONLINE, StoppableTime(lambda: 0.0)))
        if n % 100 == 0 and resident() - before > _MOST_BYTES:
            break
    taken = resident() - before
    KEPT.append((store, listings))
    return run(memory(store)) / taken


KEPT: list[object] = []  # nothing is freed: what comes next would take its place


def main(makers: dict[str, Callable[[int], Iterable[Record]]]) -> None:
    """Print what is measured of each kind."""
    for name, make in makers.items():
        print(f"{name} {measure(make):.2f}")


if __name__ == "__main__":
    main(MAKERS)
