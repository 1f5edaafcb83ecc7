"""Errors travel: what the relay raises, the client raises, with everything that it says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from clawlink import errors
from clawlink.errors import ClawLinkError, all_errors
from clawlink.protocol.failure import from_reply, to_body, to_headers
from tests.tables import each

SENT = [e for e in all_errors() if e.__module__ == "clawlink.errors" and e.status and e is not ClawLinkError]
FACTS = ("field", "limit", "actual", "retry_after", "current")
details = st.fixed_dictionaries(
    {},
    optional={
        "field": st.text(),
        "limit": st.integers(0, 2**53),
        "actual": st.floats(0, 1e15),
        "retry_after": st.floats(0, 1e6),
        "current": st.none() | st.integers(0, 99) | st.text() | st.lists(st.text()) | st.just({"free": 0}),
    },
)


@given(message=st.text(), facts=details)
def test_every_error_comes_back_as_it_was_raised(message: str, facts: dict[str, Any]) -> None:
    for kind in SENT:
        back = from_reply(kind.status, to_body(kind(message, **facts)))
        assert type(back) is kind
        assert back.message == str(back) == message
        for fact in FACTS:
            assert getattr(back, fact) == facts.get(fact), (kind, fact)


@each("kind", SENT, ids=lambda kind: kind.code)
def test_what_an_error_does_not_say_is_left_out(kind: type[ClawLinkError]) -> None:
    body = json.loads(to_body(kind("sentence")))
    assert body in ({"error": "sentence", "code": kind.code}, {"error": "sentence"})


def test_codes_are_unique_stable_words_and_have_one_status() -> None:
    kinds = [e for e in all_errors() if e.__module__ == "clawlink.errors"]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)
    assert {kind.code: kind for kind in kinds}.items() <= errors.BY_CODE.items()
    for kind in SENT:
        assert 400 <= kind.status < 600


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    assert errors.__doc__ is not None
    for kind in all_errors():
        if kind.__module__ == "clawlink.errors":
            assert kind.__name__ in errors.__doc__


@each(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (30.0, "30")])
def test_retry_after_is_in_whole_seconds_and_never_nothing(seconds: float, header: str) -> None:
    assert to_headers(errors.Draining("x", retry_after=seconds)) == {"Retry-After": header}
    assert to_headers(errors.Draining("x")) == {}


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert to_headers(errors.MethodNotAllowed("x", current="GET, POST")) == {"Allow": "GET, POST"}
    assert to_headers(errors.MethodNotAllowed("x")) == {"Allow": ""}


@each(
    ("status", "kind"),
    [
        (400, errors.BadRequest),
        (401, errors.NotAuthenticated),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (405, errors.MethodNotAllowed),
        (408, errors.BodyTimeout),
        (409, errors.Conflicted),
        (412, errors.VersionConflict),
        (413, errors.TooLarge),
        (415, errors.UnsupportedMediaType),
        (429, errors.OverLimit),
        (500, errors.InternalError),
        (503, errors.Unavailable),
        (507, errors.StorageFull),
        (511, errors.InternalError),
    ],
)
def test_an_unknown_code_or_none_is_told_by_its_status(status: int, kind: type[ClawLinkError]) -> None:
    """A relay of 1.0.x sends no code; a newer one may send codes that this client does not know."""
    for body in (
        b'{"error":"old"}',
        b'{"error":"old","code":"full_moon"}',
        b'{"error":"old","code":"relay_unreachable"}',
    ):
        back = from_reply(status, body)
        assert type(back) is kind
        assert back.message == "old"


def test_a_code_that_does_not_fit_its_status_is_not_believed() -> None:
    assert type(from_reply(503, b'{"error":"x","code":"unknown_agent"}')) is errors.Unavailable


@each("body", [b"", b"<html>", b"null", b"[]", b"{}", b'{"error":1}', b'{"message":"x"}', b"\xff", b'{"error":"\xff"}'])
def test_what_is_no_error_of_a_relay_comes_from_none(body: bytes) -> None:
    assert type(from_reply(502, body)) is errors.NotARelay


@each(
    ("status", "step"),
    [(502, "that the relay runs"), (413, "larger bodies"), (403, "lets pass"), (404, "check the address")],
)
def test_the_answer_of_a_proxy_comes_with_its_status_and_the_next_step(status: int, step: str) -> None:
    told = from_reply(status, b"<html><head><title>nginx</title></head></html>").message
    assert f"HTTP {status} " in told
    assert "a proxy" in told
    assert step in told.partition("; ")[2]


@given(st.binary(max_size=50), st.integers(100, 999))
def test_whatever_a_reply_holds_an_error_comes_of_it(body: bytes, status: int) -> None:
    assert isinstance(from_reply(status, body), ClawLinkError)
