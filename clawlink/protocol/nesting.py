"""How deep JSON nests, told from its bytes before any reader builds it."""

from __future__ import annotations

from itertools import accumulate

_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_BITS = bytes.maketrans(b"[{]}", b"1100")


def _of_eight(bits: int) -> tuple[int, int]:
    """Return the net depth and the highest depth of eight brackets; a set bit opens, a clear bit closes."""
    depths = list(accumulate(1 if bits >> place & 1 else -1 for place in range(7, -1, -1)))
    return depths[-1], max(depths)


_NET: list[int] = [_of_eight(bits)[0] for bits in range(256)]
_HIGHEST: list[int] = [_of_eight(bits)[1] for bits in range(256)]
_RISES = bytes(max(0, highest) for highest in _HIGHEST)
_UP_TO_EIGHT = bytes(range(9))


def is_shallow(text: bytes, levels: int) -> bool:
    """Return True if the brackets of a JSON text nest at most ``levels`` deep.

    Each step passes over the text once, so the time grows with its length and with nothing else. Text that is not JSON
    may count as shallow; a reader refuses it before it reaches the deeper brackets.
    """
    if text.count(b"[") + text.count(b"{") <= levels:
        return True
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Only strings with brackets are left. Of the pieces between two quotes, every second is the inside of a string.
    marks = text.translate(None, _NOT_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    if not marks:
        return True
    brackets = marks.translate(_BITS)
    padded = brackets + b"0" * (-len(brackets) % 8)
    eights = int(padded, 2).to_bytes(len(padded) // 8, "big")
    return _is_shallow(eights, levels)


def _is_shallow(eights: bytes, levels: int) -> bool:
    starts = list(accumulate(map(_NET.__getitem__, eights), initial=0))
    highest = max(starts)
    # Between two starts, eight brackets rise at most four above the higher.
    if highest > levels or highest + 4 <= levels:
        return highest <= levels
    try:
        depths = bytes(starts[:-1])
    except ValueError:  # below 0, which is no JSON
        return all(start + _HIGHEST[eight] <= levels for start, eight in zip(starts, eights, strict=False))
    # Where eight brackets rise above the limit, the sum of two bytes is above 8. One addition makes all sums.
    near = bytes(min(8, max(0, depth + 8 - levels)) for depth in range(256))
    sums = int.from_bytes(depths.translate(near), "big") + int.from_bytes(eights.translate(_RISES), "big")
    return not sums.to_bytes(len(eights), "big").translate(None, _UP_TO_EIGHT)
