"""The identities of this account: a small file for each, under ``~/.clawlink`` or ``$CLAWLINK_HOME``.

Several agents of one account live side by side. A file holds the relay's address, its token and the agent's key, so
only its owner may read it (mode 0600).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from clawlink import private
from clawlink.client.address import address
from clawlink.config import own_folder
from clawlink.domain import skeletons
from clawlink.domain.agent import fold
from clawlink.errors import ClawLinkError

if TYPE_CHECKING:
    from clawlink.client.hooks.sessions import Session

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An identity needs fewer bytes than this. The room is taken before a name is claimed.
_ROOM_BYTES = 4096
_KEY_BYTES = 32
# A process waits this many seconds for another process of this account that registers the same name.
_LOCK_SECONDS = 60.0
_MOST_NAMED = 3
BY_NAME, BY_RELAY = "--as NAME or CLAWLINK_AGENT", "--relay URL or CLAWLINK_RELAY"


class Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kept identity."""

    name: str
    agent_id: str
    relay: str
    token: str | None = None
    agent_key: str | None = None
    ca: str | None = None
    capabilities: list[str] | None = None
    description: str | None = None
    subscriptions: list[str] | None = None
    notices: bool | None = None
    relay_id: str | None = None
    relay_key: str | None = None

    @property
    def typed(self) -> str:
        """How a command names it: its name, or the id where the name has characters that cannot be typed."""
        typable = self.name.isprintable() and skeletons.seen(self.name) == self.name
        return self.name if typable else self.agent_id


class SeveralIdentities(ClawLinkError):
    """More than one identity fits, and none was named."""

    code = "several_identities"


class NoIdentity(ClawLinkError):
    """No identity fits."""

    code = "no_identity"


class NoHome(ClawLinkError):
    """The account has no home folder, and no other folder was named."""

    code = "no_home"


class IdentityUnreadable(ClawLinkError):
    """An identity is kept here, and cannot be read."""

    code = "identity_unreadable"


class Unreadable(NamedTuple):
    """A file of an identity that cannot be read: why, and the command that helps."""

    path: Path
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.why}; {self.fix}"


def account_home() -> Path:
    """Return the home folder of this account. Raises NoHome."""
    try:
        return Path.home()
    except RuntimeError:
        raise _no_home() from None


def _no_home() -> NoHome:
    return NoHome("this account has no home folder; set CLAWLINK_HOME to a folder for ClawLink's files")


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of ClawLink's own files. Raises NoHome."""
    try:
        return own_folder(environ)
    except RuntimeError:
        raise _no_home() from None


class _Begun(msgspec.Struct, frozen=True):
    """A claim of a name on a relay whose answer is not kept yet."""

    relay: str
    key: str


class Place:
    """Room on the disk for one identity, made before the name is claimed."""

    def __init__(self, identities: Identities, room: private.Replacement, begun: Path) -> None:
        self._identities = identities
        self._room = room
        self._begun = begun

    def _begun_on(self, relay: str) -> Path:
        """Return the file of a claim on a relay: several relays may have begun one of this name."""
        digest = hashlib.sha256(relay.encode("utf-8", "surrogatepass")).hexdigest()
        return self._begun.with_suffix(f".{digest[:16]}.begun")

    def key(self, relay: str) -> str:
        """Return the idempotency key for a claim of the name on a relay, which is kept until the identity is.

        It is that of an earlier claim that broke off, if there was one: the relay then answers with the same agent and
        its key. Raises OSError.
        """
        path = self._begun_on(relay)
        begun: _Begun | None = None
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            begun = msgspec.json.decode(path.read_bytes(), type=_Begun)
        if begun is None or begun.relay != relay:
            begun = _Begun(relay, secrets.token_hex(_KEY_BYTES))
            with _naming_the_variable():
                private.write(path, msgspec.json.encode(begun))
        return begun.key

    def keep(self, saved: Saved) -> Path:
        """Keep the identity, in place of an earlier one of that name on that relay. Raises OSError."""
        path = self._identities._path(saved)
        self._room.fill(msgspec.json.format(msgspec.json.encode(saved), indent=2))
        self._room.put(path)
        with contextlib.suppress(OSError):  # the next claim would be that of this agent, which needs none
            self._begun_on(saved.relay).unlink()
        return path


class Identities:
    """The identities kept in one folder. Without a folder none is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "identities"

    @property
    def folder(self) -> Path:
        """Where the files are; it need not exist yet. Raises NoHome."""
        if self._folder is None:
            account_home()  # raises the error
            raise NoHome("no folder for identities is known; set CLAWLINK_HOME")
        return self._folder

    def all(self) -> list[Saved]:
        """Return all identities that can be read, by name."""
        return self._read()[0]

    def unreadable(self) -> list[Unreadable]:
        """Return the kept identities that cannot be read."""
        return self._read()[1]

    def _read(self) -> tuple[list[Saved], list[Unreadable]]:
        found: list[Saved] = []
        failed: list[Unreadable] = []
        if self._folder is None:
            return found, failed
        try:
            names = sorted(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError as error:
            return found, [_unreadable(self._folder, error)]
        for path in (self._folder / name for name in names if name.endswith(".json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes().removeprefix(_BYTE_ORDER_MARK), type=Saved))
            except FileNotFoundError:  # it was forgotten meanwhile
                continue
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                failed.append(_unreadable(path, error))
        return sorted(found, key=lambda saved: (fold(saved.name), saved.relay)), failed

    def matching(self, *, named: str | None, relay: str | None) -> list[Saved]:
        """Return the identities of that name or agent id, on that relay, where given.

        Of several relays over one store, any one that both addresses name counts if no address is the same as a whole.
        The identity of a session is found by its name or id alone.
        """

        def is_named(saved: Saved) -> bool:
            return named is None or fold(named) == fold(saved.name) or named == saved.agent_id

        found = _at(relay, [saved for saved in self.all() if is_named(saved)])
        if found or named is None or self._folder is None:
            return found
        from clawlink.client.hooks.sessions import Sessions

        sessions = map(of_session, Sessions(self._folder.parent).all())
        return _at(relay, [saved for saved in sessions if saved is not None and is_named(saved)])

    def pick(self, *, named: str | None, relay: str | None) -> Saved:
        """Return the one identity that fits. Raises NoIdentity, or SeveralIdentities listing them."""
        found = self.matching(named=named, relay=relay)
        if len(found) == 1:
            return found[0]
        if found:
            raise several(found)
        whom = "no identity is" if named is None else f"no identity {named!r} is"
        where = "" if relay is None else f" for {relay}"
        failed = self.unreadable()
        if failed:
            raise IdentityUnreadable(f"{whom} found here{where}, but {failed[0]}")
        if named is not None and self.all():
            others = [] if relay is None else self.matching(named=named, relay=None)
            where += f", but for {', '.join(dict.fromkeys(one.relay for one in others))}" if others else ""
            raise NoIdentity(f"{whom} kept here{where}; see which there are: clawlink whoami --offline")
        raise NoIdentity(f"{whom} kept here{where}; register first: {to_register(relay)}")

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[Place]:
        """Make sure that an identity of this name can be kept, while no other process registers the name here.

        Raises OSError if it cannot, and IdentityUnreadable if one is kept that cannot be read.
        """
        from filelock import FileLock, Timeout  # here, since it costs more to load than the rest

        stem = _readable(name)
        for failed in self.unreadable():
            if failed.path == self._folder or failed.path.name.rpartition("-")[0] == stem:
                raise IdentityUnreadable(f"an identity {name!r} seems to be kept here, but {failed}")
        with _naming_the_variable():
            folder, locks = self.folder, self.folder.with_name("locks")
            for made in (folder, locks):
                private.make_folder(made)
            digest = hashlib.sha256(fold(name).encode("utf-8", "surrogatepass")).hexdigest()
            lock_path = locks / f"{digest[:16]}.lock"
            lock = FileLock(lock_path, thread_local=False)
            try:
                lock.acquire(timeout=_LOCK_SECONDS)
            except Timeout:
                raise IdentityUnreadable(f"another process has been registering {name!r} for long; end it") from None
        try:
            with _naming_the_variable():
                room = private.Replacement(folder, bytes(_ROOM_BYTES))
            with room:
                yield Place(self, room, lock_path)
        finally:
            lock.release()

    def save(self, saved: Saved) -> Path:
        """Keep an identity, in place of an earlier one of that name on that relay."""
        with self.place(saved.name) as place:
            return place.keep(saved)

    def forget(self, saved: Saved) -> None:
        """Forget an identity."""
        self._path(saved).unlink(missing_ok=True)

    def _path(self, saved: Saved) -> Path:
        """Name the file after agent and relay: readable, and never a path of its own, whatever the name is."""
        digest = hashlib.sha256(f"{fold(saved.name)}\n{saved.relay}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{_readable(saved.name)}-{digest[:8]}.json"


def _at(relay: str | None, kept: list[Saved]) -> list[Saved]:
    """Return the identities of this relay; all of them without one."""
    if relay is None:
        return kept
    place = address(relay)
    if same := [saved for saved in kept if address(saved.relay) == place]:
        return same
    places = set(place.split(","))
    return [saved for saved in kept if places.intersection(address(saved.relay).split(","))]


def of_session(session: Session) -> Saved | None:
    """Return the identity of a session of a coding agent; None while it has none."""
    if session.agent_id is None:
        return None
    return Saved(session.name, session.agent_id, session.relay, session.token, session.agent_key, session.ca)


def several(found: list[Saved], how: str | None = None) -> SeveralIdentities:
    """Return the error for several fitting identities, with the flag that tells them apart."""
    return SeveralIdentities(f"several identities fit: {listed(found)}; say which with {how or told_apart_by(found)}")


def listed(found: list[Saved]) -> str:
    """Return the names and relays of the first identities, and how many more there are."""
    first = ", ".join(f"{saved.typed} (on {saved.relay})" for saved in found[:_MOST_NAMED])
    more = len(found) - _MOST_NAMED
    return first if more <= 0 else f"{first} and {more} more (see: clawlink whoami)"


def to_register(relay: str | None) -> str:
    """Return the command that registers an agent, at the relay if one is named."""
    return "clawlink register --name NAME" + ("" if relay is None else f" --relay {shlex.quote(relay)}")


def told_apart_by(found: list[Saved]) -> str:
    """Return the flags that choose one of several identities."""
    names, relays = {fold(saved.name) for saved in found}, {saved.relay for saved in found}
    if len(names) == 1:
        return BY_RELAY
    return f"{BY_NAME}, and {BY_RELAY}" if 1 < len(relays) < len(found) else BY_NAME


@contextlib.contextmanager
def _naming_the_variable() -> Iterator[None]:
    """Add the next step to an error of the system."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror or error}; no identity can be kept there: name another folder with CLAWLINK_HOME"
        raise OSError(error.errno, why, error.filename) from error


def _readable(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", fold(name)).strip("-")[:40] or "agent"


def _unreadable(path: Path, error: Exception) -> Unreadable:
    """Return the reason why a file cannot be read, with the fix."""
    typed = shlex.quote(str(path))
    if isinstance(error, PermissionError):
        return Unreadable(path, "it belongs to another account", f'make it yours: sudo chown "$(id -un)" {typed}')
    if isinstance(error, OSError):
        return Unreadable(path, error.strerror or str(error), f"see what is there: ls -l {typed}")
    why = f"it is no whole identity ({error})"
    return Unreadable(path, why, f"mend it, or remove it and register again: rm {typed}")
