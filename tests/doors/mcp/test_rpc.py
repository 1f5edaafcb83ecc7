"""Messages of both eras, pure: which answer or call each becomes, and with which status over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

from clawlink.doors.mcp.wire import rpc, tools
from clawlink.doors.mcp.wire.rpc import Answer, Cancelled, ToolCall, hear
from clawlink.wake.adapters import RESUMES

META = {rpc.META_VERSION: "2026-07-28", rpc.META_CAPABILITIES: {}}
_CALL: dict[str, Any] = {"name": "relay_tell", "arguments": {"to": "a", "text": "b"}}


def ask(method: str, params: Any = None, **fields: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, **({} if params is None else {"params": params}), **fields}


def modern(method: str, params: dict[str, Any] | None = None, **headers: str | None) -> Any:
    """Hear a request of the era without sessions, with headers that agree unless others are given."""
    body = ask(method, {"_meta": META, **(params or {})})
    agreed = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": str((params or {}).get("name"))}
    given = {**agreed, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return hear(body, {name: value for name, value in given.items() if value is not None})


def error_of(heard: Any) -> tuple[int, int]:
    assert isinstance(heard, Answer), heard
    assert heard.body is not None
    return heard.status, heard.body["error"]["code"]


def test_a_malformed_message_is_refused_with_its_reason() -> None:
    for message in (
        [ask("ping")],
        [],
        "ping",
        {"id": 1, "method": "ping"},
        ask("ping", id=None),
        ask("ping", id=True),
        ask("ping", id=1.5),
        ask("ping", id=[1]),
        ask("ping", id="x" * 257),
        ask("ping", id=2**63),
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
    ):
        assert error_of(hear(message, {})) == (400, rpc.INVALID_REQUEST), message
    assert error_of(hear(ask("ping", [1]), {})) == (200, rpc.INVALID_PARAMS)
    assert error_of(hear(ask("tools/call", {"name": "no"}), {})) == (200, rpc.INVALID_PARAMS)
    assert error_of(hear(ask("tools/call", {"name": ["x"]}), {})) == (200, rpc.INVALID_PARAMS)
    assert error_of(hear(ask("tools/call", {**_CALL, "arguments": [1]}), {})) == (200, rpc.INVALID_PARAMS)
    assert error_of(hear(ask("resources/subscribe"), {})) == (200, rpc.METHOD_NOT_FOUND)


def test_answers_and_notifications_of_the_client_want_no_answer() -> None:
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "whatever/this", "params": {}},
        {"jsonrpc": "2.0", "id": 3, "result": {}},
        {"jsonrpc": "2.0", "id": 3, "error": {"code": 1, "message": ""}},
    ):
        assert hear(message, {}) == Answer(None, 202), message
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
    assert hear(cancel) == Cancelled(9)


def test_the_old_era_begins_with_initialize_in_a_version_that_both_know() -> None:
    for wanted, told in (
        *((version, version) for version in rpc.OLD),
        ("2026-07-28", "2025-11-25"),
        ("x", "2025-11-25"),
    ):
        for headers in (None, {}, {"mcp-protocol-version": wanted}):
            heard = hear(ask("initialize", {"protocolVersion": wanted, "capabilities": {}}), headers)
            assert isinstance(heard, Answer)
            assert heard.body is not None
            assert heard.body["result"]["protocolVersion"] == told, (wanted, headers)
            assert "resultType" not in heard.body["result"]
    for headers in (None, {}, {"mcp-protocol-version": "2025-06-18"}):  # a missing header is of the old era
        heard = hear(ask("tools/call", _CALL), headers)
        assert heard == ToolCall(7, tools.BY_NAME["relay_tell"], _CALL["arguments"], False), headers


def test_the_modern_era_needs_no_session_and_headers_that_agree() -> None:
    heard = modern("server/discover")
    assert "2026-07-28" in heard.body["result"]["supportedVersions"]
    listed = modern("tools/list").body["result"]
    assert (listed["resultType"], listed["cacheScope"], listed["ttlMs"] >= 0) == ("complete", "public", True)
    assert modern("tools/call", _CALL) == ToolCall(7, tools.BY_NAME["relay_tell"], _CALL["arguments"], True)
    in_base64 = f"=?base64?{base64.b64encode(b'relay_tell').decode()}?="
    assert isinstance(modern("tools/call", _CALL, mcp_name=in_base64), ToolCall)
    assert isinstance(hear(ask("tools/call", {"_meta": META, **_CALL})), ToolCall)  # no headers over stdio
    for headers in (
        {"mcp_protocol_version": None},
        {"mcp_protocol_version": "2025-11-25"},
        {"mcp_method": None},
        {"mcp_method": "tools/list"},
        {"mcp_name": None},
        {"mcp_name": "relay_inbox"},
        {"mcp_name": "=?base64?!!?="},
    ):
        assert error_of(modern("tools/call", _CALL, **headers)) == (400, rpc.HEADER_MISMATCH), headers
    assert error_of(modern("nothing/here")) == (404, rpc.METHOD_NOT_FOUND)
    assert error_of(modern("initialize")) == (404, rpc.METHOD_NOT_FOUND)
    for meta in ({}, {rpc.META_VERSION: "2026-07-28"}, {rpc.META_VERSION: 5, rpc.META_CAPABILITIES: {}}):
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "ping"}
        assert error_of(hear(ask("ping", {"_meta": meta}), headers)) == (400, rpc.INVALID_PARAMS), meta


def test_an_unknown_version_is_refused_with_those_that_are_known() -> None:
    later = {rpc.META_VERSION: "2099-01-01", rpc.META_CAPABILITIES: {}}
    headers = {"mcp-protocol-version": "2099-01-01", "mcp-method": "ping"}
    for heard in (
        hear(ask("ping", {"_meta": later}), headers),
        hear(ask("ping"), headers),
        hear(ask("ping", {"_meta": later})),
    ):
        assert error_of(heard) == (400, rpc.UNSUPPORTED_VERSION)
        assert isinstance(heard, Answer)
        assert heard.body is not None
        assert heard.body["error"]["data"] == {
            "supported": ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"],
            "requested": "2099-01-01",
        }


def test_a_relay_offers_no_tool_for_files_of_its_own_machine() -> None:
    there = tuple(tool for tool in tools.TOOLS if not tool.local)
    heard = hear(ask("tools/list"), None, there)
    assert isinstance(heard, Answer)
    assert "path" not in json.dumps(heard.body)
    assert error_of(hear(ask("tools/call", {"name": "relay_fetch_file"}), {}, there)) == (200, rpc.INVALID_PARAMS)


def test_a_session_that_nobody_watches_may_use_the_tools_that_reach_no_file() -> None:
    words = RESUMES["claude"]("ID", "text")
    names = sorted(tool.name for tool in tools.TOOLS if not tool.local)
    assert words[words.index("--allowedTools") + 1] == ",".join(f"mcp__clawlink__{name}" for name in names)


def test_the_tools_are_few_and_their_words_cost_a_model_little() -> None:
    shown = [tools.shown(tool) for tool in tools.TOOLS]
    assert len(shown) == 8
    # A token is about four characters of English or JSON; three leave a margin.
    assert len(json.dumps(shown)) / 3 < 2500
    for tool in shown:
        schema = tool["inputSchema"]
        assert (schema["type"], schema["additionalProperties"]) == ("object", False), tool["name"]
        assert "$ref" not in json.dumps(schema), tool["name"]
        assert set(schema["required"]) <= set(schema["properties"]), tool["name"]
