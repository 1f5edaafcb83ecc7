"""Ids and receipts: random ones, and those that derive from their cause so that a repeat finds them again."""

from __future__ import annotations

import hashlib
import os

from clawlink.domain.agent import Agent

_ID_HEX = 24
_RECEIPT_HEX = 16
_BLOCK_BYTES = 4096


class Ids:
    """Makes ids. Randomness is drawn in blocks: a system call an id would cost more than the rest of a request."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._tokens: list[str] = []
        self._arrival = 0

    def fresh(self) -> str:
        """Return a new id: 96 random bits in hex."""
        if not self._ids:
            self._ids = _random(_ID_HEX)
        return self._ids.pop()

    def token(self) -> str:
        """Return the random part of the receipts of one claim: 64 bits in hex, of no use to any other agent."""
        if not self._tokens:
            self._tokens = _random(_RECEIPT_HEX)
        return self._tokens.pop()

    def arrival(self, now: float) -> int:
        """Return a number greater than any before: microseconds since the epoch, so it grows over a restart too."""
        arrival = int(now * 1_000_000)
        if arrival <= self._arrival:
            arrival = self._arrival + 1
        self._arrival = arrival
        return arrival

    def arrivals(self, now: float, count: int) -> int:
        """Return the first of ``count`` numbers in a row, all greater than any before, as ``arrival`` does."""
        first = self.arrival(now)
        self._arrival += count - 1
        return first


def _random(digits: int) -> list[str]:
    """Return random texts of this many hexadecimal digits."""
    block = os.urandom(_BLOCK_BYTES).hex()
    return [block[at : at + digits] for at in range(0, len(block) - digits + 1, digits)]


def derived(*cause: str) -> str:
    """Return the id that always belongs to this cause: 96 bits in hex.

    The parts are joined with their lengths, so that no two different causes run together.
    """
    joined = "".join([f"{len(part)}:{part}" for part in cause])
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=_ID_HEX // 2).hexdigest()


def derived_anew(verb: str, sender: Agent, key: str) -> str:
    """Return the id for an idempotency key that an earlier bearer of the sender's id has used already."""
    return derived(verb, sender.id, key, sender.key_hash or "")


def end_id(task_id: str) -> str:
    """Return the id of the message about a task's end, the same for all ends."""
    return derived("answer", task_id)


def receipt(token: str, delivery_id: str) -> str:
    """Return the receipt a consumer gets: the token, and which delivery it is for."""
    return f"{token}-{delivery_id}"


def split_receipt(receipt: str) -> tuple[str, str]:
    """Return a receipt's token and the id of its delivery; the id is empty for an invalid receipt."""
    token, _, id = receipt.partition("-")
    return token, id
