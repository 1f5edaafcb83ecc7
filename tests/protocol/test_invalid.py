"""Faults of a field are told in words, and the field is named."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from clawlink.protocol import requests
from clawlink.protocol.invalid import bad_field
from tests.tables import each


@each(
    ("ask", "field", "said"),
    [
        ({"name": "a\nb"}, "name", "name must be a string of one line, without control characters"),
        ({"agent_id": "a b"}, "agent_id", "without white space and control characters, and not . or .."),
        ({"agent_id": ".."}, "agent_id", "not . or .."),
        ({"subscriptions": ["x", "a*"]}, "subscriptions[1]", "a topic as research, all below one as build.*, or * for"),
        ({"subscriptions": ["*.a"]}, "subscriptions[0]", "a topic as research"),
        ({"name": "n" * 200}, "name", "name may have 128 characters at most"),
        ({"capabilities": [3]}, "capabilities[0]", "capabilities[0] must be a string, not a whole number"),
    ],
)
def test_a_refused_field_is_named_with_what_it_takes(ask: dict[str, Any], field: str, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.convert(ask, requests.Register)
    refused = bad_field(found.value)
    assert refused.field == field
    assert said in refused.message
    assert "regex" not in refused.message


@each("topic", ["research", "build.*", "*", "a.b.*", "ü"])
def test_patterns_that_can_match_are_taken(topic: str) -> None:
    assert msgspec.convert({"subscriptions": [topic]}, requests.Register).subscriptions == [topic]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.convert({"from_agent": "a"}, requests.Delegate)
    refused = bad_field(found.value)
    assert (refused.field, refused.message) == ("task", "task is missing")


@each(
    ("kind", "ask", "field", "said", "limit"),
    [
        (requests.Respond, {"progress": 101}, "progress", "progress may be at most 100", 100),
        (requests.Respond, {"note": "x" * 1001}, "note", "note may have 1000 characters at most", 1000),
        (requests.DiscoverQuery, {"status": "lost"}, "status", "status must be online, stale or all, not 'lost'", None),
        (requests.PollQuery, {"lease": 1}, "lease", "lease must be 5 or more", 5),
        (requests.PollQuery, {"max": 1.5}, "max", "max must be a whole number, not one with a fraction", None),
        (requests.Register, {"claim": 3}, "claim", "claim must be true or false, not a whole number", None),
        (requests.Register, {"name": ""}, "name", "name may not be empty", 1),
        (
            requests.Register,
            {"capabilities": ["x"] * 65},
            "capabilities",
            "capabilities may have 64 entries at most",
            64,
        ),
        (requests.Delegate, {"to_agent": 3}, "to_agent", "to_agent must be a string, not a whole number", None),
        (requests.Delegate, {"task": {}}, "task", "task may not be empty", 1),
        (
            requests.Delegate,
            {"capability": 4},
            "capability",
            "capability must be a string or a list, not a whole number",
            None,
        ),
        (
            requests.Delegate,
            {},
            "to_agent",
            "to_agent is missing, or in its place capability or to_any_of",
            None,
        ),
        (requests.Delegate, {"deadline": 1e300}, "deadline", "deadline may be at most 2592000", 2592000),
    ],
)
def test_a_field_is_refused_in_words_and_with_its_limit(
    kind: Any, ask: dict[str, Any], field: str, said: str, limit: float | None
) -> None:
    needed = {"from_agent": "a", "task": "t", "message_id": "m", "file_key": "k", "content": "x", "agent_id": "a"}
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.json.decode(json.dumps({**needed, **ask}), type=kind)
    refused = bad_field(found.value, kind)
    assert (refused.field, refused.message, refused.limit) == (field, said, limit)


def test_what_is_no_object_is_refused_without_a_field() -> None:
    with pytest.raises(msgspec.ValidationError) as found:
        msgspec.json.decode(b"[]", type=requests.Send)
    refused = bad_field(found.value)
    assert (refused.field, refused.message) == (None, "what was sent must be an object, not a list")


@each(
    ("text", "field", "said"),
    [
        ("Expected `float` >= 0.5 - at `$.x`", "x", "x must be 0.5 or more"),
        ("Expected `int` < 3 - at `$.x.y`", "x.y", "x.y must be less than 3"),
        ("Expected `str` - at `$.x`", "x", "x must be a string"),
        ("Expected `array` of at least length 2, got 1 - at `$.x`", "x", "x must have 2 entries at least"),
        ("Object missing required field `b` - at `$.a[0]`", "a[0].b", "a[0].b is missing"),
        ("Object contains unknown field `b`", "b", "b is not known"),
        ("Integer value out of range - at `$.x`", "x", "x is out of range"),
        ("Invalid UUID - at `$.x`", "x", "invalid UUID (field x)"),
        ("Expected `uuid`, got `int` - at `$.x`", "x", "expected `uuid`, got `int` (field x)"),
        ("Expected `int`, got `str` - at `key` in `$.x`", "x", "expected `int`, got `str` (field x)"),
        ("Expected `str` matching regex 'a' - at `$.x`", "x", "expected `str` matching regex 'a' (field x)"),
    ],
)
def test_every_form_names_the_field_and_one_that_is_not_known_keeps_its_words(text: str, field: str, said: str) -> None:
    refused = bad_field(msgspec.ValidationError(text))
    assert (refused.field, refused.message) == (field, said)
