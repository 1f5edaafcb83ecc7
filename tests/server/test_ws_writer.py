"""Peers that are behind in reading, as the relay counts them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from clawlink.server.ws_writer import Sender, Turn
from tests.virtual_time import pass_time


@pytest.mark.virtual_time
async def test_of_several_who_wait_by_turns_each_counts_for_itself() -> None:
    """A frame always waits, while the peer reads and reads: that is no silence."""
    now = asyncio.get_running_loop().time
    request: Any = SimpleNamespace(transport=None)
    sender = Sender(request, SimpleNamespace(compress=False), Turn())  # type: ignore[arg-type]
    assert sender.waiting_since is None
    waits = [sender.behind()]
    waits[0].__enter__()
    for _ in range(50):
        await pass_time(1)
        waits.append(sender.behind())
        waits[-1].__enter__()
        waits.pop(0).__exit__(None, None, None)
        assert sender.waiting_since is not None
        assert now() - sender.waiting_since < 1
    waits[0].__exit__(None, None, None)
    assert sender.waiting_since is None
