"""The rows of an old database: which become records, which are skipped, and the reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from clawlink.doors.portal.rules import consent
from clawlink.doors.portal.rules.import_report import KeyCandidate, Skipped
from clawlink.doors.portal.rules.texts import MAX_NAME_LENGTH, seconds, unreserved
from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.errors import BadRequest

MAX_TEXT_BYTES = 1024 * 1024
MOST_CANDIDATES = 100
_MOST_NUMBER = 2**48
_FUTURE_SECONDS = 24 * 3600.0
_FIRST_RELEASE = seconds("2026-03-28T00:00:00+08:00")

Row = Mapping[str, Any]


class ContactRow(NamedTuple):
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


class MessageRow(NamedTuple):
    """A message from or to a portal."""

    number: int
    inbound: bool
    contact: str
    content: str
    message_type: str
    delivered: bool
    created_at: float


class GuestRow(NamedTuple):
    """A guest message."""

    number: int
    content: str
    status: str
    is_read: bool
    address: str | None
    created_at: float


class ChatRow(NamedTuple):
    """A line of the chat of owner and agent."""

    number: int
    role: str
    content: str
    created_at: float


class FileRow(NamedTuple):
    """A complete file of a contact. ``part_size`` is 0 where the database does not say it."""

    id: str
    contact: str
    filename: str
    size: int
    part_size: int
    md5: str

    @property
    def key(self) -> str:
        """The idempotency key under which the file comes."""
        return "portal import " + self.id

    def skipped(self, reason: str, detail: str = "") -> Skipped:
        """Return that the file does not come."""
        return Skipped("file", f"{shortened(self.filename)} ({shortened(self.id)})", reason, detail)


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


class ContactRows:
    """The contacts of all releases. Of two rows for one portal the later one comes."""

    def __init__(self, own_url: str, now: float, *, most: int) -> None:
        self._own_url = own_url
        self._clock = Clock(now)
        self._most = most
        self._found: dict[str, ContactRow] = {}
        self._by_key: dict[str, ContactRow] = {}

    @property
    def found(self) -> list[ContactRow]:
        """The contacts, as many as a portal may have."""
        return list(self._found.values())[: self._most]

    def take(self, row: Row) -> Skipped | None:
        """Take a row. Return the row that does not come: this row, or an earlier one in its place."""
        number, address = number_of(row.get("id")), text(row, "portal_url", "contact_portal")
        what = f"{number} ({shortened(address)})"
        try:
            id = normalised(address)
        except BadRequest:
            return Skipped("contact", what, "address")
        if same(id, self._own_url):
            return Skipped("contact", what, "itself")
        if "is_verified" in row and not _flag(row["is_verified"], default=True):
            return Skipped("contact", what, "unverified")
        key, send_key, fault = _keys_of(row)
        if key is None:
            return Skipped("contact", what, *(fault or ("no_key",)))
        other = self._by_key.get(key)
        if other is not None and other.id != id:
            return Skipped("contact", what, "same_key", str(other.number))
        before = self._found.get(id)
        display, agent, user = (_name(row, column) for column in ("display_name", "agent_name", "user_name"))
        at = self._clock.read(row.get("created_at"))
        contact = ContactRow(number, id, address, key, send_key, display, agent, user, at)
        if before is not None:
            del self._by_key[before.key]
        self._found[id] = self._by_key[key] = contact
        if before is not None:
            return Skipped("contact", f"{before.number} ({before.url})", "same_portal", str(number))
        ends = text(row, "expires_at")
        return Skipped("contact", what, "end", shortened(ends)) if ends else None

    def rest(self) -> Iterator[Skipped]:
        """Give the rows that do not come, counted together."""
        if len(self._found) > self._most:
            yield Skipped("contacts", str(len(self._found) - self._most), "most_contacts", str(self._most))


def _keys_of(row: Row) -> tuple[str | None, str | None, consent.Fault | None]:
    """Return the key that the contact shows here, the one that its portal takes, and what is wrong.

    Up to 0.5 the two directions had a key each.
    """
    shared = text(row, "shared_key")
    inward = shared or text(row, "my_api_key", "outgoing")
    outward = shared or text(row, "their_api_key", "incoming")
    either = text(row, "api_key")
    inward, outward = inward or outward or either, outward or inward or either
    if not inward:
        return None, None, None
    for key in (inward, outward):
        fault = consent.fault_of(key)
        if fault is not None:
            return None, None, fault
    return inward, None if outward == inward else outward, None


class MessageRows:
    """The messages, in their order. Those between other portals, or larger than a reply, stay."""

    def __init__(self, own_url: str, now: float) -> None:
        self._own_url = own_url
        self._clock = Clock(now)

    def read(self, row: Row) -> MessageRow | Skipped:
        """Return the message of a row."""
        number = number_of(row.get("id"))
        sender, receiver = text(row, "from_portal"), text(row, "to_portal")
        from_us, to_us = same(sender, self._own_url), same(receiver, self._own_url)
        inbound = to_us or not from_us
        other = sender if inbound else receiver
        content = text(row, "content", strip=False)
        attached = text(row, "file_url")
        if attached and attached not in content:
            content = f"{content}\n{attached}".lstrip()
        try:
            contact = normalised(other)
        except BadRequest:
            return Skipped("message", str(number), "no_portal", shortened(other))
        if receiver and sender and not to_us and not from_us:
            return Skipped("message", str(number), "others", f"{shortened(sender)} and {shortened(receiver)}")
        if _is_long(content, MAX_TEXT_BYTES):
            return Skipped("message", str(number), "long", str(MAX_TEXT_BYTES))
        at = self._clock.read(row.get("created_at"))
        kind = text(row, "message_type")[:64] or "text"
        delivered = _flag(row.get("is_delivered"), default=True)
        return MessageRow(number, inbound, contact, content, kind, delivered, at)


class GuestRows:
    """The guest messages, which are read the newest first.

    Strangers wrote them, so there is a limit: all that wait up to ``most_waiting``, and ``most`` in all, the newest.
    """

    def __init__(self, now: float, *, most_waiting: int, most: int) -> None:
        self._clock = Clock(now)
        self._most_waiting = most_waiting
        self._most = most
        self._waiting = self._beyond = 0
        self._found: list[GuestRow] = []

    @property
    def found(self) -> list[GuestRow]:
        """The guest messages that come, the oldest first."""
        return self._found[::-1]

    def take(self, row: Row) -> Skipped | None:
        """Take a row. Return it if it does not come."""
        number, content = number_of(row.get("id")), text(row, "content", strip=False)
        status = text(row, "status").lower() or "pending"
        status = status if status in ("approved", "rejected") else "pending"
        if _is_long(content, MAX_TEXT_BYTES // 8):
            return Skipped("guest", str(number), "long", str(MAX_TEXT_BYTES // 8))
        if len(self._found) >= self._most or (status == "pending" and self._waiting >= self._most_waiting):
            self._beyond += 1
            return None
        self._waiting += status == "pending"
        address = text(row, "ip_address")[:64] or None
        at = self._clock.read(row.get("created_at"))
        read = _flag(row.get("is_read"), default=False)
        self._found.append(GuestRow(number, content, status, read, address, at))
        return None

    def rest(self) -> Iterator[Skipped]:
        """Give the rows that do not come, counted together."""
        if self._beyond:
            yield Skipped("guests", str(self._beyond), "more")


class ChatRows:
    """The chat of owner and agent."""

    def __init__(self, now: float) -> None:
        self._clock = Clock(now)

    def read(self, row: Row) -> ChatRow | Skipped:
        """Return the line of a row."""
        number, role, content = number_of(row.get("id")), text(row, "role").lower(), text(row, "content", strip=False)
        if role not in ("owner", "agent"):
            return Skipped("chat", str(number), "role", repr(shortened(role)))
        if _is_long(content, MAX_TEXT_BYTES):
            return Skipped("chat", str(number), "long", str(MAX_TEXT_BYTES))
        return ChatRow(number, role, content, self._clock.read(row.get("created_at")))


class KeyRows:
    """The keys that may be the owner's: active ones of the portal itself. Nobody but the owner can tell them."""

    def __init__(self, own_url: str, now: float) -> None:
        self._own_url = own_url
        self._clock = Clock(now)
        self._reasons: Counter[tuple[str, str]] = Counter()
        self.found: dict[str, KeyCandidate] = {}

    def take(self, row: Row) -> None:
        """Take a row."""
        key = text(row, "key_id", "api_key")
        fault = consent.fault_of(key)
        if key == consent.WELL_KNOWN_KEY:
            self._reasons["well_known", ""] += 1
        elif not same(text(row, "portal_url"), self._own_url):
            self._reasons["other_portal", ""] += 1
        elif not _flag(row.get("is_active"), default=True):
            self._reasons["revoked", ""] += 1
        elif fault is not None:
            self._reasons[fault] += 1
        elif key in self.found or len(self.found) < MOST_CANDIDATES:
            name = (text(row, "agent_name") or text(row, "description"))[:MAX_NAME_LENGTH]
            self.found[key] = KeyCandidate(key, name, self._clock.read(row.get("created_at")))
        else:
            self._reasons["more", ""] += 1

    def rest(self) -> Iterator[Skipped]:
        """Give the rows that do not come, counted together."""
        for (reason, detail), count in self._reasons.items():
            yield Skipped("keys", str(count), reason, detail)


def file_row(row: Row) -> FileRow | Skipped:
    """Return the file of a row."""
    id, name = text(row, "file_id"), text(row, "filename")
    try:
        contact = normalised(text(row, "from_portal"))
    except BadRequest:
        contact = ""
    found = FileRow(id, contact, name or "file", _size(row.get("size")), _size(row.get("chunk_size")), text(row, "md5"))
    return found if text(row, "status") == "completed" else found.skipped("incomplete")


def chosen(named: str, of: Iterable[KeyCandidate]) -> KeyCandidate:
    """Return the key that the owner names in full, by its first characters or by its id. Raises BadRequest."""
    if named == consent.WELL_KNOWN_KEY:
        raise BadRequest("this key is the same for everybody who ran the old set-up command: have a new one made")
    wanted = named.removesuffix("...")
    found = [one for one in of if wanted and (one.key.startswith(wanted) or one.id == wanted)]
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
    return unreserved(kept) or None


def number_of(value: Any) -> int:
    """Return the id of a row; 0 for one that has to get a new number."""
    return value if isinstance(value, int) and 0 < value < _MOST_NUMBER else 0


def _size(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _is_long(content: str, most: int) -> bool:
    return len(content) > most or len(content.encode("utf-8", "replace")) > most


def _flag(value: Any, *, default: bool) -> bool:
    if value is None:
        return default
    return str(value).strip().lower() not in ("0", "false", "", "no", "f")
