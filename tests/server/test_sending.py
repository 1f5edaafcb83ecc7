"""Peers that are behind in reading, as the relay counts them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from clawlink.server.sending import Sender, Turn


async def test_of_several_who_wait_by_turns_each_counts_for_itself() -> None:
    """A frame always waits, while the peer reads and reads: that is no silence."""
    clock = SimpleNamespace(now=0.0)
    request: Any = SimpleNamespace(transport=None)
    sender = Sender(request, SimpleNamespace(compress=False), Turn())  # type: ignore[arg-type]
    sender._loop = SimpleNamespace(time=lambda: clock.now)  # type: ignore[assignment]
    assert sender.waiting_since is None
    waits = [sender._behind()]
    waits[0].__enter__()
    for at in range(1, 50):
        clock.now = float(at)
        waits.append(sender._behind())
        waits[-1].__enter__()
        waits.pop(0).__exit__(None, None, None)
        assert sender.waiting_since == at
    waits[0].__exit__(None, None, None)
    assert sender.waiting_since is None
