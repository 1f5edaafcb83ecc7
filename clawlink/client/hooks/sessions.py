"""The sessions of this account: a file for each, with the identity that its hooks made and what they told it.

Only its owner may read a file (mode 0600): it holds the agent's key.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# A session that is not resumed for this time is forgotten, here and at its relay.
FORGET_SECONDS = 24 * 3600.0


class Session(NamedTuple):
    """A session of a host. ``claim`` is the idempotency key of its registration, from which the relay makes its key.

    ``host_process`` is the process id of the host and the time of its start, ``folder`` its working directory.
    ``server`` is the address of the host's own server. ``variables`` say where the host keeps its sessions; None where
    no hook has told. Times are seconds since the epoch.
    """

    host: str
    session_id: str
    name: str
    relay: str
    claim: str
    agent_id: str | None = None
    agent_key: str | None = None
    token: str | None = None
    ca: str | None = None
    host_process: tuple[int, str] | None = None
    seen_at: float = 0.0
    beat_at: float = 0.0
    blocks: int = 0
    told: tuple[str, ...] = ()
    ended: bool = False
    folder: str | None = None
    server: str | None = None
    variables: Mapping[str, str] | None = None


class Sessions:
    """The files of all sessions, below the folder of ClawLink's own files."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "sessions"

    def path(self, host: str, session_id: str) -> Path:
        """Name the file of a session; never a path of its own, whatever the id is."""
        import hashlib

        digest = hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{host}-{digest[:16]}.json"

    def find(self, host: str, session_id: str) -> Session | None:
        """Return a session; None if there is none, or its file cannot be read."""
        found = _read(self.path(host, session_id))
        return found if found is not None and found.session_id == session_id else None

    def all(self) -> Iterator[Session]:
        """Give all sessions whose file can be read."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.folder)):
                if name.endswith(".json") and (found := _read(self.folder / name)) is not None:
                    yield found

    def keep(self, session: Session) -> None:
        """Write a session. Raises OSError."""
        from clawlink import private

        private.make_folder(self.folder)
        private.write(self.path(session.host, session.session_id), json.dumps(session._asdict()).encode())

    def forget(self, session: Session) -> None:
        """Remove a session. Raises OSError."""
        self.path(session.host, session.session_id).unlink(missing_ok=True)
        self._acting(session).unlink(missing_ok=True)
        self.disarm(session)

    # A file of its own: hooks that run at the same moment write the session.

    def arm(self, session: Session, waiter: str) -> None:
        """Let this waiter, and no earlier one, wake the session. Raises OSError."""
        from clawlink import private

        private.write(self._waiting(session), waiter.encode("ascii"))  # whole, also if two arm at one moment

    def armed(self, session: Session) -> str | None:
        """Return the waiter that may wake the session; None while the session is busy."""
        try:
            return self._waiting(session).read_text(encoding="ascii")
        except (OSError, ValueError):
            return None

    def disarm(self, session: Session) -> None:
        """Let no waiter wake the session, because it works."""
        with contextlib.suppress(OSError):
            self._waiting(session).unlink()

    def _waiting(self, session: Session) -> Path:
        return self.path(session.host, session.session_id).with_suffix(".waiting")

    # A file of its own, too: the tools of the session write it.

    def act(self, session: Session, agent_id: str) -> None:
        """Keep that the tools of a session act as another agent, a kept identity. Raises OSError."""
        from clawlink import private

        if self.acts_as(session) != agent_id:
            private.write(self._acting(session), agent_id.encode("utf-8", "surrogatepass"))

    def acts_as(self, session: Session) -> str | None:
        """Return the id of that agent; None if they act as the session's own."""
        try:
            return self._acting(session).read_bytes().decode("utf-8", "surrogatepass")
        except (OSError, ValueError):
            return None

    def _acting(self, session: Session) -> Path:
        return self.path(session.host, session.session_id).with_suffix(".acting")

    def note(self, why: str | None) -> None:
        """Keep the reason why the last hook did nothing; without one, forget it. Failures are ignored."""
        with contextlib.suppress(OSError):
            path = self.folder / "failure.txt"
            if why is None:
                path.unlink()
            else:
                from clawlink import private

                private.make_folder(self.folder)
                path.write_text(why[:500], encoding="utf-8")

    def noted(self) -> str | None:
        """Return the reason why the last hook did nothing, if it did nothing."""
        try:
            return (self.folder / "failure.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


def _read(path: Path) -> Session | None:
    try:
        fields: Any = json.loads(path.read_bytes())
        known = {name: value for name, value in fields.items() if name in Session._fields}
        known["told"] = tuple(map(str, known.get("told", ())))
        process = known.get("host_process")
        known["host_process"] = None if process is None else (int(process[0]), str(process[1]))
        if (variables := known.get("variables")) is not None:
            known["variables"] = {str(name): str(value) for name, value in variables.items()}
        session = Session(**known)
        texts = (session.host, session.session_id, session.name, session.relay, session.claim)
        numbers = (session.seen_at, session.beat_at, session.blocks)
        fine = all(isinstance(text, str) for text in texts) and all(isinstance(n, int | float) for n in numbers)
        return session if fine else None
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return None
