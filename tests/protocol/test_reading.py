"""Outside data to structs, or to any JSON."""

from __future__ import annotations

import pytest

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.errors import BadRequest
from clawlink.protocol import requests
from clawlink.protocol.reading import read_dense, read_json
from tests.tables import each


def test_any_json_is_refused_in_words_where_it_cannot_be_read() -> None:
    assert read_json(b'{"a": null}', object) == {"a": None}
    for reads, body, said in (
        (read_json, b'{"a": 1e999}', "is out of range"),
        (read_dense, b"[" + b"1," * MAX_PARTS + b"1]", f"a body may have {MAX_PARTS} parts here"),
    ):
        with pytest.raises(BadRequest) as refused:
            reads(body, object)
        assert said in refused.value.message


@each("body", [b"[" + b"[]," * MAX_PARTS + b"1]", b'{"agent_id":[' + b"[]," * MAX_PARTS + b"1]}"])
def test_very_many_parts_are_refused_where_a_struct_takes_none(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_dense(body, requests.Heartbeat)
