"""From a request's address, version or envelope to the method of A2A that it calls."""

from __future__ import annotations

from typing import Any

from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.errors import MethodNotAllowed

Json = dict[str, Any]

VERSION_HEADER = "A2A-Version"
PROTOCOL_VERSION = "1.0"


def version(given: str | None) -> str:
    """Return the version of A2A that a request is of: the major and the minor number. Without one it is of 0.3."""
    return ".".join((given or v0_3.VERSION).strip().split(".")[:2])


def require_version(given: str | None) -> None:
    """Refuse any version but 1.0. Raises A2AError."""
    asked = version(given)
    if asked != PROTOCOL_VERSION:
        raise A2AError(
            "VERSION_NOT_SUPPORTED",
            f"this relay speaks A2A {PROTOCOL_VERSION}, and the methods of {v0_3.VERSION} over JSON-RPC, not "
            f"{asked[:16]!r} here; send the header {VERSION_HEADER}: {PROTOCOL_VERSION}",
            field=VERSION_HEADER,
        )


def envelope(asked: Any) -> tuple[str, Any]:
    """Return the method and the parameters of a JSON-RPC request. Raises A2AError."""
    if isinstance(asked, list):
        raise A2AError("INVALID_REQUEST", "batches are not taken; send one request at a time")
    if not isinstance(asked, dict) or asked.get("jsonrpc") != "2.0":
        raise A2AError("INVALID_REQUEST", 'a request is an object with "jsonrpc": "2.0"', field="jsonrpc")
    if isinstance(asked.get("id"), bool | list | dict):
        raise A2AError("INVALID_REQUEST", "the id of a request is a string, a number or null", field="id")
    method, params = asked.get("method"), asked.get("params")
    if not isinstance(method, str) or not method:
        raise A2AError("INVALID_REQUEST", "method is a string", field="method")
    if params is None:
        return method, {}
    if not isinstance(params, dict):
        raise A2AError("INVALID_PARAMS", "params is an object", field="params")
    return method, params


def route(method: str, rest: list[str]) -> tuple[str, Json]:
    """Return the method of A2A for a path below an agent's, and the fields in it. Raises A2AError, MethodNotAllowed."""
    taken: dict[str, str] = {}
    fields: Json = {}
    if rest == ["message:send"]:
        taken = {"POST": "SendMessage"}
    elif rest == ["message:stream"]:
        taken = {"POST": "SendStreamingMessage"}
    elif rest == ["extendedAgentCard"]:
        taken = {"GET": "GetExtendedAgentCard"}
    elif rest == ["tasks"]:
        taken = {"GET": "ListTasks"}
    elif len(rest) == 2 and rest[0] == "tasks":
        id, colon, verb = rest[1].partition(":")
        fields = {"id": id}
        if not colon:
            taken = {"GET": "GetTask"}
        elif verb == "cancel":
            taken = {"POST": "CancelTask"}
        elif verb == "subscribe":
            taken = {"GET": "SubscribeToTask", "POST": "SubscribeToTask"}
    elif rest[:1] == ["tasks"] and rest[2:3] == ["pushNotificationConfigs"]:
        fields = {"taskId": rest[1]}
        if len(rest) == 3:
            taken = {"GET": "ListTaskPushNotificationConfigs", "POST": "CreateTaskPushNotificationConfig"}
        elif len(rest) == 4:
            fields["id"] = rest[3]
            taken = {"GET": "GetTaskPushNotificationConfig", "DELETE": "DeleteTaskPushNotificationConfig"}
    if not taken:
        raise A2AError("METHOD_NOT_FOUND", "an agent has no such address")
    if method not in taken:
        shown = ", ".join(sorted(taken))
        raise MethodNotAllowed(f"this address does not take {method}, only {shown}", current=shown)
    return taken[method], fields
