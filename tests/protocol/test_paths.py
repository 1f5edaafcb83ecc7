"""Addresses: any id and any key fits into one, and comes out of it again."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS
from tests.tables import each

WITH_PARAMETER = [e for e in ENDPOINTS if "{" in e.path]
MADE_HERE = ("task_id", "message_id", "upload_id")
anything = st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


def parameter(endpoint: Endpoint) -> str:
    return endpoint.path.partition("{")[2].partition("}")[0]


def test_every_endpoint_has_a_name_and_an_address_of_its_own() -> None:
    assert len({e.name for e in ENDPOINTS}) == len(ENDPOINTS) >= 20
    assert len({(e.method, e.path) for e in ENDPOINTS}) == len(ENDPOINTS)


@each("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_an_endpoint_is_described_and_consistent(endpoint: Endpoint) -> None:
    assert endpoint.summary.endswith(".")
    assert endpoint.path.startswith("/")
    assert (endpoint.reply is None) == endpoint.text
    assert endpoint.text or not endpoint.empty
    assert endpoint.body is None or endpoint.method in ("POST", "PUT")
    assert endpoint.body is None or endpoint.query is None


@pytest.mark.parametrize("endpoint", WITH_PARAMETER, ids=lambda e: e.name)
@given(value=anything)
def test_a_parameter_is_one_piece_of_the_address_and_comes_out_as_it_went_in(endpoint: Endpoint, value: str) -> None:
    url = endpoint.url(**{parameter(endpoint): value})
    assert url.isascii()
    assert " " not in url
    assert url.count("/") == endpoint.path.count("/")
    parts = urlsplit("http://h" + url)
    assert (parts.path, parts.query, parts.fragment) == (url, "", "")
    found = endpoint.pattern.fullmatch(url)
    assert found is not None
    assert unquote(found[parameter(endpoint)], errors="strict") == value


@each("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_an_address_belongs_to_one_endpoint_of_its_method(endpoint: Endpoint) -> None:
    value = ("id" if parameter(endpoint) in MADE_HERE else "a/b") if "{" in endpoint.path else ""
    url = endpoint.path.replace("{" + parameter(endpoint) + "}", value) if value else endpoint.path
    fitting = [e for e in ENDPOINTS if e.method == endpoint.method and e.pattern.fullmatch(url)]
    assert fitting == [endpoint]


@each("endpoint", WITH_PARAMETER, ids=lambda e: e.name)
def test_a_parameter_may_have_slashes_unless_it_is_an_id_of_ours_and_is_never_missing(endpoint: Endpoint) -> None:
    start, _, rest = endpoint.path.partition("{")
    end = rest.partition("}")[2]
    with_slashes = endpoint.pattern.fullmatch(start + "a/b//c/" + end)
    assert (with_slashes is None) == (parameter(endpoint) in MADE_HERE)
    assert endpoint.pattern.fullmatch(start + "a" + end)
    assert not endpoint.pattern.fullmatch(start + end)
