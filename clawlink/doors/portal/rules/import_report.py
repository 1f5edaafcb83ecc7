"""The report of an import: rows that came, rows that are skipped with the reason, and keys to choose from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from clawlink.doors.portal.rules.texts import utc

SHOWN_KEY = 12
MOST_LISTED = 10_000
KINDS = ("contacts", "keys", "password", "messages", "chat", "guests", "files", "photos")
_WHAT = {
    "contact": "contact {name}",
    "contacts": "{name} contacts",
    "message": "message {name}",
    "guest": "guest message {name}",
    "guests": "{name} older guest messages",
    "chat": "chat line {name}",
    "file": "file {name}",
    "beside": "{name}",
    "keys": "{name} keys of api_keys",
    "notices": "{name} pending notifications",
    "password": "the owner's password",
    "openclaw": "openclaw_url and openclaw_token",
}
_WHY = {
    "address": "its address is not that of a portal",
    "itself": "it is this portal itself",
    "unverified": "it was never verified; ask for it again, or approve its guest message",
    "no_key": "it has no key; an empty one would let in everybody",
    "known_key": "{detail}",
    "key_length": "{detail}",
    "key_characters": "{detail}",
    "same_key": "contact {detail} has the same key, and each contact needs its own",
    "same_portal": "contact {detail} is the same portal",
    "end": "its end, {detail}, does not come with it; set it with: clawlink portal end CONTACT DATE",
    "most_contacts": "there may be {detail} contacts",
    "no_portal": "it names no portal that it came from or went to ({detail})",
    "others": "it is between {detail}, not with this portal",
    "long": "its text is longer than {detail} bytes; read it in the old database",
    "role": "its role is {detail}, not owner or agent",
    "more": "there may be no more; read them in the old database",
    "well_known": "it is the same for everybody who ran the old set-up command",
    "other_portal": "it was made for another portal",
    "revoked": "it was revoked",
    "repeated": "each is about a message that comes itself",
    "public": "it is the public default; the portal needs one of its own",
    "unused": "nothing uses them; the bridge reads gateway.env",
    "incomplete": "it never completed",
    "no_contact": "its sender is no contact here",
    "bad_length": "a password has {detail} characters",
    "holes": "parts of it are missing in the old database",
    "sums": "{detail}",
    "sizes": "{detail}",
    "no_room": "{detail}",
    "later": "{detail}",
    "unreadable": "{detail}",
    "refused": "{detail}",
}


class Skipped(NamedTuple):
    """A row that does not come, and the reason. The page has texts of its own for the kinds and the reasons."""

    kind: str
    name: str
    reason: str
    detail: str = ""

    @property
    def what(self) -> str:
        """The row in words."""
        return _WHAT[self.kind].format(name=self.name)

    @property
    def why(self) -> str:
        """The reason in words."""
        return _WHY[self.reason].format(detail=self.detail)


_NOTES = {
    "number": "contact {name} has the number {detail} here",
    "guest_number": "guest message {name} has the number {detail} here: answer with that number",
    "long": "message {name} is unread, and too long for a frame: read it with clawlink portal history",
    "address": "the old portal had the address {name}, and this one has {detail}: contacts have to learn it",
}


class Note(NamedTuple):
    """A row that came, and is not quite as it was."""

    reason: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return _NOTES[self.reason].format(name=self.name, detail=self.detail)


class KeyCandidate(NamedTuple):
    """A key that may be the owner's. Anybody could make one, so the owner chooses."""

    key: str
    name: str
    created_at: float

    @property
    def shown(self) -> str:
        """The first characters, by which the owner knows it again."""
        return self.key[:SHOWN_KEY] + "..."

    @property
    def id(self) -> str:
        """A name for the key that no other key has, and that does not tell it."""
        return hashlib.sha256(self.key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Choice(NamedTuple):
    """The keys that the owner takes over: one as the owner key, others as agent keys."""

    owner: str | None = None
    agents: Sequence[str] = ()


class Report:
    """The outcome: how many rows of each kind came, how many were here before, what stayed behind, and why."""

    def __init__(self) -> None:
        self.came = dict.fromkeys(KINDS, 0)
        self.there = dict.fromkeys(KINDS, 0)
        self.left: list[Skipped] = []
        self.more_left = 0
        self.keys: list[KeyCandidate] = []
        self.notes: list[Note] = []

    def skip(self, *rows: Skipped | None) -> None:
        """Note rows that do not come. Of a great many rows the first are listed, and the others counted."""
        for one in rows:
            if one is not None and len(self.left) < MOST_LISTED:
                self.left.append(one)
            elif one is not None:
                self.more_left += 1

    def count(self, kind: str, *, came: bool = True) -> None:
        """Count a row that came, or was here before."""
        (self.came if came else self.there)[kind] += 1

    def as_json(self, most: int = MOST_LISTED) -> dict[str, Any]:
        """Return the report without a whole key in it, with at most this many rows that stay."""
        shown = [
            {"key_id": one.shown, "id": one.id, "agent_name": one.name, "created_at": utc(one.created_at)}
            for one in self.keys
        ]
        left = [{"what": one.what, "why": one.why, **one._asdict()} for one in self.left[:most]]
        more = len(self.left) - len(left) + self.more_left
        return {
            "came": self.came,
            "there": self.there,
            "left": left,
            "more_left": more,
            "keys": shown,
            "notes": [str(note) for note in self.notes[:most]],
            "noted": [note._asdict() for note in self.notes[:most]],
        }
