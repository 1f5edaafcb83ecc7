"""JSON-RPC and the two eras of MCP, pure: a message and its headers come in, an answer or a call of a tool goes out.

Versions up to 2025-11-25 begin with ``initialize``. Since 2026-07-28 there is no session: each request carries its
version and the client's capabilities in ``_meta``, and over HTTP headers repeat the version, the method and the name.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from msgspec import UNSET, Raw, Struct

from clawlink.doors.mcp.wire import prompts
from clawlink.doors.mcp.wire.resources import TEMPLATES
from clawlink.doors.mcp.wire.tools import BY_NAME, INSTRUCTIONS, TOOLS, Tool, shown
from clawlink.protocol import headers
from clawlink.protocol.endpoint import Endpoint
from clawlink.version import VERSION

OLD = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)
VERSION_HEADER, METHOD_HEADER, NAME_HEADER = "mcp-protocol-version", "mcp-method", "mcp-name"
META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_SERVER = "io.modelcontextprotocol/serverInfo"
TASKS_EXTENSION = "io.modelcontextprotocol/tasks"

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32020, -32021, -32022
CANCELLED = REFUSED = -32000
_NO_RESOURCE = -32002  # of the era with sessions
_STATUS = {METHOD_NOT_FOUND: 404}

MAX_ID_LENGTH = 256
_MAX_ID = 2**63
_TTL_MS = 3_600_000
_CAPABILITIES: dict[str, Any] = {"tools": {}, "resources": {}, "prompts": {}}
SERVER = {"name": "clawlink", "version": VERSION}
# The parameter of a method that the header Mcp-Name repeats.
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
# Methods of the extension for tasks. Clients may leave the header out there.
TASK_METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
QUERIES = ("resources/list", "resources/read", *TASK_METHODS)
_NAMED |= dict.fromkeys(TASK_METHODS, "taskId")
_IN_BASE64 = re.compile(r"=\?base64\?(.*)\?=")


class Envelope(Struct, frozen=True, gc=False):
    """A message as it comes. Values of very many parts stay ``msgspec.Raw``."""

    jsonrpc: Any = UNSET
    id: Any = UNSET
    method: Any = UNSET
    params: Any = UNSET
    result: Any = UNSET
    error: Any = UNSET


def opened(envelope: Envelope) -> dict[str, Any]:
    """Return the fields that a message has."""
    return {name: value for name in Envelope.__struct_fields__ if (value := getattr(envelope, name)) is not UNSET}


class Answer(NamedTuple):
    """The answer to a message, and its status over HTTP. Without a body the message wants none."""

    body: dict[str, Any] | None
    status: int = 200


class Can(NamedTuple):
    """The capabilities that a client declares: tasks of the extension, and questions to its user."""

    tasks: bool = False
    elicit: bool = False


class ToolCall(NamedTuple):
    """A call of a tool that exists. Its arguments are not checked yet."""

    id: int | str
    tool: Tool
    arguments: Any
    modern: bool
    can: Can = Can()


class Query(NamedTuple):
    """A request about resources or tasks, which needs the relay. Its parameters are not checked yet."""

    id: int | str
    method: str
    params: dict[str, Any]
    modern: bool
    can: Can = Can()


class Cancelled(NamedTuple):
    """The client no longer wants the answer to this request."""

    id: int | str


class _Refused(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


def hear(
    message: Any, headers: Mapping[str, str] | None = None, tools: Iterable[Tool] = TOOLS
) -> Answer | ToolCall | Query | Cancelled:
    """Return the request of a message. ``headers`` are looked up by small names; None where a transport has none."""
    id: Any = None
    try:
        if isinstance(message, list):
            raise _Refused(INVALID_REQUEST, "send one message at a time; batches are no part of MCP since 2025-06-18")
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise _Refused(INVALID_REQUEST, 'a message is an object with "jsonrpc": "2.0"')
        method, id = message.get("method"), _id(message)
        if method is None and ("result" in message or "error" in message):
            return Answer(None, 202)  # an answer of the client; this server asks nothing
        if not isinstance(method, str):
            raise _Refused(INVALID_REQUEST, "a request has a method")
        params = message.get("params")
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise _Refused(INVALID_PARAMS, "params are an object")
        if "id" not in message:
            return _notified(method, params)
        return _asked(id, method, params, headers, tuple(tools))
    except _Refused as refused:
        # In the era with sessions an error travels in an answer of status 200, except for malformed messages.
        modern = headers is None or headers.get(VERSION_HEADER) not in (None, *OLD)
        malformed = refused.code in (INVALID_REQUEST, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION)
        status = _STATUS.get(refused.code, 400) if modern or malformed else 200
        return Answer(failure(id, refused.code, str(refused), refused.data), status)


def failure(id: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """Return an error of the protocol."""
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return {"jsonrpc": "2.0", "id": id, "error": error}


def result_of(call: ToolCall, text: str | Raw, *, failed: bool, mail: str | None = None) -> dict[str, Any]:
    """Return the answer to a call of a tool. A model reads the text, also that of a failure.

    ``mail`` tells of messages that wait, in a block of its own.
    """
    result = content_of(text, failed=failed)
    if mail is not None:
        result["content"].append({"type": "text", "text": mail})
    return _done(call.id, result, modern=call.modern)


def content_of(text: str | Raw, *, failed: bool) -> dict[str, Any]:
    """Return the result of a tool."""
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def done(query: Query, result: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request about resources or tasks. Its facts change at any time, and are the caller's."""
    if query.modern and query.method.startswith("resources/"):
        result = {**result, "ttlMs": 0, "cacheScope": "private"}
    return _done(query.id, result, modern=query.modern)


def meta_of(can: Can) -> dict[str, Any]:
    """Return the ``_meta`` of a request of the era without sessions."""
    capabilities: dict[str, Any] = {"extensions": {TASKS_EXTENSION: {}}} if can.tasks else {}
    if can.elicit:
        capabilities["elicitation"] = {}
    return {META_VERSION: MODERN[-1], META_CAPABILITIES: capabilities}


def headers_of(method: str, name: Any) -> dict[str, str]:
    """Return the headers that repeat what such a request says."""
    headers = {VERSION_HEADER: MODERN[-1], METHOD_HEADER: method}
    if isinstance(name, str) and name:
        headers[NAME_HEADER] = f"=?base64?{base64.b64encode(name.encode('utf-8', 'surrogatepass')).decode()}?="
    return headers


def task_of(call: ToolCall, task: dict[str, Any]) -> dict[str, Any]:
    """Return a task as the answer to a call of a tool, for a client that declares the extension."""
    result = {**task, "resultType": "task", "_meta": {META_SERVER: SERVER}}
    return {"jsonrpc": "2.0", "id": call.id, "result": result}


def no_such(query: Query, message: str) -> dict[str, Any]:
    """Return the refusal of a resource or a task that the caller cannot see."""
    of_resource = query.method == "resources/read"
    code = _NO_RESOURCE if of_resource and not query.modern else INVALID_PARAMS
    return failure(query.id, code, message, {"uri": query.params.get("uri")} if of_resource else None)


def _id(message: dict[str, Any]) -> int | str | None:
    """Return the id of a message, None if it has none. Raises _Refused for an id that is no short word or number."""
    id = message.get("id")
    if isinstance(id, bool) or not isinstance(id, int | str | None) or ("id" in message and id is None):
        raise _Refused(INVALID_REQUEST, "an id is a string or a whole number")
    if isinstance(id, str) and len(id) > MAX_ID_LENGTH:
        raise _Refused(INVALID_REQUEST, f"an id may have {MAX_ID_LENGTH} characters, and this one has {len(id)}")
    if isinstance(id, int) and not -_MAX_ID <= id < _MAX_ID:
        raise _Refused(INVALID_REQUEST, "an id that is a number fits into 64 bits")
    return id


def _notified(method: str, params: dict[str, Any]) -> Answer | Cancelled:
    if method == "notifications/cancelled":
        id = params.get("requestId")
        if isinstance(id, int | str):
            return Cancelled(id)
    return Answer(None, 202)


def _asked(
    id: int | str, method: str, params: dict[str, Any], headers: Mapping[str, str] | None, tools: tuple[Tool, ...]
) -> Answer | ToolCall | Query:
    modern = _is_modern(method, params, headers)
    can = Can()
    if modern:
        _require_agreement(method, params, headers)
        can = _capabilities(params["_meta"][META_CAPABILITIES])
    if method == "tools/call":
        name, arguments = params.get("name"), params.get("arguments")
        tool = BY_NAME.get(name) if isinstance(name, str) else None
        if tool is None or tool not in tools:
            raise _Refused(INVALID_PARAMS, f"no such tool; there are {', '.join(tool.name for tool in tools)}")
        if not isinstance(arguments, dict | Raw | None) or (
            isinstance(arguments, Raw) and bytes(arguments)[:1] != b"{"
        ):
            raise _Refused(INVALID_PARAMS, "arguments are an object")
        return ToolCall(id, tool, {} if arguments is None else arguments, modern, can)
    if method in QUERIES and (modern or method not in TASK_METHODS):
        if method in TASK_METHODS and not can.tasks:
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
            raise _Refused(MISSING_CAPABILITY, f"{method} is for clients that declare {TASKS_EXTENSION}", needed)
        return Query(id, method, params, modern, can)
    result = _RESULTS.get(method)
    if result is None or (method in _OLD_ALONE and modern):
        raise _Refused(METHOD_NOT_FOUND, f"no method {method[:64]!r} here; this server has tools, resources, prompts")
    try:
        return Answer(_done(id, result(params, tools), modern=modern, listed=method in _LISTS))
    except ValueError as error:
        raise _Refused(INVALID_PARAMS, str(error)) from None


def _capabilities(given: Any) -> Can:
    if not isinstance(given, dict):
        raise _Refused(INVALID_PARAMS, f"{META_CAPABILITIES} is an object")
    extensions = given.get("extensions")
    return Can(isinstance(extensions, dict) and TASKS_EXTENSION in extensions, "elicitation" in given)


def _is_modern(method: str, params: dict[str, Any], headers: Mapping[str, str] | None) -> bool:
    """Return True if a request is of the era without sessions. Without a version in any place it is of the old one."""
    meta = params.get("_meta")
    if isinstance(meta, dict) and META_VERSION in meta:
        return True
    told = None if headers is None else headers.get(VERSION_HEADER)
    if told is None or told in OLD or method == "initialize":
        return False
    if told in MODERN:
        return True
    raise _unsupported(told)


def _require_agreement(method: str, params: dict[str, Any], headers: Mapping[str, str] | None) -> None:
    """Check that ``_meta`` is whole, that the headers say the same, and that the version is known."""
    meta = params.get("_meta")
    missing = [key for key in (META_VERSION, META_CAPABILITIES) if not isinstance(meta, dict) or key not in meta]
    if not isinstance(meta, dict) or missing:
        raise _Refused(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    version = meta[META_VERSION]
    if not isinstance(version, str):
        raise _Refused(INVALID_PARAMS, f"{META_VERSION} is a string")
    if headers is not None:
        named = params.get(_NAMED[method]) if method in _NAMED else None
        if method in TASK_METHODS and NAME_HEADER not in headers:
            named = None
        for header, said in ((VERSION_HEADER, version), (METHOD_HEADER, method), (NAME_HEADER, named)):
            if said is not None and _plain(headers.get(header)) != said:
                raise _Refused(HEADER_MISMATCH, f"the header {header} does not say what the body says")
    if version not in MODERN:
        raise _unsupported(version)


def _plain(value: str | None) -> str | None:
    """Return the value of a header, also one in base64; None if that is malformed."""
    found = None if value is None else _IN_BASE64.fullmatch(value)
    if found is None:
        return value
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _unsupported(version: str) -> _Refused:
    supported = [*MODERN, *reversed(OLD)]
    return _Refused(
        UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": supported, "requested": version[:64]}
    )


def _done(id: int | str, result: dict[str, Any], *, modern: bool, listed: bool = False) -> dict[str, Any]:
    if modern:
        result = {**result, "resultType": "complete", "_meta": {META_SERVER: SERVER}}
        if listed:
            result |= {"ttlMs": _TTL_MS, "cacheScope": "public"}
    return {"jsonrpc": "2.0", "id": id, "result": result}


def _initialized(params: dict[str, Any], tools: tuple[Tool, ...]) -> dict[str, Any]:
    wanted = params.get("protocolVersion")
    return {
        "protocolVersion": wanted if wanted in OLD else OLD[-1],
        "capabilities": _CAPABILITIES,
        "serverInfo": SERVER,
        "instructions": INSTRUCTIONS,
    }


def _discovered(params: dict[str, Any], tools: tuple[Tool, ...]) -> dict[str, Any]:
    return {
        "supportedVersions": [*MODERN, *reversed(OLD)],
        "capabilities": {**_CAPABILITIES, "extensions": {TASKS_EXTENSION: {}}},
        "instructions": INSTRUCTIONS,
        "ttlMs": _TTL_MS,
        "cacheScope": "public",
    }


def _listed(params: dict[str, Any], tools: tuple[Tool, ...]) -> dict[str, Any]:
    return {"tools": [shown(tool) for tool in tools]}


_RESULTS: dict[str, Callable[[dict[str, Any], tuple[Tool, ...]], dict[str, Any]]] = {
    "initialize": _initialized,
    "ping": lambda params, tools: {},
    "server/discover": _discovered,
    "tools/list": _listed,
    "resources/templates/list": lambda params, tools: {"resourceTemplates": TEMPLATES},
    "prompts/list": lambda params, tools: {"prompts": prompts.listed()},
    "prompts/get": lambda params, tools: prompts.get(params.get("name"), params.get("arguments")),
}
_LISTS = ("tools/list", "resources/templates/list", "prompts/list")
_OLD_ALONE = ("initialize", "ping")


MCP = Endpoint(
    "mcp",
    "POST",
    "/mcp",
    "Use the relay as MCP tools.",
    None,
    acts=True,
    agent_key=True,
    text=True,
    headers=(headers.AGENT,),
)
