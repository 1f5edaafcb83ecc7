"""The numbers of ``Store.admission``, each by itself."""

from __future__ import annotations

from typing import Any

from clawlink.store.base import Usage


async def load(store: Any, mailbox: str) -> Usage:
    """Return what a mailbox holds."""
    found: Usage = (await store.admission((mailbox,))).mailboxes[0]
    return found


async def total(store: Any) -> Usage:
    """Return what all mailboxes hold."""
    found: Usage = (await store.admission()).total
    return found


async def memory(store: Any) -> int:
    """Return how many bytes all records take."""
    found: int = (await store.admission()).memory
    return found
