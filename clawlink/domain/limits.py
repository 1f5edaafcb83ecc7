"""Every limit and default that a user can meet, named, with its unit and the flag that changes it.

The command line, the configuration, the documentation tests and the rules all read this one table.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1024
MIB = 1024 * KIB

# Beyond this share of --max-memory the relay takes only answers to open work.
NEW_WORK_SHARE = 15 / 16

# Fixed bounds: part of the wire's grammar rather than settings.
MAX_WAIT_SECONDS = 60.0
MIN_LEASE_SECONDS = 5.0
MAX_LEASE_SECONDS = 3600.0
MAX_DELAY_SECONDS = 24 * 3600.0
MAX_POLL_MESSAGES = 1000
DEFAULT_POLL_MESSAGES = 50
MAX_CREDIT = 1000
DEFAULT_CREDIT = 32
MAX_RECEIPTS = 1000
MAX_LIST_LENGTH = 1000
MAX_ID_LENGTH = 128
MAX_NAME_LENGTH = 128
MAX_CAPABILITIES = 64
MAX_TEXT_LENGTH = 4096
MAX_TAGS = 32
MAX_TOPIC_LENGTH = 128
MAX_KEY_LENGTH = 1024
MAX_FILE_TTL_SECONDS = 365 * 24 * 3600.0
MAX_LOCK_SECONDS = 24 * 3600.0
MAX_ATTACHMENTS = 32
MAX_FILE_NAME_LENGTH = 255
# The word in a list of readers that opens a file to everyone. It stands alone.
EVERYONE = "*"
# Most open tasks of pools that may attach one file for readers.
MAX_FILE_TASKS = 1024
# The routes of 1.0.x carry a file in one JSON object, in memory; larger ones are read at /blobs.
MAX_JSON_FILE_BYTES = 8 * MIB
# The relay gives up a body or a reply after this many seconds without progress.
IDLE_BODY_SECONDS = 60.0
# A streamed body brings at least this many bytes a second, measured over that time.
LEAST_BODY_RATE = 16
# A file for one reader burns this many seconds after the last byte, or when the reader confirms the read.
READ_HOLD_SECONDS = 60.0
# The reader keeps it for this many seconds between two parts.
PART_HOLD_SECONDS = 10.0
MAX_IDEMPOTENCY_KEY_LENGTH = 128
MIN_CLAIM_IDEMPOTENCY_KEY_LENGTH = 16
MAX_JSON_DEPTH = 64
AGENT_KEY_BITS = 256
MIN_AGENT_KEY_LENGTH, MAX_AGENT_KEY_LENGTH = 32, 256
DRAIN_SECONDS = 5.0
MAX_NOTE_LENGTH = 1000
# A session of the page lasts this long, unless its link says otherwise.
SESSION_SECONDS = 12 * 3600.0
MIN_SESSION_SECONDS, MAX_SESSION_SECONDS = 60.0, 30 * 24 * 3600.0
MAX_SECRET_LENGTH = 1024
# An agent that sleeps may say when it may be forgotten.
MIN_FORGET_SECONDS, MAX_FORGET_SECONDS = 60.0, 30 * 24 * 3600.0
# A message keeps the last wakes for it.
MAX_WAKES = 8
MAX_WAKE_NOTE_LENGTH = 256
MAX_UNREAD_MESSAGES = 100
DEFAULT_UNREAD_MESSAGES = 20
MAX_WORDS_LENGTH = 500
MAX_POOL_CAPABILITIES = 16
MAX_POOL_AGENTS = 256
MAX_SUBSCRIPTIONS = 64
MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0
# A task's history keeps this many bytes of reports; it drops and counts the oldest beyond them.
MAX_HISTORY = 100
MAX_HISTORY_BYTES = 256 * KIB
# A reply to a poll carries at most this many bytes of messages; the rest stays due for the next poll.
MAX_REPLY_BYTES = 4 * MIB
# Above this many registered agents the relay sends no agent_joined and agent_left: the cost is the square of their
# number.
PRESENCE_AUDIENCE = 256


def _limit(
    default: float, flag: str, unit: str, help: str, *, least: float | None = None, most: float | None = None
) -> Any:
    metadata = {"flag": flag, "unit": unit, "help": help, "least": least, "most": most}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Limits:
    """The limits of one relay. Each field's metadata has its ``flag``, ``unit`` and ``help``.

    ``least`` and ``most`` bound the value of a flag or a variable, where zero or a large number makes no sense.
    """

    max_body_bytes: int = _limit(1 * MIB, "--max-body-bytes", "bytes", "largest JSON body")
    max_mailbox_messages: int = _limit(
        10_000, "--max-mailbox-messages", "messages", "messages in one mailbox, dead letters included"
    )
    max_mailbox_bytes: int = _limit(
        16 * MIB, "--max-mailbox-bytes", "bytes", "bytes of messages in one mailbox, dead letters included"
    )
    max_open_tasks: int = _limit(10_000, "--max-open-tasks", "tasks", "tasks of one assignee without a final answer")
    max_stored_bytes: int = _limit(1024 * MIB, "--max-stored-bytes", "bytes", "bytes of messages in all mailboxes")
    max_memory: int = _limit(
        2048 * MIB,
        "--max-memory",
        "bytes",
        "memory of all records and contents of files; a sixteenth is kept for answers",
    )
    max_data: int = _limit(
        8192 * MIB, "--max-data", "bytes", "all records and contents below --data; a sixteenth is kept for answers"
    )
    max_pools: int = _limit(1000, "--max-pools", "pools", "combinations of capabilities with waiting work")
    max_agents: int = _limit(100_000, "--max-agents", "agents", "registered agents")
    lease: float = _limit(
        60.0,
        "--lease",
        "seconds",
        "lease of a claimed message, unless the poll names one",
        least=MIN_LEASE_SECONDS,
        most=MAX_LEASE_SECONDS,
    )
    max_attempts: int = _limit(5, "--max-attempts", "attempts", "attempts at a message before it is a dead letter")
    message_ttl: float = _limit(24 * 3600.0, "--message-ttl", "seconds", "time to live of an unread message", least=1.0)
    max_file_bytes: int = _limit(64 * MIB, "--max-file-bytes", "bytes", "one shared file")
    max_files_bytes: int = _limit(
        512 * MIB, "--max-files-bytes", "bytes", "all shared files together, versions and uploads under way included"
    )
    file_versions: int = _limit(10, "--file-versions", "versions", "kept versions of a file, the newest too")
    max_files: int = _limit(100_000, "--max-files", "files", "shared files, locks and late deletions included")
    max_readers: int = _limit(256, "--max-readers", "readers", "readers of one shared file that is not for everyone")
    max_uploads: int = _limit(1000, "--max-uploads", "uploads", "resumable uploads under way")
    max_agent_uploads: int = _limit(100, "--max-agent-uploads", "uploads", "resumable uploads of one agent under way")
    upload_ttl: float = _limit(
        24 * 3600.0, "--upload-ttl", "seconds", "time to live of an upload without progress", least=1.0
    )
    retention: float = _limit(3600.0, "--retention", "seconds", "time that settled records are kept")
    retention_records: int = _limit(100_000, "--retention-records", "records", "settled records that are kept")
    retention_bytes: int = _limit(64 * MIB, "--retention-bytes", "bytes", "bytes of settled records that are kept")
    max_knowledge: int = _limit(10_000, "--max-knowledge", "broadcasts", "broadcasts kept for agents that join later")
    max_knowledge_bytes: int = _limit(
        32 * MIB, "--max-knowledge-bytes", "bytes", "bytes of broadcasts kept for agents that join later"
    )
    knowledge_ttl: float = _limit(
        24 * 3600.0, "--knowledge-ttl", "seconds", "time that a broadcast is kept for agents that join later"
    )
    fair_share: int = _limit(90, "--fair-share", "percent", "part of the room left by others that one agent may hold")
    rate_agent: float = _limit(100.0, "--rate-agent", "per second", "new work from one agent; 0 turns it off")
    burst_agent: int = _limit(200, "--burst-agent", "messages", "new work from one agent at once")
    rate_pair: float = _limit(20.0, "--rate-pair", "per second", "new work from one agent to one other; 0 turns it off")
    burst_pair: int = _limit(200, "--burst-pair", "messages", "new work from one agent to one other at once")
    rate_copies: float = _limit(
        500.0, "--rate-copies", "per second", "copies of the broadcasts and file notices of one agent; 0 turns it off"
    )
    burst_copies: int = _limit(
        50_000, "--burst-copies", "copies", "copies of the broadcasts and file notices of one agent at once"
    )
    rate_register: float = _limit(20.0, "--rate-register", "per second", "registrations of one agent; 0 turns it off")
    burst_register: int = _limit(200, "--burst-register", "registrations", "registrations of one agent at once")
    rate_files: float = _limit(
        100.0, "--rate-files", "per second", "writes, deletions and locks of files by one agent; 0 turns it off"
    )
    burst_files: int = _limit(
        1000, "--burst-files", "requests", "writes, deletions and locks of files by one agent at once"
    )
    rate_address: float = _limit(
        10.0,
        "--rate-address",
        "times as much as one agent",
        "copies, registrations and file requests of all agents of one address; 0 turns it off",
    )
    max_unread_reply: int = _limit(64 * MIB, "--max-unread-reply", "bytes", "one unread reply in memory")
    max_unread_address: int = _limit(
        128 * MIB, "--max-unread-address", "bytes", "unread replies of one address in memory"
    )
    max_unread_total: int = _limit(256 * MIB, "--max-unread-total", "bytes", "all unread replies in memory")
    max_connections: int = _limit(
        60_000, "--max-connections", "connections", "connections at a time, fewer where the system opens fewer files"
    )
    max_connections_address: int = _limit(
        15_000, "--max-connections-address", "connections", "connections of one address at a time"
    )
    max_hops: int = _limit(16, "--max-hops", "hops", "longest chain of work that follows from work")
    max_cycles: int = _limit(3, "--max-cycles", "times", "repeats of one step between two agents in a chain")
    stale_after: float = _limit(
        120.0, "--stale-after", "seconds", "an agent is stale after this time without a sign of life", least=1.0
    )
    return_after: float = _limit(
        600.0, "--return-after", "seconds", "time that tasks of an agent that has left wait for it"
    )
    forget_claimed_after: float = _limit(
        2_592_000.0,
        "--forget-claimed-after",
        "seconds",
        "silence after which a claimed agent without mail is forgotten",
        least=1.0,
    )
    forget_after: float = _limit(
        24 * 3600.0, "--forget-after", "seconds", "silence after which an agent without mail is forgotten", least=1.0
    )


LIMIT_FIELDS = fields(Limits)
