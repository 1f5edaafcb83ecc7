"""Broadcasts: their contents, their recipients, and the history for agents that join later."""

from __future__ import annotations

from collections.abc import Container

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import Agent, by_pattern, fold, is_same
from clawlink.domain.record import SETTLED, text_bytes
from clawlink.domain.shares import Origin, holder

# The bytes of a broadcast, of each recipient, and of the copy for agents that come late, measured.
_RECORD_BYTES = 198
_RECIPIENT_BYTES = 8
_KNOWLEDGE_BYTES = 146


class Broadcast(msgspec.Struct, frozen=True, gc=False):
    """The recipients of a broadcast. It is its own partition; each recipient's copy is a delivery at the recipient's
    partition.

    ``recipients`` are agent ids, fixed when the broadcast was accepted. The end of the copying takes out agents that
    left before their copy was made. ``refused`` counts the recipients whose mailbox had no room. It is None until every
    recipient has been tried, so that a repeat goes on where a crash stopped. ``sender_key`` is the hash of the sender's
    key. Times are seconds since the epoch.
    """

    id: str
    version: int
    sender: str
    body: bytes
    recipients: tuple[str, ...]
    stored_at: float
    ends_at: float
    refused: int | None = None
    sender_key: str | None = None

    @property
    def partition_key(self) -> str:
        return "broadcast:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        """It is settled, and may be forgotten early, once every recipient has been tried."""
        return () if self.refused is None else (SETTLED,)

    @property
    def weight(self) -> int:
        return len(self.body) + sum(map(len, self.recipients))

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + len(self.body) + _RECIPIENT_BYTES * len(self.recipients)

    def is_by(self, agent: Agent) -> bool:
        """Return True if the agent sent it, and is no later bearer of its sender's id."""
        return is_same(agent, self.sender, self.sender_key, self.stored_at)

    @property
    def is_refused(self) -> bool:
        """Return True if no mailbox had room for it."""
        return bool(self.recipients) and self.refused == len(self.recipients)

    def done(self, refused: int, left: Container[str] = ()) -> Broadcast:
        """Return the broadcast once every recipient has been tried. ``left`` had gone before their copy was made."""
        recipients = tuple([id for id in self.recipients if id not in left]) if left else self.recipients
        return replace(self, version=self.version + 1, recipients=recipients, refused=refused)


class Knowledge(msgspec.Struct, frozen=True, gc=False):
    """A broadcast in the history for agents that join later, at the same partition. Topic, tags and author are the
    sender's.

    ``recipients`` is the number of mailboxes that got it, and ``refused`` of those that had no room. Both change once:
    when every recipient has been tried. ``author_key`` is the hash of the author's key. Times are seconds since the
    epoch.
    """

    id: str
    version: int
    author: str
    body: bytes
    topic: str
    tags: tuple[str, ...]
    stored_at: float
    ends_at: float
    recipients: int = 0
    author_key: str | None = None
    address: str | None = None
    refused: int = 0

    @property
    def partition_key(self) -> str:
        return "broadcast:" + self.id

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (KNOWLEDGE, by_topic(self.topic), by_author(self.author), *{by_tag(tag) for tag in self.tags})

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.author, self.author_key))

    @property
    def weight(self) -> int:
        return len(self.body)

    def is_by(self, agent: Agent) -> bool:
        """Return True if the agent told it, and is no later bearer of its author's id."""
        return is_same(agent, self.author, self.author_key, self.stored_at)

    def done(self, told: Broadcast) -> Knowledge:
        """Return it once every recipient of the broadcast has been tried."""
        refused = told.refused or 0
        return replace(self, version=self.version + 1, recipients=len(told.recipients) - refused, refused=refused)

    @property
    def footprint(self) -> int:
        texts = text_bytes(self.topic) + sum(map(text_bytes, self.tags))
        return _KNOWLEDGE_BYTES + len(self.body) + texts


KNOWLEDGE = "knowledge"


def by_topic(topic: str) -> str:
    """Return the index key of the kept broadcasts on a topic."""
    return "topic:" + fold(topic)


def by_tag(tag: str) -> str:
    """Return the index key of the kept broadcasts with a tag."""
    return "tag:" + fold(tag)


def by_author(agent_id: str) -> str:
    """Return the index key of an agent's kept broadcasts."""
    return "author:" + agent_id


# Topics, and the patterns by which agents subscribe to them, both without regard to case. ``research`` is that topic
# alone, ``build.*`` all that begin with ``build.``, and ``*`` every topic.
EVERYTHING = "*"
_BELOW = ".*"


def matches(pattern: str, topic: str) -> bool:
    """Return True if a topic falls under a pattern."""
    wanted, given = fold(pattern), fold(topic)
    if wanted == EVERYTHING:
        return True
    return given.startswith(wanted[:-1]) if wanted.endswith(_BELOW) else given == wanted


def pattern_keys(topic: str) -> list[str]:
    """Return the index keys of all patterns that a topic falls under: under them its subscribers are found."""
    given = fold(topic)
    wider = [given[: at + 1] + "*" for at, letter in enumerate(given) if letter == "."]
    return [by_pattern(pattern) for pattern in dict.fromkeys((EVERYTHING, given, *wider))]


def is_about(kept: Knowledge, pattern: str | None, tag: str | None, author: str | None) -> bool:
    """Return True if a broadcast of the history has such a topic, tag and author; None stands for any."""
    return (
        (pattern is None or matches(pattern, kept.topic))
        and (tag is None or fold(tag) in map(fold, kept.tags))
        and author in (None, kept.author)
    )
