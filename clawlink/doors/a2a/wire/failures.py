"""Errors of A2A: a reason with its code in JSON-RPC, its status in HTTP, and the body of each binding."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from clawlink.errors import ClawLinkError

DOMAIN = "a2a-protocol.org"
OWN_DOMAIN = "clawlink"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
_SERVER_ERROR = -32000


class Kind(Struct, frozen=True):
    """The code of a reason in JSON-RPC, its status in HTTP, and its name as a google.rpc code."""

    rpc: int
    http: int
    status: str


KINDS = {
    "TASK_NOT_FOUND": Kind(-32001, 404, "NOT_FOUND"),
    "TASK_NOT_CANCELABLE": Kind(-32002, 400, "FAILED_PRECONDITION"),
    "PUSH_NOTIFICATION_NOT_SUPPORTED": Kind(-32003, 400, "FAILED_PRECONDITION"),
    "UNSUPPORTED_OPERATION": Kind(-32004, 400, "FAILED_PRECONDITION"),
    "CONTENT_TYPE_NOT_SUPPORTED": Kind(-32005, 400, "INVALID_ARGUMENT"),
    "EXTENDED_AGENT_CARD_NOT_CONFIGURED": Kind(-32007, 400, "FAILED_PRECONDITION"),
    "VERSION_NOT_SUPPORTED": Kind(-32009, 400, "FAILED_PRECONDITION"),
    "PARSE_ERROR": Kind(-32700, 400, "INVALID_ARGUMENT"),
    "INVALID_REQUEST": Kind(-32600, 400, "INVALID_ARGUMENT"),
    "METHOD_NOT_FOUND": Kind(-32601, 404, "NOT_FOUND"),
    "INVALID_PARAMS": Kind(-32602, 400, "INVALID_ARGUMENT"),
}
"""The reasons that the door gives, and the codes of A2A for them."""

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "OUT_OF_RANGE",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
# The relay's own errors that A2A has a reason for.
_REASONS = {"bad_json": "PARSE_ERROR", "bad_request": "INVALID_PARAMS", "unknown_task": "TASK_NOT_FOUND"}
_FULL = {507: 429, 412: 409, 423: 409}


class A2AError(Exception):
    """A refusal of the door. ``field`` is the part of the request that is wrong."""

    def __init__(self, reason: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field


class Refusal(Struct, frozen=True):
    """An error as both bindings tell it."""

    kind: Kind
    reason: str
    domain: str
    message: str
    field: str | None
    facts: dict[str, str]
    retry_after: float | None = None

    @property
    def details(self) -> list[dict[str, Any]]:
        """The reason for programs, and the field that is wrong if there is one."""
        info: dict[str, Any] = {"@type": _ERROR_INFO, "reason": self.reason, "domain": self.domain}
        if self.facts:
            info["metadata"] = self.facts
        if self.field is None:
            return [info]
        return [
            info,
            {"@type": _BAD_REQUEST, "fieldViolations": [{"field": self.field, "description": self.message}]},
        ]

    def rest(self) -> dict[str, Any]:
        """Return the body of the HTTP+JSON binding."""
        said = {"code": self.kind.http, "status": self.kind.status, "message": self.message, "details": self.details}
        return {"error": said}

    def rpc(self, id: Any) -> dict[str, Any]:
        """Return the body of the JSON-RPC binding."""
        return {
            "jsonrpc": "2.0",
            "id": id,
            "error": {"code": self.kind.rpc, "message": self.message, "data": self.details},
        }


def refusal(error: A2AError | ClawLinkError) -> Refusal:
    """Return an error of the door, or of the relay below it, as A2A tells it."""
    if isinstance(error, A2AError):
        return Refusal(KINDS[error.reason], error.reason, DOMAIN, error.message, error.field, {})
    facts = {
        name: f"{value:g}"
        for name, value in (("limit", error.limit), ("actual", error.actual), ("retry_after", error.retry_after))
        if value is not None
    }
    reason = _REASONS.get(error.code)
    if reason is not None:
        return Refusal(KINDS[reason], reason, DOMAIN, error.message, error.field, facts)
    status = _FULL.get(error.status, error.status)
    kind = Kind(-32603 if status == 500 else _SERVER_ERROR, status, _STATUSES.get(status, "UNKNOWN"))
    return Refusal(kind, error.code.upper(), OWN_DOMAIN, error.message, error.field, facts, error.retry_after)
