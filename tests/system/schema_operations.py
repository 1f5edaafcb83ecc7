"""Every operation of /openapi.json, with what Schemathesis makes of it: replies are as documented.

``test_schema.py`` runs this file in a process of its own. To make the cases of all operations takes ten seconds, which
every worker of a spread run would spend.
"""

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
from clawlink.domain.limits import MAX_WAIT_SECONDS
from clawlink.protocol.headers import OFFSET_TYPE
from clawlink.server.openapi import document
from tests.effort import TORTURE, size
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
UNNAMED_HEADER = "x-schemathesis-unknown-property"
AGENTS = ("0", "a", "agent", "\u0080", "key")

schema = schemathesis.openapi.from_dict(json.loads(document()))
schema.config.phases.coverage.enabled = TORTURE  # three thousand cases more
# tus wants 412 for another version of it, which Schemathesis does not know as a refusal of wrong data.
_REFUSALS = schema.config.checks.negative_data_rejection
_REFUSALS.expected_statuses = [*_REFUSALS.expected_statuses, "412"]


@schemathesis.serializer(OFFSET_TYPE)
def part_of_an_upload(_ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Stage:
    """A relay at work with the agents that cases name. A case that the relay took may have stopped or removed them."""

    def __init__(self, url: str, session: requests.Session) -> None:
        self.url = url
        self.session = session
        self._is_set = False

    def set(self) -> None:
        """Have the relay work, with its agents."""
        if self._is_set:
            return
        self.session.post(self.url + "/admin/stop", json={"stopped": False}, timeout=PATIENCE)
        for agent_id in AGENTS:
            self.session.post(self.url + "/register", json={"agent_id": agent_id}, timeout=PATIENCE)
        self._is_set = True

    def played(self, case: schemathesis.Case[Any], response: schemathesis.Response) -> None:
        """Note that a case has been sent."""
        if case.method not in ("GET", "HEAD", "OPTIONS") and response.status_code < 400:
            self._is_set = False


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with relay_in_thread(ServerConfig(port=0)) as url, requests.Session() as session:
        session.trust_env = False  # each request would look for a proxy in the whole environment
        yield Stage(url, session)


@schema.exclude(operation_id=["events", "live"]).parametrize()  # replies that go on
@settings(
    max_examples=size(3, 20, 40),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_replies_are_as_documented(case: schemathesis.Case[Any], stage: Stage) -> None:
    if case.query and "wait" in case.query:
        case.query["wait"] = 0
    if isinstance(case.body, dict):
        wait = case.body.get("wait")
        if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 < wait <= MAX_WAIT_SECONDS:
            case.body["wait"] = 0
    stage.set()
    # In a query the text "null" stands for what was left out, so there "wrong" data may be taken. A header that the
    # document does not name is no wrong data. Schemathesis knows that, but not beside a number, which it sends as text.
    lenient = case.query or UNNAMED_HEADER in (case.headers or ())
    checks = CHECKS if lenient else [*CHECKS, negative_data_rejection]
    response = case.call(base_url=stage.url, session=stage.session, timeout=PATIENCE)
    stage.played(case, response)
    case.validate_response(response, checks=checks)
    if response.status_code >= 400 and case.method != "HEAD":
        failure = response.json()
        assert isinstance(failure["error"], str)
        assert isinstance(failure["code"], str)
