"""Counters since the relay started, for ``GET /`` and metrics."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Stats:
    """Counters since start. Each only grows."""

    stored: int = 0
    delivered: int = 0
    acked: int = 0
    nacked: int = 0
    released: int = 0
    expired: int = 0
    dead: int = 0
    redriven: int = 0
    merged: int = 0
    refused: int = 0
    broadcasts: int = 0
    files_written: int = 0
    conflicts: int = 0
    evicted: int = 0
    tasks_delegated: int = 0
    tasks_answered: int = 0
    answers_failed: int = 0
    tasks_cancelled: int = 0
    tasks_returned: int = 0
    tasks_expired: int = 0
    tasks_failed: int = 0
    withdrawn: int = 0
    lapses: int = 0
    takeovers: int = 0
    rate_limited: int = 0
    loops_stopped: int = 0
    upkeep_failures: int = 0
    connections_refused: int = 0


HELP = {
    "stored": "Messages put into a mailbox.",
    "delivered": "Messages leased to a consumer, repeats included.",
    "acked": "Messages settled by their consumer.",
    "nacked": "Messages given back by their consumer.",
    "released": "Leases released because the reply could not be written.",
    "expired": "Messages whose time to live ran out.",
    "dead": "Messages buried after too many attempts.",
    "redriven": "Dead letters put back.",
    "merged": "Unread notices replaced by newer ones.",
    "refused": "Requests answered with an error.",
    "broadcasts": "Broadcasts accepted.",
    "files_written": "Versions of shared files accepted.",
    "conflicts": "Commits that were tried again because a record had changed.",
    "evicted": "Settled records forgotten before their retention time, to stay within bounds.",
    "tasks_delegated": "Tasks that were stored for an agent or a pool, repeats not included.",
    "tasks_answered": "Tasks that got their final answer.",
    "answers_failed": "Final answers that say failed or rejected.",
    "tasks_cancelled": "Tasks that their requester took back.",
    "tasks_returned": "Tasks that went back to their requester as their assignee had left.",
    "tasks_expired": "Tasks that were not finished in time.",
    "tasks_failed": "Tasks of a pool that were handed out too often.",
    "withdrawn": "Messages taken from a mailbox because their task had ended.",
    "lapses": "Tasks taken back from an owner that had gone silent or left.",
    "takeovers": "Tasks that went on to another owner.",
    "rate_limited": "New work refused because it came too fast.",
    "loops_stopped": "New work refused because agents went in circles.",
    "upkeep_failures": "Failures of the relay's upkeep; each kind is logged once, and tried again.",
    "connections_refused": "Connections refused as there were too many, and pauses as the system had no room.",
}
if set(HELP) != {f.name for f in fields(Stats)}:
    raise AssertionError("every counter needs a sentence")
