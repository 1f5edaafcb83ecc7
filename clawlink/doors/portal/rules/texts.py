"""The texts that agents of Agent P2P know, to the letter, and times as its wire has them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from clawlink.domain.agent import fold
from clawlink.domain.iso_time import read_iso
from clawlink.errors import BadRequest

MAX_KEY_LENGTH = 128
"""The most characters of an idempotency key."""
MAX_NAME_LENGTH = 200
MAX_NOTE_LENGTH = 500
MOST_DIGITS = 15
_SHA256 = re.compile("[0-9a-f]{64}")
_BEIJING = timezone(timedelta(hours=8))


def stamp(at: float) -> str:
    """Return an instant as Agent P2P writes it: ISO with microseconds, in the time of Beijing."""
    return datetime.fromtimestamp(at, _BEIJING).isoformat(timespec="microseconds")


def utc(at: float) -> str:
    """Return an instant for a field that Agent P2P does not have: ISO with microseconds, in UTC."""
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds")


def seconds(text: str) -> float:
    """Return the instant of a text in ISO. Raises ValueError, also for years that not every zone can write."""
    found = read_iso(text)
    if not datetime.min.year < found.year < datetime.max.year:
        raise ValueError(f"no time is in the year {found.year}")
    return (found if found.tzinfo is not None else found.replace(tzinfo=_BEIJING)).timestamp()


def guest_notice(number: int, text: str) -> str:
    """Return the notice about a guest message, with the three answers of the owner."""
    return (
        f"📨 收到新留言（等待审批）:\n{text}\n\n"  # noqa: RUF001
        f"回复以下指令处理:\n- 同意添加: 同意 {number}\n- 拒绝添加: 拒绝 {number}\n- 仅标记已读: 已读 {number}"
    )


def as_number(text: str) -> int | None:
    """Return the number of a contact, a message or a line of the chat in a text; None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None


def contact_name(agent_name: str | None, user_name: str | None, url: str) -> str:
    """Return the name under which agents see a contact."""
    if agent_name and user_name:
        return f"{user_name}的{agent_name}"
    return agent_name or url


def note_of(*parts: str | None) -> str | None:
    """Return the note of a task as the wire takes it: what is longer is cut."""
    return "; ".join(filter(None, parts))[:MAX_NOTE_LENGTH] or None


def is_reserved_name(name: str) -> bool:
    """Return True if a name stands for the number or the address of a contact wherever a person types it."""
    folded = fold(name)
    return "://" in folded or folded.isdecimal()


def unreserved(name: str) -> str:
    """Return a name as a contact may have it: ``3`` becomes ``name-3``, and ``https://b.example`` ``https-b.example``.

    It is for the names that the other side gives itself, which are never refused.
    """
    if not is_reserved_name(name):
        return name.strip()
    folded = fold(name)
    return (f"name-{folded}" if folded.isdecimal() else folded.replace("://", "-"))[:MAX_NAME_LENGTH]


def file_notice(file_id: str) -> str:
    """Return the notice about a file that is complete."""
    return f"[Agent P2P] 文件传输完成\n文件ID: {file_id}\n文件已准备好下载"


def fingerprint(text: str) -> str | None:
    """Return the SHA-256 of a certificate in small digits; None for an empty text. Raises BadRequest."""
    digits = text.strip().lower().replace(":", "")
    if digits and _SHA256.fullmatch(digits) is None:
        raise BadRequest("pin is the SHA-256 of a certificate: 64 hexadecimal digits", field="pin")
    return digits or None
