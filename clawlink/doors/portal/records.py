"""The records of a portal: ordinary records of the relay's store.

A sent message lives at its contact's mailbox, with the delivery that the portal posts. All others live at the mailbox
of the owner's agent: each lands in one commit with the delivery that tells of it.
"""

from __future__ import annotations

import hashlib
from enum import Enum

import msgspec
from msgspec.structs import replace

from clawlink.domain.agent import fold
from clawlink.domain.record import text_bytes
from clawlink.doors.portal.rules.texts import contact_name

AGENT = "agent"
"""The owner's agent at its own relay, and the place of the portal's records."""
OPERATOR = "operator"
CONTACT_PREFIX = "portal/"
SUFFIX = "@portal"
"""The agents for which the portal posts: a contact's mailbox is its outbox."""

CONTACTS = " portal contacts"
GUESTS = " portal guests"
WAITING = " portal guests waiting"
DECIDED = " portal guests decided"
MESSAGES = " portal messages"
QUEUED = " portal messages queued"
SETTLED_MESSAGES = " portal messages settled"
CHAT = " portal chat"
KEYS = " portal keys"
FORWARDED = " portal errands"
PHOTOS = " portal photos"

FORWARDED_SECONDS = 30 * 24 * 3600.0

EXPIRY_GRACE_SECONDS = 60.0
_RECORD_BYTES = 400
_HASH_LENGTH = 24


def hash_key(key: str) -> str:
    """Return the hash under which a key is found."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def mailbox_of(url: str) -> str:
    """Return the agent whose mailbox is the outbox for the portal of this normalised address."""
    return CONTACT_PREFIX + hashlib.sha256(url.encode()).hexdigest()[:_HASH_LENGTH]


def is_outbox(mailbox: str) -> bool:
    """Return True for the mailbox of an agent that stands for a contact."""
    return mailbox.startswith(CONTACT_PREFIX)


class Kept(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The fields that all records of a portal have alike."""

    id: str
    version: int

    @property
    def partition_key(self) -> str:
        return AGENT

    @property
    def index_keys(self) -> tuple[str, ...]:
        return ()

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + self.weight

    @property
    def ends_at(self) -> float | None:
        return None


class PageLogin(msgspec.Struct, frozen=True, gc=False):
    """A login of the owner at the page: its end, its public name, and the token for its writes."""

    ends_at: float
    name: str
    csrf: str


class Portal(Kept, frozen=True, gc=False, kw_only=True):
    """The settings of the portal, once: the hash of the owner key, and the owner's password by scrypt.

    ``highest`` has the highest number of each kind of record at the last removal, so that no number comes again.
    ``sessions`` has the ends of the owner's logins, by the hashes of their tokens. ``pages`` has the logins at the
    page, by the hashes of their cookies. ``openclaw_url`` and ``openclaw_token`` are what the owner has noted of
    OpenClaw, for the owner alone. ``owner_shown`` has the first characters of the owner key, and ``ended_keys`` the
    hashes of owner keys that the owner has ended.
    """

    url: str
    owner_hash: str
    password: str
    highest: dict[str, int] = {}
    sessions: dict[str, float] = {}
    pages: dict[str, PageLogin] = {}
    openclaw_url: str | None = None
    openclaw_token: str | None = None
    owner_shown: str = ""
    owner_since: float | None = None
    owner_used_at: float | None = None
    ended_keys: tuple[str, ...] = ()


class Contact(Kept, frozen=True, gc=False, kw_only=True):
    """A portal whose owner and ours agreed. Its id is the normalised address.

    ``url`` is the address as it was given, and ``ours`` tells whether the portal there is a ClawLink relay; None while
    that is not known. A ``blocked`` contact writes nothing to the owner, and gets nothing. ``send_key`` is what the
    portal there takes, where it is not ``key``: up to Agent P2P 0.5 the two directions had a key each.

    A ``paused`` contact is told to come back later, and its messages wait here. After ``until`` it is as if blocked.
    ``pin`` is the SHA-256 of the certificate of the portal there, in hexadecimal. ``next_key`` is offered to the
    contact in place of ``key``, and ``old_key`` is the key before a renewal; both are taken until the new one is used.
    ``key_at`` is when ``key`` was made or offered; None for the key that the contact began with.
    """

    number: int
    url: str
    key: str
    created_at: float
    display_name: str | None = None
    agent_name: str | None = None
    user_name: str | None = None
    ours: bool | None = None
    blocked: bool = False
    send_key: str | None = None
    paused: bool = False
    until: float | None = None
    pin: str | None = None
    next_key: str | None = None
    old_key: str | None = None
    key_at: float | None = None

    @property
    def index_keys(self) -> tuple[str, ...]:
        named = sorted(map(contact_by_name, self.names))
        keyed = [contact_by_key(hash_key(key)) for key in self.keys]
        return CONTACTS, contact_by_number(self.number), *keyed, *named

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the contact may show."""
        return tuple(dict.fromkeys(key for key in (self.key, self.next_key, self.old_key) if key))

    @property
    def shown_key(self) -> str:
        """The key that this portal shows to the contact's."""
        return self.send_key or self.key

    def with_key(self, key: str, since: float) -> Contact:
        """Return the next version, with another key that was made or offered at ``since``. All its other keys end."""
        return replace(
            self, version=self.version + 1, key=key, key_at=since, next_key=None, old_key=None, send_key=None
        )

    @property
    def key_since(self) -> float:
        """When the key was made or offered."""
        return self.created_at if self.key_at is None else self.key_at

    def shut(self, now: float) -> str | None:
        """Return why nothing goes to the contact or comes from it any more: ``blocked`` or ``ended``."""
        return "blocked" if self.blocked else "ended" if self.until is not None and self.until <= now else None

    @property
    def name(self) -> str | None:
        """The name under which people see the contact; None for one without a name."""
        return self.display_name or contact_name(self.agent_name, self.user_name, "") or self.user_name

    @property
    def names(self) -> set[str]:
        """All names by which the contact may be named, as they are compared."""
        shown = contact_name(self.agent_name, self.user_name, "")
        return {fold(name) for name in (self.display_name, self.agent_name, self.user_name, shown) if name}

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + sum(
            map(text_bytes, (self.url, self.key, self.display_name, self.agent_name, self.user_name))
        )

    @property
    def mailbox(self) -> str:
        return mailbox_of(self.id)


class GuestStatus(str, Enum):
    """Where a guest message stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class Guest(Kept, frozen=True, gc=False, kw_only=True):
    """A message of a guest, which waits for the owner. Its id is its number.

    ``contact`` is the id of the contact that the approval made or confirmed. ``digest`` finds the repeat of a text that
    offers a portal and a key.
    """

    number: int
    content: str
    created_at: float
    address: str | None = None
    status: GuestStatus = GuestStatus.PENDING
    is_read: bool = False
    contact: str | None = None
    digest: str | None = None

    @property
    def index_keys(self) -> tuple[str, ...]:
        keys = GUESTS, WAITING if self.status is GuestStatus.PENDING else DECIDED
        return keys if self.digest is None else (*keys, guest_with(self.digest))

    @property
    def weight(self) -> int:
        return len(self.content.encode())


class State(str, Enum):
    """How far a message to a contact came. A received message is ``RECEIVED``, and ``ACKNOWLEDGED`` once it was acked.

    ``REPORTED`` is a message that an old script posted itself and told its own portal of.
    """

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    REFUSED = "refused"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    REPORTED = "reported"
    RECEIVED = "received"
    ACKNOWLEDGED = "acknowledged"


OPEN = frozenset({State.QUEUED, State.SENDING})


class Message(Kept, frozen=True, gc=False, kw_only=True):
    """A message from or to a contact. Its id is that of its delivery, and ``number`` is what the wire calls it.

    ``lost`` counts the posts whose outcome is not known, and ``key`` is the idempotency key of the other portal's
    message. ``in_reply_to`` is the key of the message that this one answers. ``sender`` is the agent of this relay that
    hears if the message does not arrive.
    """

    number: int
    inbound: bool
    contact: str
    content: str
    message_type: str
    created_at: float
    state: State
    expires_at: float | None = None
    lost: int = 0
    detail: str = ""
    key: str | None = None
    in_reply_to: str | None = None
    sent_at: float | None = None
    acked_at: float | None = None
    answered_at: float | None = None
    sender: str = AGENT

    @property
    def partition_key(self) -> str:
        return AGENT if self.inbound else mailbox_of(self.contact)

    @property
    def index_keys(self) -> tuple[str, ...]:
        keys = [MESSAGES, message_by_number(self.number), messages_with(self.contact)]
        if self.state in OPEN:
            keys += [QUEUED, queued_for(self.contact)]
        elif self.state is State.RECEIVED:
            keys.append(unread_from(self.contact))
        else:
            keys.append(SETTLED_MESSAGES)
        return tuple(keys)

    @property
    def weight(self) -> int:
        return len(self.content.encode())

    @property
    def ends_at(self) -> float | None:
        """When the janitor ends it, if the consumer of its mailbox has not: that one tells the owner's agent, too."""
        return None if self.expires_at is None or self.state not in OPEN else self.expires_at + EXPIRY_GRACE_SECONDS


class Chat(Kept, frozen=True, gc=False, kw_only=True):
    """A line of the chat between the owner and the agent. Its id is its number."""

    number: int
    role: str
    content: str
    created_at: float

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (CHAT,)

    @property
    def weight(self) -> int:
        return len(self.content.encode())


class ForwardedTask(Kept, frozen=True, gc=False, kw_only=True):
    """A task that came from a contact, or went to one. Its id is that of the task here.

    ``peer_id`` is the id that it has there; empty for one to a contact that has not come there.
    """

    contact: str
    peer_id: str
    created_at: float
    inbound: bool = True

    @property
    def index_keys(self) -> tuple[str, ...]:
        keys = FORWARDED, forwarded_with(self.contact)
        return (*keys, forwarded_of(self.contact, self.peer_id)) if self.inbound else keys

    @property
    def ends_at(self) -> float | None:
        return self.created_at + FORWARDED_SECONDS


class Photo(Kept, frozen=True, gc=False, kw_only=True):
    """A photo of the front page. Its id is its name, and its content is one of the relay's files."""

    created_at: float

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (PHOTOS,)


class AgentKey(Kept, frozen=True, gc=False, kw_only=True):
    """A key of an agent of the owner. Its id is the hash of the key. ``used_at`` is right to the hour."""

    label: str
    shown: str
    created_at: float
    used_at: float | None = None

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (KEYS,)


def forwarded_with(contact: str) -> str:
    """Return the index key of the tasks from and to a contact."""
    return " portal errands with " + contact


def forwarded_of(contact: str, peer_id: str) -> str:
    """Return the index key of the task that a contact knows by this id."""
    return f" portal errand {contact} {peer_id}"


def guest_with(digest: str) -> str:
    """Return the index key of the guest messages that offer a key in a text of this digest."""
    return " portal guest with " + digest


def contact_by_number(number: int) -> str:
    """Return the index key of the contact with this number."""
    return f" portal contact {number}"


def contact_by_name(folded: str) -> str:
    """Return the index key of the contacts that have this name."""
    return f" portal name {folded}"


def contact_by_key(key_hash: str) -> str:
    """Return the index key of the contact whose shared key has this hash."""
    return f" portal key {key_hash}"


def message_by_number(number: int) -> str:
    """Return the index key of the message with this number."""
    return f" portal message {number}"


def messages_with(contact: str) -> str:
    """Return the index key of all messages with a contact."""
    return " portal with " + contact


def queued_for(contact: str) -> str:
    """Return the index key of the messages that are to be posted to a contact."""
    return " portal queued " + contact


def unread_from(contact: str) -> str:
    """Return the index key of the messages of a contact that the owner's agent has not acknowledged."""
    return " portal unread " + contact
