"""What is wrong with a field is said in words, and the field is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clawlink.protocol import requests
from clawlink.protocol.invalid import bad_field


@pytest.mark.parametrize(
    ("ask", "field", "said"),
    [
        ({"name": "a\nb"}, "name", "expected a string of one line, without control characters (field name)"),
        ({"agent_id": "a b"}, "agent_id", "without white space and control characters, and not . or .."),
        ({"agent_id": ".."}, "agent_id", "not . or .."),
        ({"subscriptions": ["x", "a*"]}, "subscriptions[1]", "a topic as research, all below one as build.*, or * for"),
        ({"subscriptions": ["*.a"]}, "subscriptions[0]", "a topic as research"),
        ({"name": "n" * 200}, "name", "length <= "),
        ({"capabilities": [3]}, "capabilities[0]", "expected `str`, got `int`"),
    ],
)
def test_a_refused_field_is_named_with_what_it_takes(ask: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.convert(ask, requests.Register)
    refused = bad_field(found.value)
    assert refused.field == field
    assert said in refused.message
    assert "regex" not in refused.message


@pytest.mark.parametrize("topic", ["research", "build.*", "*", "a.b.*", "ü"])
def test_patterns_that_can_match_are_taken(topic: str) -> None:
    assert msgspec.convert({"subscriptions": [topic]}, requests.Register).subscriptions == [topic]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.convert({"from_agent": "a"}, requests.Delegate)
    assert bad_field(found.value).field == "task"
