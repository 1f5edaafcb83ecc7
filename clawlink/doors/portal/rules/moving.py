"""Moving in: which rows of Agent P2P become records here, which do not, and the reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clawlink.doors.portal.rules import consent
from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.doors.portal.rules.words import seconds, utc
from clawlink.errors import BadRequest

DEFAULT_PASSWORD = "19950302"  # noqa: S105 - everybody knows it
MAX_NAME_LENGTH = 200
MAX_TEXT_BYTES = 1024 * 1024
SHOWN_KEY = 12
KINDS = ("contacts", "keys", "password", "messages", "chat", "guests", "files", "photos")
_MOST_NUMBER = 2**48
_FUTURE_SECONDS = 24 * 3600.0
_FIRST_RELEASE = seconds("2026-03-28T00:00:00+08:00")

Row = Mapping[str, Any]


class Left(NamedTuple):
    """A row that stays behind, and the reason."""

    what: str
    why: str


class Person(NamedTuple):
    """A contact. ``key`` opens our portal to it; ``send_key`` is what its portal takes, None where that is the same."""

    number: int
    id: str
    url: str
    key: str
    send_key: str | None
    display_name: str | None
    agent_name: str | None
    user_name: str | None
    created_at: float


class Letter(NamedTuple):
    """A message from or to a portal."""

    number: int
    inbound: bool
    contact: str
    content: str
    message_type: str
    delivered: bool
    created_at: float


class Visit(NamedTuple):
    """A guest message."""

    number: int
    content: str
    status: str
    is_read: bool
    address: str | None
    created_at: float


class Said(NamedTuple):
    """A line of the chat of owner and agent."""

    number: int
    role: str
    content: str
    created_at: float


class Candidate(NamedTuple):
    """A key that may be the owner's. Anybody could make one, so the owner chooses."""

    key: str
    name: str
    created_at: float

    @property
    def shown(self) -> str:
        """The first characters, by which the owner knows it again."""
        return self.key[:SHOWN_KEY] + "..."


class Choice(NamedTuple):
    """The keys that the owner takes over: one as the owner key, others as agent keys."""

    owner: str | None = None
    agents: Sequence[str] = ()


class Report:
    """The outcome: how many rows of each kind came, how many were here before, what stayed behind, and why."""

    def __init__(self) -> None:
        self.came = dict.fromkeys(KINDS, 0)
        self.there = dict.fromkeys(KINDS, 0)
        self.left: list[Left] = []
        self.keys: list[Candidate] = []
        self.notes: list[str] = []

    def count(self, kind: str, *, came: bool = True) -> None:
        """Count a row that came, or was here before."""
        (self.came if came else self.there)[kind] += 1

    def as_json(self) -> dict[str, Any]:
        """Return the report without a whole key in it."""
        shown = [{"key_id": one.shown, "agent_name": one.name, "created_at": utc(one.created_at)} for one in self.keys]
        left = [one._asdict() for one in self.left]
        return {"came": self.came, "there": self.there, "left": left, "keys": shown, "notes": self.notes}


class Clock:
    """Times of rows. One that cannot be read, or lies in the future, becomes that of the row before.

    So a second run reads the same times, and knows each row again.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._last = _FIRST_RELEASE

    def read(self, value: Any) -> float:
        """Return the instant of a column."""
        try:
            at = seconds(str(value))
        except (ValueError, OverflowError):
            at = self._last
        if not 0 < at < self._now + _FUTURE_SECONDS:
            at = self._last
        self._last = at
        return at


def people(rows: Iterable[Row], own_url: str, now: float) -> tuple[list[Person], list[Left]]:
    """Return the contacts of all releases. Of two rows for one portal the later one comes."""
    clock = Clock(now)
    found: dict[str, Person] = {}
    left: list[Left] = []
    for row in rows:
        number, address = _number(row.get("id")), text(row, "portal_url", "contact_portal")
        what = f"contact {number} ({shortened(address)})"
        try:
            id = normalised(address)
        except BadRequest:
            left.append(Left(what, "its address is not that of a portal"))
            continue
        if same(id, own_url):
            left.append(Left(what, "it is this portal itself"))
            continue
        if "is_verified" in row and not _flag(row["is_verified"], default=True):
            left.append(Left(what, "it was never verified; ask for it again, or approve its guest message"))
            continue
        key, send_key, fault = _keys_of(row)
        if key is None:
            left.append(Left(what, fault))
            continue
        others = [other for other in found.values() if other.id != id and other.key == key]
        if others:
            left.append(Left(what, f"contact {others[0].number} has the same key, and each contact needs its own"))
            continue
        if id in found:
            left.append(Left(f"contact {found[id].number} ({found[id].url})", f"contact {number} is the same portal"))
        display, agent, user = (_name(row, column) for column in ("display_name", "agent_name", "user_name"))
        at = clock.read(row.get("created_at"))
        found[id] = Person(number, id, address, key, send_key, display, agent, user, at)
    return list(found.values()), left


def _keys_of(row: Row) -> tuple[str | None, str | None, str]:
    """Return the key that the contact shows here, the one that its portal takes, and what is wrong.

    Up to 0.5 the two directions had a key each.
    """
    shared = text(row, "shared_key")
    inward = shared or text(row, "my_api_key", "outgoing")
    outward = shared or text(row, "their_api_key", "incoming")
    either = text(row, "api_key")
    inward, outward = inward or outward or either, outward or inward or either
    if not inward:
        return None, None, "it has no key; an empty one would let in everybody"
    for key in (inward, outward):
        fault = consent.key_fault(key)
        if fault is not None:
            return None, None, fault
    return inward, None if outward == inward else outward, ""


def letters(rows: Iterable[Row], own_url: str, now: float) -> tuple[list[Letter], list[Left]]:
    """Return the messages, in their order. Those between other portals, or larger than a reply, stay."""
    clock = Clock(now)
    found, left = [], []
    for row in rows:
        number = _number(row.get("id"))
        sender, receiver = text(row, "from_portal"), text(row, "to_portal")
        inbound = same(receiver, own_url) or not same(sender, own_url)
        other = sender if inbound else receiver
        what = f"message {number}"
        content = text(row, "content", strip=False)
        attached = text(row, "file_url")
        if attached and attached not in content:
            content = f"{content}\n{attached}".lstrip()
        try:
            contact = normalised(other)
        except BadRequest:
            left.append(Left(what, f"it names no portal that it came from or went to ({shortened(other)})"))
            continue
        if receiver and sender and not same(receiver, own_url) and not same(sender, own_url):
            left.append(
                Left(what, f"it is between {shortened(sender)} and {shortened(receiver)}, not with this portal")
            )
            continue
        if len(content.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            left.append(Left(what, f"its text is longer than {MAX_TEXT_BYTES} bytes; read it in the old database"))
            continue
        at = clock.read(row.get("created_at"))
        kind = text(row, "message_type")[:64] or "text"
        delivered = _flag(row.get("is_delivered"), default=True)
        found.append(Letter(number, inbound, contact, content, kind, delivered, at))
    return found, left


def visits(newest_first: Iterable[Row], now: float, *, most_waiting: int, most: int) -> tuple[list[Visit], list[Left]]:
    """Return the guest messages, the oldest first.

    Strangers wrote them, so there is a limit: all that wait up to ``most_waiting``, and ``most`` in all, the newest.
    """
    found: list[Visit] = []
    left: list[Left] = []
    waiting = beyond = 0
    clock = Clock(now)
    for row in newest_first:
        number, content = _number(row.get("id")), text(row, "content", strip=False)
        status = text(row, "status").lower() or "pending"
        status = status if status in ("approved", "rejected") else "pending"
        if len(content.encode("utf-8", "replace")) > MAX_TEXT_BYTES // 8:
            left.append(Left(f"guest message {number}", f"it is longer than {MAX_TEXT_BYTES // 8} bytes"))
            continue
        if len(found) >= most or (status == "pending" and waiting >= most_waiting):
            beyond += 1
            continue
        waiting += status == "pending"
        address = text(row, "ip_address")[:64] or None
        at = clock.read(row.get("created_at"))
        found.append(Visit(number, content, status, _flag(row.get("is_read"), default=False), address, at))
    if beyond:
        left.append(Left(f"{beyond} older guest messages", "there may be no more; read them in the old database"))
    return found[::-1], left


def sayings(rows: Iterable[Row], now: float) -> tuple[list[Said], list[Left]]:
    """Return the chat of owner and agent."""
    clock = Clock(now)
    found, left = [], []
    for row in rows:
        number, role, content = _number(row.get("id")), text(row, "role").lower(), text(row, "content", strip=False)
        if role not in ("owner", "agent"):
            left.append(Left(f"chat line {number}", f"its role is {shortened(role)!r}, not owner or agent"))
        elif len(content.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            left.append(Left(f"chat line {number}", f"its text is longer than {MAX_TEXT_BYTES} bytes"))
        else:
            found.append(Said(number, role, content, clock.read(row.get("created_at"))))
    return found, left


def candidates(rows: Iterable[Row], own_url: str, now: float) -> tuple[list[Candidate], list[Left]]:
    """Return the keys that may be the owner's: active ones of the portal itself. Nobody but the owner can tell them."""
    clock = Clock(now)
    found: dict[str, Candidate] = {}
    reasons: dict[str, int] = {}
    for row in rows:
        key = text(row, "key_id", "api_key")
        fault = consent.key_fault(key)
        if key == consent.WELL_KNOWN_KEY:
            why = "it is the same for everybody who ran the old set-up command"
        elif not same(text(row, "portal_url"), own_url):
            why = "it was made for another portal"
        elif not _flag(row.get("is_active"), default=True):
            why = "it was revoked"
        elif fault is not None:
            why = fault
        else:
            name = (text(row, "agent_name") or text(row, "description"))[:MAX_NAME_LENGTH]
            found[key] = Candidate(key, name, clock.read(row.get("created_at")))
            continue
        reasons[why] = reasons.get(why, 0) + 1
    return list(found.values()), [Left(f"{count} keys of api_keys", why) for why, count in reasons.items()]


def chosen(named: str, of: Iterable[Candidate]) -> Candidate:
    """Return the key that the owner names in full, or by its first characters. Raises BadRequest."""
    if named == consent.WELL_KNOWN_KEY:
        raise BadRequest("this key is the same for everybody who ran the old set-up command: have a new one made")
    wanted = named.removesuffix("...")
    found = [one for one in of if wanted and one.key.startswith(wanted)]
    if len(found) != 1:
        raise BadRequest(
            f"{len(found)} keys of the old portal begin with {shortened(named)!r}; name one of those that the command "
            "lists without this flag"
        )
    return found[0]


def text(row: Row, *columns: str, strip: bool = True) -> str:
    """Return the first of these columns that has a text; "" if none has."""
    for column in columns:
        value = row.get(column)
        if value is None:
            continue
        found = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        found = found.encode("utf-8", "replace").decode()
        if found.strip():
            return found.strip() if strip else found
    return ""


def shortened(given: str) -> str:
    """Return a text of others for a line of a report."""
    return "".join(c if c.isprintable() else "?" for c in given[:80]) or "-"


def _name(row: Row, column: str) -> str | None:
    kept = "".join(c for c in text(row, column) if c.isprintable())[:MAX_NAME_LENGTH]
    return kept or None


def _number(value: Any) -> int:
    """Return the id of a row; 0 for one that has to get a new number."""
    return value if isinstance(value, int) and 0 < value < _MOST_NUMBER else 0


def _flag(value: Any, *, default: bool) -> bool:
    if value is None:
        return default
    return str(value).strip().lower() not in ("0", "false", "", "no", "f")
