"""Contents of very many parts: passed on as they came, refused if no reader could build them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from clawlink.domain import chain, dense_json, message
from clawlink.domain.dense_json import MAX_PARTS, built_if_light, has_too_many, parts_in
from clawlink.errors import BadRequest

_MANY = b"[]," * dense_json.MAX_PARTS


def dense(last: bytes) -> bytes:
    return b"[" + _MANY + last + b"]"


def test_only_dense_values_stay_as_they_came() -> None:
    rows = b"[" + b"1," * dense_json.MAX_PARTS + b"1]"
    body = b'{"a": {"few": [1, 2]}, "long": "%b", "rows": %b, "last": null}' % (b"," * dense_json.MAX_PARTS * 2, rows)
    light, kept = dense_json.split(body)
    assert {name: bytes(value) for name, value in kept.items()} == {"rows": rows}
    assert json.loads(light) == {"a": {"few": [1, 2]}, "long": "," * dense_json.MAX_PARTS * 2, "last": None}
    found = dense_json.read_object(body)
    assert json.loads(msgspec.json.encode(found)) == json.loads(body)


def test_white_space_of_a_dense_value_is_left_out_but_not_that_of_its_texts() -> None:
    value = b"[ " + _MANY + b'\n{"a\\n b" :\t"c  d"}\r\n]'
    _, kept = dense_json.split(b'{"content":%b}' % value)
    assert bytes(kept["content"]) == b"[" + _MANY + b'{"a\\n b":"c  d"}]'


def test_a_dense_value_that_no_reader_can_build_is_refused() -> None:
    cases = {
        b"1e999": "field has a number that is out of range",
        b"-1.7976931348623157E+309": "field has a number that is out of range",
        b'{"a":1e400}': "field has a number that is out of range",
        b"1" + b"0" * 290 + b"e50": "field has a number that is out of range",
        b"1" + b"0" * 210 + b"E+99": "field has a number that is out of range",
        b"1" + b"0" * 320 + b".5": "field has a number that is out of range",
        b'"\xff"': "field is not JSON in UTF-8",
        b'"\xed\xa0\x80"': "field is not JSON in UTF-8",
        b"1e100," * dense_json.MAX_LARGE_NUMBERS + b"1": "field may have 1000 numbers of 1e100 and more; "
        "share large data as a file",
    }
    for last, said in cases.items():
        with pytest.raises(BadRequest) as refused:
            dense_json.require_sound(msgspec.Raw(dense(last)), "field")
        assert (refused.value.message, refused.value.field) == (said, "field"), last[:30]


def test_large_numbers_within_range_and_texts_like_numbers_pass() -> None:
    cases = (
        b"1.7976931348623157e+308",
        b"-1e308",
        b"1e-999",
        b"1" + b"0" * 250 + b"e-50",
        b"1" * 400,
        b"0.000000001e0300",
        b'"1e999"',
        b'"\\"1e999"',
        b'"\\\\",1e5',
        '"文字"'.encode(),
        b'"\\ud83d\\ude00"',
        b"9" * 299,
        b"1e100," * (dense_json.MAX_LARGE_NUMBERS - 1) + b"1",
    )
    for last in cases:
        dense_json.require_sound(msgspec.Raw(dense(last)), "field")


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{!r}", "{:e}", "{:E}", "{:.17g}"]))
def test_each_number_that_a_double_holds_passes(number: float, form: str) -> None:
    dense_json.require_sound(msgspec.Raw(b"[1e5,%b,2]" % form.format(number).encode()), "field")


@given(st.integers(1, 330), st.integers(-330, 330), st.sampled_from([b"", b".5", b".0"]), st.sampled_from([b"e", b"E"]))
def test_a_number_passes_if_a_reader_can_build_it(digits: int, exponent: int, rest: bytes, e: bytes) -> None:
    number = b"1" + b"0" * (digits - 1) + rest + (b"%b%d" % (e, exponent) if exponent else b"")
    try:
        msgspec.json.decode(number)
    except msgspec.DecodeError:
        with pytest.raises(BadRequest):
            dense_json.require_sound(msgspec.Raw(b"[%b,1]" % number), "field")
    else:
        dense_json.require_sound(msgspec.Raw(b"[1,-%b]" % number), "field")


def test_a_dense_content_is_not_built_to_be_told_from_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"message_id": "m", "from_agent": "a", "to_agent": "b", "timestamp": "t", "queued_at": "q"}
    fields |= {"in_reply_to": None, "thread": None, "from_name": "A", "chain": chain.Chain(None, 0, ())}
    raw: Any = msgspec.Raw(dense(b"1"))
    kept = message.PlainMessage(**fields, content=raw)
    assert message.says_the_same(kept, message.PlainMessage(**fields, content=json.loads(bytes(raw))))
    monkeypatch.setattr(dense_json, "built", lambda value: pytest.fail("it is built"))
    others: tuple[Any, ...] = (1, None, "x", [[]])
    for content in others:
        assert not message.says_the_same(kept, message.PlainMessage(**fields, content=content))
        assert not message.says_the_same(message.PlainMessage(**fields, content=content), kept)


def test_a_message_keeps_its_dense_contents_over_encoding_and_decoding() -> None:
    content: Any = msgspec.Raw(dense(b"1.50"))
    fields: dict[str, Any] = {"message_id": "m", "from_agent": "a", "to_agent": "b", "timestamp": "t", "queued_at": "q"}
    first = chain.Chain(None, 0, ())
    said = message.PlainMessage(**fields, content=content, in_reply_to=None, thread=None, from_name="A", chain=first)
    body = message.encode(said)
    read = message.decode(body)
    assert isinstance(read, message.PlainMessage)
    assert isinstance(read.content, msgspec.Raw)
    assert message.encode(read) == body
    assert message.says_the_same(read, said)
    other = msgspec.structs.replace(said, content=msgspec.Raw(dense(b"1.51")))
    assert not message.says_the_same(read, other)


def test_a_message_says_the_same_built_or_not() -> None:
    """A door gives contents as objects, and the stored message has them as they came."""
    content = {"b": ",\n" * dense_json.MAX_PARTS, "a": [1, True]}

    def says(content: Any) -> message.TaskAnswer:
        names: dict[str, Any] = dict.fromkeys(
            ("message_id", "task_id", "from_agent", "to_agent", "timestamp", "queued_at"), "x"
        )
        return message.TaskAnswer(**names, from_name="x", content=content)

    stored = message.decode(message.encode(says(content)))
    assert isinstance(stored, message.TaskAnswer)
    assert isinstance(stored.content, msgspec.Raw)
    for one, other, same in (
        (stored, says(content), True),
        (says(content), stored, True),
        (stored, stored, True),
        (stored, says({**content, "a": [1, 1]}), False),
    ):
        assert message.says_the_same(one, other) is same


def test_parts_are_counted_outside_of_strings() -> None:
    for value, parts in (
        ([], 1),
        ("a,b[{", 0),
        ({"a,": ["x\\", '",[{', 1]}, 4),
        ([[], {}, [1, 2]], 7),
        ({'"': ',"\\'}, 1),
        ("", 0),
        (['""', "\n,", "é,"], 3),
    ):
        assert parts_in(json.dumps(value).encode()) == parts, value
    dense = b"[" + b"[]," * MAX_PARTS + b"[]]"
    prose = json.dumps({"a": ",\n" * MAX_PARTS}).encode()
    assert (has_too_many(dense), has_too_many(prose), has_too_many(b"[1,2]")) == (True, False, False)
    assert built_if_light(Raw(dense)) == Raw(dense)
    assert built_if_light(Raw(prose)) == json.loads(prose)
    assert built_if_light({"a": 1}) == {"a": 1}
