"""The next piece of a file is fetched while its taker is busy with the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from clawlink.doors.portal.server.bodies import ahead


async def test_pieces_keep_their_order_and_one_is_fetched_ahead() -> None:
    given: list[bytes] = []
    closed: list[bool] = []

    async def pieces(count: int, *, breaks: bool = False) -> AsyncGenerator[bytes, None]:
        try:
            for number in range(count):
                given.append(b"%d" % number)
                yield given[-1]
            if breaks:
                raise ConnectionError("cut off")
        finally:
            closed.append(True)

    taken: list[bytes] = []
    async for piece in ahead(pieces(4)):
        taken.append(piece)
        await asyncio.sleep(0)
        assert len(given) == min(len(taken) + 1, 4), "one piece more than were taken, and no second one"
    assert taken == given == [b"0", b"1", b"2", b"3"]
    with pytest.raises(ConnectionError):
        async for _ in ahead(pieces(2, breaks=True)):
            pass
    early = ahead(pieces(9))
    await anext(early)
    await early.aclose()
    assert len(closed) == 3, "a taker that leaves early closes the source"
