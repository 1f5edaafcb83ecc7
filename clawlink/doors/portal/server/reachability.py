"""When each contact was last heard of since the start, and which ones could not be reached at the last try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Seen(NamedTuple):
    """The last sign of a contact's portal, None for none, and whether the last try to reach it failed."""

    heard_at: float | None = None
    away: bool = False


NEVER = Seen()


class Reachability:
    """Signs of the contacts' portals, in memory: a restart forgets them."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}

    def of(self, contact: str) -> Seen:
        """Return the signs of a contact."""
        return self._seen.get(contact, NEVER)

    def heard(self, contact: str, now: float) -> None:
        """Note a message of a contact, or an answer of its portal."""
        self._seen[contact] = Seen(now)

    def missed(self, contact: str) -> None:
        """Note that a contact's portal could not be reached."""
        self._seen[contact] = self.of(contact)._replace(away=True)

    def all(self) -> Mapping[str, Seen]:
        """Return the signs of all contacts that gave some."""
        return dict(self._seen)

    def forget(self, contact: str) -> None:
        """Forget the signs of a contact that was removed."""
        self._seen.pop(contact, None)
