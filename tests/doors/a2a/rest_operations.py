"""Every operation of the HTTP+JSON binding, with what Schemathesis makes of it: no reply of 500 or above.

``test_attacks.py`` runs this file in a process of its own, since the cases take seconds to make. The two streams are
left out: they go on, and their requests are those of ``message:send`` and of a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from clawlink.config import ServerConfig
from clawlink.domain.limits import Limits
from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.wire import shapes
from tests.conftest import UNPACED
from tests.effort import size
from tests.system.threaded import relay_in_thread
from tests.waiting import PATIENCE

HEADERS = {"A2A-Version": "1.0"}
_BODIES = (shapes.SendMessage, shapes.PushConfig)
_PATHS: dict[str, dict[str, type[Any] | None]] = {
    "/message:send": {"post": shapes.SendMessage},
    "/tasks": {"get": shapes.ListTasks},
    "/tasks/{id}": {"get": shapes.TaskQuery},
    "/tasks/{id}:cancel": {"post": None},
    "/tasks/{id}/pushNotificationConfigs": {"get": shapes.ListPushConfigs, "post": shapes.PushConfig},
    "/tasks/{id}/pushNotificationConfigs/{config}": {"get": None, "delete": None},
    "/extendedAgentCard": {"get": None},
}


def document() -> dict[str, Any]:
    """Return the binding as OpenAPI, from the structs that read its requests."""
    _, components = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
    paths = {
        path: {method: _operation(path, method, kind) for method, kind in methods.items()}
        for path, methods in _PATHS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "A2A", "version": "1.0"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(path: str, method: str, kind: type[Any] | None) -> dict[str, Any]:
    named = [name for name in ("id", "config") if f"{{{name}}}" in path]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in named
    ]
    made: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "any"}}}
    if method == "get" and kind is not None:
        for field in msgspec.structs.fields(kind):
            if field.encode_name not in ("id", "taskId"):
                schema = msgspec.json.schema(field.type)
                parameters.append({"name": field.encode_name, "in": "query", "schema": schema})
    elif kind is not None:
        schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return made


schema = schemathesis.openapi.from_dict(document())
schema.config.phases.coverage.enabled = False


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    door = Settings(on=True, a2a_wait=0.0)
    unpaced: Any = UNPACED
    with relay_in_thread(ServerConfig(port=0, limits=Limits(**unpaced), doors={"a2a": door})) as url:
        requests.post(url + "/register", json={"agent_id": "bob"}, timeout=PATIENCE).raise_for_status()
        yield url + "/a2a/bob"


@schema.parametrize()
@settings(
    max_examples=size(10, 60, 300),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_reply_is_a_failure(case: schemathesis.Case[Any], relay: str) -> None:
    case.call_and_validate(base_url=relay, headers=HEADERS, checks=[not_a_server_error], timeout=30)
