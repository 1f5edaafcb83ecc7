"""A process that holds a store and commits without end: ``python -m tests.store.committing DATABASE RUN``.

It prints a line for each commit that was answered. Each commit moves a message and a task together: half of the
writers have both at one partition, and the others have two, in order.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.task import Task
from clawlink.store.base import Batch, Put
from clawlink.store.sqlite.store import SqliteStore

WRITERS = 8


async def commit(store: SqliteStore, run: str, writer: int) -> None:
    """Commit one pair after the other, each four times."""
    for n in range(1_000_000):
        id, partition_key = f"{run}-{writer}-{n}", f"box{writer}"
        own = partition_key if writer % 2 else f"{partition_key}-own"
        message = Delivery(id, 1, partition_key, "otto", n, b"body", 1e6, 1e6, 2e6, merge=f"m{n}")
        work = Task(id, 1, own, "otto", own, b"ask", 1e6, 2e6)
        for version in range(1, 5):
            if own == partition_key:
                await store.commit(partition_key, Put(message), Put(work))
            else:
                batches = [Batch(partition_key, (Put(message),)), Batch(own, (Put(work),))]
                assert await store.commit_in_order(batches) == [None, None]
            print(id, version, flush=True)
            message = replace(message, version=version + 1, body=b"x" * version)
            work = replace(work, version=version + 1, note="n" * version)


async def main(path: str, run: str) -> None:
    """Commit until killed."""
    store = SqliteStore(Path(path))
    await store.open()
    await asyncio.gather(*(commit(store, run, writer) for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
