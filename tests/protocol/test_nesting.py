"""The depth of JSON is told from its bytes, exactly, in a time that grows with its length alone."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clawlink.protocol.reading import is_shallow

_texts = st.text(alphabet='[]{}"\\a\u00e9\n', max_size=12)
_values = st.recursive(
    st.none() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=60,
)


def depth_of(value: Any) -> int:
    """Return how deep a value nests, by walking it."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(value=_values, escaped=st.booleans(), extra=st.integers(0, 9))
def test_the_depth_is_that_of_the_value(value: Any, escaped: bool, extra: int) -> None:
    for _ in range(extra):
        value = [value, "]" * extra]
    text = json.dumps(value, ensure_ascii=escaped).encode()
    deep = depth_of(value)
    assert is_shallow(text, deep)
    assert deep == 0 or not is_shallow(text, deep - 1)


def test_long_texts_of_each_kind() -> None:
    for text, deep in (
        (b"[" * 100_000, True),
        (b"]" * 100_000, False),  # not JSON; a reader refuses it at its first byte
        (b"[]" * 100_000, False),
        (b"[" * 64 + b"{}" * 0 + b"]" * 64, False),
        (b"[" * 64 + b"{}" + b"]" * 64, True),
        (b"[" * 63 + b"{},[]" * 100_000 + b"]" * 63, False),
        ((b"[" * 64 + b"]" * 64) * 1000, False),
        ((b"[" * 64 + b"]" * 64) * 1000 + b"[" * 65, True),
        (b'["' + b"[" * 100_000 + b'"]', False),
        (b'["' + b'\\"[' * 100_000 + b'"]', False),
        (b'["' + b"\\\\" * 100_000 + b'",' + b"[" * 64, True),
        (b'["' + b"\\\\" * 100_000 + b'\\",' + b"[" * 64, False),
        (b"[" * 65 + b'"' + b"a" * 30, True),  # the string does not end
        (b'"' * 1_000_000 + b"[" * 65, True),
        (b'"' * 1_000_001 + b"[" * 65, False),
    ):
        assert is_shallow(text, 64) is not deep, text[:70]
