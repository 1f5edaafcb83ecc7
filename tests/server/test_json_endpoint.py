"""The rows of endpoints and frames fit the use cases that they name, so that a row is all that the server needs."""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from clawlink.config import ServerConfig
from clawlink.domain.agent import Agent
from clawlink.protocol import mailbox_paths, paths
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import ENDPOINTS, FRAMES, Frame
from clawlink.server.app import App
from clawlink.server.routes import ALL

USED = [endpoint for endpoint in ENDPOINTS if endpoint.use]


def hints_of(row: Endpoint | Frame) -> tuple[list[Any], Any]:
    """Return the types of the arguments that have no default, and of the result, of the use case of a row."""
    use = attrgetter(row.use)(App(ServerConfig(port=0)).relay)
    needed = [p.name for p in inspect.signature(use).parameters.values() if p.default is p.empty]
    hints = get_type_hints(use)
    return [hints[name] for name in needed], hints["return"]


def test_each_row_names_a_use_case_that_takes_its_request_and_returns_its_reply() -> None:
    for row in (*USED, *FRAMES.values()):
        takes, gives = hints_of(row)
        ask: Any = row.body or (row.query if isinstance(row, Endpoint) else None)
        others = set(row.pattern.groupindex) - {row.by} if isinstance(row, Endpoint) else set()
        if isinstance(row, Frame) or row.acts or row.looks:
            looks = isinstance(row, Endpoint) and row.looks
            assert takes.pop(0) == (Agent | None if looks else Agent), row.name
        if ask is not None:
            assert issubclass(ask, takes.pop()), row.name
        assert takes == [str] * len(others), row.name
        assert (get_origin(gives) or gives) is (get_origin(row.reply) or row.reply), row.name
        assert not get_args(gives) or get_args(gives) == (msgspec.Raw,), row.name


def test_each_row_says_where_its_agent_is_named() -> None:
    for row in (*USED, *FRAMES.values()):
        if isinstance(row, Endpoint) and not (row.acts or row.looks):
            assert row.by == "", row.name
            continue
        if row.body is not None:
            assert row.by in row.body.__struct_fields__, row.name
        elif isinstance(row, Endpoint):
            assert row.by in row.pattern.groupindex if row.by else "agent_id" in row.query.__struct_fields__, row.name
            assert set(row.otherwise) <= set(getattr(row.query, "__struct_fields__", ())), row.name
        if isinstance(row, Endpoint) and row.registers:
            assert "registered_by_the_way" in row.reply.__struct_fields__, row.name
            assert "idempotency_key" in row.body.__struct_fields__, row.name


def test_each_endpoint_has_one_handler() -> None:
    own = [endpoint for routes in ALL for endpoint in routes.serving]
    assert {endpoint.name for endpoint in USED} & {endpoint.name for endpoint in own} == set()
    elsewhere = {mailbox_paths.SOCKET, mailbox_paths.EVENTS, mailbox_paths.TICKETS, paths.LIVE}
    elsewhere |= {paths.MAKE_LINK, paths.LOG_IN, paths.SESSION, paths.LOG_OUT, paths.PAGE_FILE}
    assert {*USED, *own, *elsewhere} == set(ENDPOINTS)
