"""The OpenAPI document: complete, consistent, and made of the structs that validate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from clawlink.errors import BadRequest
from clawlink.protocol import replies, requests
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.headers import FLAG
from clawlink.protocol.paths import ENDPOINTS
from clawlink.server.http_files import flag
from clawlink.server.openapi import document
from clawlink.version import VERSION
from tests.tables import each

DOCUMENT: dict[str, Any] = json.loads(document())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def operation(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    return found


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Give every object in the document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_it_is_openapi_3_1_of_this_version() -> None:
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert DOCUMENT["info"]["version"] == VERSION
    assert DOCUMENT["info"]["title"]
    assert set(DOCUMENT) <= {"openapi", "info", "servers", "security", "paths", "components", "tags"}


def test_it_has_every_endpoint_and_no_other() -> None:
    told = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert told == {(e.path, e.method.lower()) for e in ENDPOINTS}


def test_every_reference_leads_somewhere() -> None:
    seen = {found["$ref"] for found in walk(DOCUMENT) if "$ref" in found}
    assert seen
    for reference in seen:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert isinstance(place, dict)


def test_every_schema_is_used() -> None:
    seen = {found["$ref"].rsplit("/", 1)[1] for found in walk(DOCUMENT) if "$ref" in found}
    for found in walk(DOCUMENT):
        seen |= {value.rsplit("/", 1)[1] for value in found.get("mapping", {}).values() if isinstance(value, str)}
    queries = {e.query.__name__ for e in ENDPOINTS if e.query is not None}
    assert set(SCHEMAS) - seen - queries == set()


def test_operation_ids_are_unique_names() -> None:
    ids = [found["operationId"] for found in walk(DOCUMENT["paths"]) if "operationId" in found]
    assert sorted(ids) == sorted(e.name for e in ENDPOINTS)


@each("endpoint", ENDPOINTS, ids=lambda e: e.name)
def test_an_operation_tells_its_parameters_body_and_replies(endpoint: Endpoint) -> None:
    told = operation(endpoint)
    assert told["summary"] == endpoint.summary
    parameters = {(p["in"], p["name"]): p for p in told["parameters"]}
    assert len(parameters) == len(told["parameters"])
    for name in re.findall(r"{(\w+)}", endpoint.path):
        assert parameters["path", name]["required"] is True
    asked = {name for kind, name in parameters if kind == "query"}
    assert asked == (set(endpoint.query.__struct_fields__) if endpoint.query is not None else set())
    assert (("header", "ClawLink-Agent-Key") in parameters) == (endpoint.acts or endpoint.looks)
    for header in endpoint.headers:
        assert parameters["header", header.name]["required"] is header.required
    assert ("requestBody" in told) == (endpoint.body is not None or endpoint.takes_bytes)
    several = endpoint.takes_bytes or endpoint.gives_bytes or endpoint.empty
    done = told["responses"]["101" if endpoint.socket else "2XX" if several else "200"]
    assert ("content" in done) == (not endpoint.socket and not endpoint.empty)
    refused = told["responses"]["default"]["content"]["application/json"]["schema"]
    assert refused["$ref"].endswith("/Failure")
    assert told.get("security", DOCUMENT["security"]) == ([] if endpoint.open else DOCUMENT["security"])


def test_optional_and_required_fields_are_those_of_the_structs() -> None:
    for kind in [e.body for e in ENDPOINTS if e.body is not None] + [replies.Registered, replies.Failure]:
        fields = msgspec.structs.fields(kind)
        schema = SCHEMAS[kind.__name__]
        assert set(schema["properties"]) == {f.encode_name for f in fields}
        assert set(schema.get("required", [])) == {f.encode_name for f in fields if f.required}


def test_what_a_poll_carries_is_one_of_the_messages_by_its_type() -> None:
    polled = operation(next(e for e in ENDPOINTS if e.name == "poll"))["responses"]["200"]["content"]
    schema = SCHEMAS[polled["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
    carried = schema["properties"]["messages"]["items"]
    assert set(carried["discriminator"]["mapping"]) == {
        "task_delegation",
        "task_response",
        "knowledge_broadcast",
        "file_updated",
        "message_update",
        "agent_joined",
        "agent_left",
        "message",
        "task_answer",
        "task_update",
    }
    assert len(carried["anyOf"]) == 10


def test_patterns_are_regular_expressions_of_javascript_too() -> None:
    """OpenAPI's are: no Python-only syntax may slip in."""
    patterns = [found["pattern"] for found in walk(DOCUMENT) if isinstance(found.get("pattern"), str)]
    assert patterns
    for pattern in patterns:
        re.compile(pattern)
        assert not re.search(r"\(\?P|\\A|\\Z|\(\?[aiLmsux]", pattern)


def test_unknown_fields_are_welcome() -> None:
    assert not any(schema.get("additionalProperties") is False for schema in SCHEMAS.values())
    ask = msgspec.json.decode(b'{"agent_id":"a","from_the_future":1}', type=requests.Heartbeat)
    assert ask.agent_id == "a"


def test_the_document_takes_the_same_words_for_yes_and_no_as_the_relay() -> None:
    for given in ("", "0", "1", "true", "false", "TRUE", "False", "2", "yes", "truefalse", "01"):
        try:
            flag(given, "ClawLink-Force")
            taken = True
        except BadRequest:
            taken = False
        assert (re.search(FLAG["pattern"], given) is not None) is taken, given
