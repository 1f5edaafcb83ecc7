"""Pages stay within the bytes of one reply, miss nothing and repeat nothing."""

from __future__ import annotations

from clawlink.domain.broadcast import KNOWLEDGE, Knowledge
from clawlink.relay.pages import page_within
from clawlink.store.base import Put
from clawlink.store.memory import MemoryStore


def knowledge(number: int, size: int) -> Knowledge:
    return Knowledge(
        id=f"k{number}",
        version=1,
        author="a",
        topic="t",
        tags=(),
        body=b"x" * size,
        stored_at=float(number),
        ends_at=1e9,
    )


async def test_a_page_ends_before_the_record_that_passes_its_room() -> None:
    store = MemoryStore()
    sizes = [10, 10, 10, 100, 10, 40, 10, 10]
    for number, size in enumerate(sizes):
        record = knowledge(number, size)
        await store.commit(record.partition_key, Put(record))
    for newest in (False, True):
        pages, after = [], None
        while True:
            page = await page_within(store, Knowledge, KNOWLEDGE, after, 3, newest=newest, room=50)
            pages.append([len(record.body) for record in page.records])
            after = page.after
            if after is None:
                break
        assert all(pages)
        assert all(sum(page) <= 50 or len(page) == 1 for page in pages), pages
        found = [size for page in pages for size in page]
        assert found == (sizes[::-1] if newest else sizes)
        assert max(map(len, pages)) == 3
