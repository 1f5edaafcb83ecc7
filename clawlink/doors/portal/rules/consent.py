"""Consent: the offer in a guest's text, and the owner's words about it."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from clawlink.doors.portal.rules.urls import normalised, same
from clawlink.errors import BadRequest

KEY_PREFIX = "ap2p_"
MIN_KEY_LENGTH, MAX_KEY_LENGTH = 16, 256
WELL_KNOWN_KEY = "ap2p_$(openssl rand -hex 16)"
"""The key of all that ran the set-up command of Agent P2P as it was printed: everybody knows it."""

_KEY = re.compile(r"ap2p_[A-Za-z0-9_\-]+")
_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/\[\]%]+", re.IGNORECASE)
_WORDS = re.compile(r"(同意|拒绝|已读|approve|deny|read)\s*(?:#\s*)?([0-9]{1,15})[\s。.!]*", re.IGNORECASE)


class Decision(str, Enum):
    """The owner's decision about a guest message. ``READ`` leaves it waiting."""

    APPROVE = "approved"
    DENY = "rejected"
    READ = "read"


_SAID = {
    "同意": Decision.APPROVE,
    "approve": Decision.APPROVE,
    "拒绝": Decision.DENY,
    "deny": Decision.DENY,
    "已读": Decision.READ,
    "read": Decision.READ,
}


class Offer(NamedTuple):
    """The portal and the key that a guest's text offers; None for what it does not say, or says in several ways."""

    url: str | None
    key: str | None


def offered(text: str, own_url: str) -> Offer:
    """Find the offer in a text of any language. The own address in it is no offer."""
    urls = set()
    for found in _URL.findall(text):
        try:
            url = normalised(found.rstrip(".:"))
        except BadRequest:
            continue
        if not same(url, own_url):
            urls.add(url)
    keys = {found for found in _KEY.findall(text) if key_fault(found) is None}
    if WELL_KNOWN_KEY in text:
        keys.add("")
    one_url, one_key = (next(iter(found)) if len(found) == 1 else None for found in (urls, keys))
    return Offer(one_url, one_key or None)


def masked(text: str) -> str:
    """Return a text without the keys in it, for readers that may see no keys."""
    return _KEY.sub(KEY_PREFIX + "...", text)


class Fault(NamedTuple):
    """A fault of a key: its reason, for which the page has texts, and the words of the relay."""

    reason: str
    words: str


def fault_of(key: str) -> Fault | None:
    """Return what is wrong with a shared key; None if it can be one."""
    if key == WELL_KNOWN_KEY:
        told = "this key is the same for everybody who ran the old set-up command; it has to be another one"
        return Fault("known_key", told)
    if not MIN_KEY_LENGTH <= len(key) <= MAX_KEY_LENGTH:
        told = f"a key has {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} characters, and this one has {len(key)}"
        return Fault("key_length", told)
    if not (key.isascii() and key.isprintable()) or " " in key:
        return Fault("key_characters", "a key is visible ASCII without spaces")
    return None


def key_fault(key: str) -> str | None:
    """Return what is wrong with a shared key in words; None if it can be one."""
    fault = fault_of(key)
    return None if fault is None else fault.words


def decided(text: str) -> tuple[Decision, int] | None:
    """Return the owner's decision and the id of the guest message; None for words that are about something else."""
    found = _WORDS.fullmatch(text.strip())
    return None if found is None else (_SAID[found[1].lower()], int(found[2]))
