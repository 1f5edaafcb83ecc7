"""The cutter: whatever the pieces, a body says the same with its long strings cut out and put back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clawlink.doors.a2a.wire import large_strings
from clawlink.doors.a2a.wire.large_strings import LONG, STEP, Cutter, marks, restored


def cut(body: bytes, size: int) -> Cutter:
    cutter = Cutter()
    for start in range(0, len(body), size):
        for _ in cutter.feed(body[start : start + size]):
            pass
    return cutter


LARGE = "A" * (LONG + 1)


@given(
    st.recursive(
        st.none()
        | st.integers()
        | st.text()
        | st.sampled_from([LARGE, LARGE + '"', "\\", '\\"', "é" * LONG, "A" * LONG]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    st.integers(1, 3 * STEP),
    st.booleans(),
)
def test_a_body_says_the_same(value: Any, size: int, ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii).encode()
    cutter = cut(body, max(size, len(body) // 50, 1))
    decoded = json.loads(cutter.end())
    assert restored(decoded, cutter.cuts, {}) == value
    assert len(cutter.rest) <= len(body)
    assert sorted(marks(decoded, cutter.cuts, {})) == sorted(cutter.cuts)


def test_only_long_strings_without_escapes_are_cut_out() -> None:
    body = json.dumps({"raw": LARGE, "text": "A" * LONG, "escaped": LARGE + "\n", "list": [LARGE]}).encode()
    cutter = cut(body, 1000)
    decoded = json.loads(cutter.end())
    assert [b"".join(pieces).decode() for pieces in cutter.cuts.values()] == [LARGE, LARGE]
    assert decoded["raw"] in cutter.cuts
    assert (len(decoded["text"]), decoded["escaped"]) == (LONG, LARGE + "\n")
    kept = restored(decoded, cutter.cuts, {id(decoded): "raw"})
    assert (kept["raw"], kept["list"]) == (decoded["raw"], [LARGE])


def test_a_body_that_breaks_off_stays_broken() -> None:
    for body in (b'{"a": "' + LARGE.encode(), b'{"a": "x', b'"', b'{"a": "x\\'):
        assert cut(body, 5000).end() == body


def test_what_cannot_be_cut_out_is_counted_as_it_comes() -> None:
    cutter = cut(b'{"a": "\\n' + b"x" * 500_000, 4096)
    assert cutter.kept > 500_000
    assert cut(b'{"a": "' + b"x" * 500_000, 4096).kept < large_strings.STEP


def test_a_string_of_escapes_takes_few_pieces() -> None:
    taken = 0

    class Counting(Cutter):
        def _take(self, part: bytes) -> None:
            nonlocal taken
            taken += 1
            super()._take(part)

    body = b'{"a": "' + b'\\"' * 100_000 + b'"}'
    cutter = Counting()
    for _ in cutter.feed(body):
        pass
    assert cutter.end() == body
    assert taken <= len(body) // STEP + 2
