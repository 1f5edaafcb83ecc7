"""Which agent am I on which relay: one small file an identity, under ``~/.clawlink`` or ``$CLAWLINK_HOME``.

Several agents of one account live side by side. A file holds the relay's address, its token and the agent's key, so
only its owner may read it (mode 0600).
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clawlink.client.address import address
from clawlink.errors import ClawLinkError


class Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """One identity as it is kept."""

    name: str
    agent_id: str
    relay: str
    token: str | None = None
    agent_key: str | None = None
    ca: str | None = None
    capabilities: list[str] | None = None
    description: str | None = None
    subscriptions: list[str] | None = None


class SeveralIdentities(ClawLinkError):
    """More than one identity fits, and none was named."""

    code = "several_identities"


class NoIdentity(ClawLinkError):
    """No identity fits."""

    code = "no_identity"


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of ClawLink's own files."""
    return Path(environ.get("CLAWLINK_HOME") or Path.home() / ".clawlink")


class Identities:
    """The identities kept in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "identities"

    @property
    def folder(self) -> Path:
        """Where the files are; it need not exist yet."""
        return self._folder

    def all(self) -> list[Saved]:
        """Return all identities, by name. A file that cannot be read is left out: it is not ours, or torn."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Saved))
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                continue
        return sorted(found, key=lambda saved: (saved.name.casefold(), saved.relay))

    def matching(self, *, named: str | None, relay: str | None) -> list[Saved]:
        """Return the identities of that name or agent id, on that relay, where given."""
        return [
            saved
            for saved in self.all()
            if (named is None or named.casefold() == saved.name.casefold() or named == saved.agent_id)
            and (relay is None or address(relay) == address(saved.relay))
        ]

    def pick(self, *, named: str | None, relay: str | None) -> Saved:
        """Return the one identity that fits. Raises NoIdentity, or SeveralIdentities listing them."""
        found = self.matching(named=named, relay=relay)
        if len(found) == 1:
            return found[0]
        if not found:
            whom = "no identity is" if named is None else f"no identity {named!r} is"
            where = "" if relay is None else f" for {relay}"
            raise NoIdentity(f"{whom} kept here{where}; register first: clawlink register --name NAME")
        listed = ", ".join(f"{saved.name} (on {saved.relay})" for saved in found)
        how = "--relay URL or CLAWLINK_RELAY" if named is not None else "--as NAME or CLAWLINK_AGENT"
        raise SeveralIdentities(f"several identities fit: {listed}; say which with {how}")

    def save(self, saved: Saved) -> Path:
        """Keep an identity, in place of an earlier one of that name on that relay."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(saved)
        # mkstemp makes the file for its owner only; replacing is one step, so a crash leaves the old or the new one.
        handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(saved), indent=2))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    def forget(self, saved: Saved) -> None:
        """Forget an identity."""
        self._path(saved).unlink(missing_ok=True)

    def _path(self, saved: Saved) -> Path:
        """Name the file after agent and relay: readable, and never a path of its own, whatever the name is."""
        readable = re.sub(r"[^a-z0-9]+", "-", saved.name.casefold()).strip("-")[:40] or "agent"
        digest = hashlib.sha256(f"{saved.name.casefold()}\n{saved.relay}".encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{readable}-{digest[:8]}.json"
