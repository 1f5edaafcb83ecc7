"""How deep JSON nests, told from its bytes before any reader builds it."""

from __future__ import annotations

from itertools import accumulate, chain
from operator import add

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BITS = bytes.maketrans(b"[{]}", b"1100")


def _of_eight(bits: int) -> tuple[int, int]:
    """Return the net depth and the highest depth of eight brackets; a set bit opens, a clear bit closes."""
    depths = list(accumulate(1 if bits >> place & 1 else -1 for place in range(7, -1, -1)))
    return depths[-1], max(depths)


_NET: list[int] = [_of_eight(bits)[0] for bits in range(256)]
_HIGHEST: list[int] = [_of_eight(bits)[1] for bits in range(256)]


def is_shallow(text: bytes, levels: int) -> bool:
    """Return True if the brackets of a JSON text nest at most ``levels`` deep.

    Each step passes over the text once, so the time grows with its length and with nothing else. Text that is not JSON
    may count as shallow; a reader refuses it before it reaches the deeper brackets.
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return True
    # Without escaped backslashes and quotes, every second piece between two quotes is the inside of a string.
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside.translate(_BITS, _NOT_BRACKETS)
    if not brackets:
        return True
    padded = brackets + b"0" * (-len(brackets) % 8)
    eights = int(padded, 2).to_bytes(len(padded) // 8, "big")
    before = chain((0,), accumulate(map(_NET.__getitem__, eights)))
    highest: int = max(map(add, before, map(_HIGHEST.__getitem__, eights)))
    return highest <= levels
