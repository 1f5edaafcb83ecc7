"""The relay against its own /openapi.json: whatever the document makes of it, replies are as documented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from clawlink.config import ServerConfig
from clawlink.server.openapi import document
from tests.system.threaded import relay_in_thread

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
AGENTS = ("0", "a", "agent", "\u0080", "key")

schema = schemathesis.openapi.from_dict(json.loads(document()))


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    with relay_in_thread(ServerConfig(port=0)) as url:
        yield url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@schema.exclude(operation_id="events").parametrize()  # a reply that goes on
@settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_replies_are_as_documented(case: schemathesis.Case[Any], relay: str, session: requests.Session) -> None:
    if case.query and "wait" in case.query:
        case.query["wait"] = 0
    for agent_id in AGENTS:
        session.post(relay + "/register", json={"agent_id": agent_id}, timeout=5)
    # In a query the text "null" stands for what was left out, so there "wrong" data may be taken.
    checks = CHECKS if case.query else [*CHECKS, negative_data_rejection]
    response = case.call_and_validate(base_url=relay, session=session, checks=checks, timeout=5)
    if response.status_code >= 400 and case.method != "HEAD":
        failure = response.json()
        assert isinstance(failure["error"], str)
        assert isinstance(failure["code"], str)
