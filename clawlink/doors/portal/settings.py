"""The settings of a portal: flags of ``clawlink serve``."""

from __future__ import annotations

from dataclasses import dataclass

from clawlink.domain.limits import KIB, MIB
from clawlink.doors.registry import option

HOUR = 3600.0
MIN_LEASE_SECONDS = 1.0
GIB = 1024 * MIB
FILE_LIMITS = {"max_file_bytes": 4 * GIB, "max_files_bytes": 20 * GIB, "max_data": 32 * GIB}
"""The limits of a portal with ``--data`` in place of a relay's defaults."""


@dataclass(frozen=True)
class Settings:
    """How a relay stands for one person on the internet."""

    url: str | None = option(
        "--portal", "be the portal of one person at this address, as https://me.example", metavar="URL"
    )
    ca: str | None = option("--portal-ca", "trust this authority, too, for portals of contacts", metavar="FILE")
    allow_private: str = option(
        "--portal-allow-private",
        "networks with private addresses in which contacts may be, with commas, as 10.0.0.0/8",
        default="",
        metavar="CIDRS",
    )
    portal_ttl: float = option(
        "--portal-ttl", "time to live of what waits for a contact", default=72 * HOUR, unit="seconds", least=1.0
    )
    portal_inbox_ttl: float = option(
        "--portal-inbox-ttl",
        "time that a message waits for the owner's agent",
        default=30 * 24 * HOUR,
        unit="seconds",
        least=1.0,
    )
    portal_guests: int = option(
        "--portal-guests", "guest messages that wait for the owner", default=200, unit="messages"
    )
    portal_guest_bytes: int = option("--portal-guest-bytes", "one guest message", default=8 * KIB, unit="bytes")
    portal_guest_rate: int = option(
        "--portal-guest-rate", "guest messages of one address within an hour", default=20, unit="messages"
    )
    portal_contact_messages: int = option(
        "--portal-contact-messages", "messages of one contact within an hour", default=1000, unit="messages"
    )
    portal_contact_bytes: int = option(
        "--portal-contact-bytes", "texts of one contact within an hour", default=64 * MIB, unit="bytes"
    )
    portal_contact_files: int = option(
        "--portal-contact-files", "files that one contact may have here", default=8192 * MIB, unit="bytes"
    )
    portal_lease: float = option(
        "--portal-lease",
        "with --store, time after which another relay takes the place of an active one that is gone",
        default=10.0,
        unit="seconds",
    )
