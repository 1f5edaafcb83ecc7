"""A look whether a store reads and commits: a read of nothing, and a commit that changes nothing."""

from __future__ import annotations

from clawlink.domain.agent import NameHold
from clawlink.store.base import Absent, Failed, Store

# No name has this form.
_PROBE = " ready"


async def probe(store: Store) -> str | None:
    """Return the reason why the store reads or commits nothing at this moment; None if it does both."""
    try:
        await store.get(NameHold, _PROBE)
        await store.commit(_PROBE, Absent(NameHold, _PROBE))
    except Failed as failed:
        return str(failed)
    return None
