"""Facts that survive the end of the program: how far wakes came, and how many the account made today."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from clawlink import private
from clawlink.wake.rules import State

FOLDER = "wake"
_BUDGET = "today.json"
# The file of an agent that nobody has waited for this long is removed.
_KEEP_SECONDS = 7 * 86_400.0


class Today(msgspec.Struct, frozen=True):
    """The wakes of the account on a local day, as its number."""

    day: int = 0
    wakes: int = 0


class Kept(msgspec.Struct, frozen=True):
    """The file of an agent: which it is, and how far its wakes came."""

    relay: str
    agent_id: str
    state: State
    last_woken: float | None = None
    last_result: str | None = None


class Journal:
    """The files below ``wake`` in ClawLink's folder. They block: call this from a thread."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def open(self, now: float) -> None:
        """Make the folder, and remove what is old. Raises OSError."""
        private.make_folder(self.folder)
        for path in list(self.folder.glob("*.json")):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _KEEP_SECONDS:
                    path.unlink()

    def load(self, relay: str, agent_id: str) -> Kept:
        """Return what is kept of an agent; of one that is not known, or whose file is corrupt, nothing."""
        empty = Kept(relay, agent_id, State())
        try:
            kept = msgspec.json.decode(self._path(relay, agent_id).read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return empty
        return kept if (kept.relay, kept.agent_id) == (relay, agent_id) else empty

    def keep(self, kept: Kept) -> None:
        """Write the file of an agent. Raises OSError."""
        _put(self._path(kept.relay, kept.agent_id), msgspec.json.encode(kept))

    def today(self) -> Today:
        """Return the wakes of the account; of a file that cannot be read, none."""
        try:
            return msgspec.json.decode((self.folder / _BUDGET).read_bytes(), type=Today)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return Today()

    def keep_today(self, today: Today) -> None:
        """Write the wakes of the account. Raises OSError."""
        _put(self.folder / _BUDGET, msgspec.json.encode(today))

    def _path(self, relay: str, agent_id: str) -> Path:
        digest = hashlib.sha256(f"{relay}\n{agent_id}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{digest[:24]}.json"


def _put(path: Path, data: bytes) -> None:
    """Replace a file in one step. A kill loses nothing; only a loss of power may, and then wakes repeat."""
    temporary = path.with_suffix(private.UNFINISHED)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        private.write_all(handle, data)
    finally:
        os.close(handle)
    private.replace(temporary, path)
