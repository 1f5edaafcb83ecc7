"""Pages of records that stay within the bytes of one reply."""

from __future__ import annotations

from collections.abc import Callable

from clawlink.domain.limits import MAX_REPLY_BYTES
from clawlink.store.base import Page, R, Store, no_place


async def page_within(
    store: Store,
    kind: type[R],
    key: str,
    after: str | None,
    limit: int,
    *,
    newest: bool = False,
    room: int = MAX_REPLY_BYTES,
    size: Callable[[R], int] = lambda record: record.weight,
) -> Page[R]:
    """Return a page as ``Store.page`` does, cut before the record that would pass ``room`` bytes.

    A page has at least one record if the store has any.
    """
    page = await store.page(kind, key, after, limit, newest=newest)
    taken = 0
    for count, record in enumerate(page.records):
        taken += size(record)
        if count and taken > room:
            return await store.page(kind, key, after, count, newest=newest)
    return page


def place_in(sources: int, after: str | None) -> tuple[int, str | None]:
    """Return where a list over this number of sources goes on: the source, and the place in it. Raises BadRequest.

    The ``next`` of such a list is ``SOURCE.PLACE``, and the place is the store's.
    """
    if after is None:
        return 0, None
    at, dot, rest = after.partition(".")
    if not (dot and at.isascii() and at.isdigit() and len(at) < 4 and int(at) < sources):
        raise no_place(after, limit=sources - 1)
    return int(at), rest or None
