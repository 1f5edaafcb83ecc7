"""The OpenAPI document, made from the very structs that validate."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from clawlink.domain.access import KEY_HEADER
from clawlink.domain.message import KnowledgeBroadcast, Message
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.headers import OFFSET_TYPE, SHARED, Header
from clawlink.protocol.mailbox_replies import DeadLetters, Polled, PolledAndAcked
from clawlink.protocol.paths import ENDPOINTS
from clawlink.protocol.replies import Failure, KnowledgeList
from clawlink.version import VERSION

_REF = "#/components/schemas/{name}"
_BYTES: dict[str, Any] = {"schema": {}}  # as OpenAPI 3.1 describes bytes: no text and no JSON, but anything
_PARAMETER = re.compile(r"{(\w+)}")
# Messages of a poll are a union; the reply structs leave it open, because the server never looks inside.
_FILLED = {
    Polled: Polled[Message],
    PolledAndAcked: PolledAndAcked[Message],
    DeadLetters: DeadLetters[Message],
    KnowledgeList: KnowledgeList[KnowledgeBroadcast],
}


@cache
def document() -> bytes:
    """Return the document as JSON, made once."""
    kinds: list[Any] = [Failure]
    for endpoint in ENDPOINTS:
        kinds += [k for k in (endpoint.body, endpoint.query, _reply_of(endpoint)) if k is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schema = dict(zip(map(repr, kinds), schemas, strict=True))
    for endpoint in ENDPOINTS:
        if endpoint.body is not None:
            _take_null(components[schema[repr(endpoint.body)]["$ref"].rsplit("/", 1)[1]])
    operations: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operations.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema, components)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "ClawLink Relay",
                "version": VERSION,
                "description": "The relay AI agents work through. Errors are JSON objects with `error` and `code`.",
            },
            "security": [{"token": []}, {}],
            "paths": operations,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _reply_of(endpoint: Endpoint) -> Any:
    return _FILLED.get(endpoint.reply, endpoint.reply)


def _operation(endpoint: Endpoint, schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": "Percent-encoded as one piece, slashes included.",
            "schema": {"type": "string", "minLength": 1},
        }
        for name in _PARAMETER.findall(endpoint.path)
    ]
    if endpoint.query is not None:
        fields = components[schema[repr(endpoint.query)]["$ref"].rsplit("/", 1)[1]]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": _without_null(field)}
            for name, field in fields.items()
        ]
    if endpoint.acts or endpoint.looks:
        parameters.append(
            {
                "name": KEY_HEADER,
                "in": "header",
                "required": False,
                "description": "The agent's key; needed if it was claimed.",
                "schema": {"type": "string"},
            }
        )
    parameters += map(_header, (*endpoint.headers, *((SHARED,) if endpoint.shared else ())))
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            **_done(endpoint, schema),
            "default": {
                "description": "Refused or failed.",
                "content": {"application/json": {"schema": schema[repr(Failure)]}},
            },
        },
    }
    if endpoint.open:
        operation["security"] = []
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema[repr(endpoint.body)]}},
        }
    if endpoint.takes_bytes:
        part = endpoint.empty  # of an upload; else a file, which may be of any type
        operation["requestBody"] = {"content": {OFFSET_TYPE if part else "*/*": _BYTES}}
    return operation


def _header(header: Header) -> dict[str, Any]:
    told = {"name": header.name, "in": "header", "required": header.required, "description": header.description}
    return {**told, "schema": header.schema} | ({} if header.example is None else {"example": header.example})


def _done(endpoint: Endpoint, schema: dict[str, Any]) -> dict[str, Any]:
    if endpoint.socket:
        return {"101": {"description": "The connection is a websocket from here on."}}
    if endpoint.empty:
        return {"2XX": {"description": "Done; the headers tell the rest.", **_told(endpoint)}}
    done = {"description": "Done.", "content": _content(endpoint, schema), **_told(endpoint)}
    if endpoint.gives_bytes:
        return {"2XX": done, "304": {"description": "The asker has this version already."}}
    return {"2XX" if endpoint.takes_bytes else "200": done}


def _told(endpoint: Endpoint) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}} for name in endpoint.tells}} if endpoint.tells else {}


def _content(endpoint: Endpoint, schema: dict[str, Any]) -> dict[str, Any]:
    if endpoint.reply is not None:
        return {"application/json": {"schema": schema[repr(_reply_of(endpoint))]}}
    if endpoint.gives_bytes:
        return {"*/*": _BYTES}
    if endpoint.path.endswith(".json"):
        return {"application/json": {"schema": {"type": "object"}}}
    return {"text/event-stream" if endpoint.stays else "text/plain": {"schema": {"type": "string"}}}


def _take_null(body: dict[str, Any]) -> None:
    """Let each optional field of a body be null, which is the same as left out."""
    required = body.get("required", ())
    for name, field in body.get("properties", {}).items():
        if "enum" in field:  # the words that are taken, which are more than those that are given
            field.pop("$ref", None)
        options = field.get("anyOf", [{}] if not field.keys() - {"description", "default"} else None)
        if name in required or (options is not None and any(o == {} or o.get("type") == "null" for o in options)):
            continue
        beside = {key: field.pop(key) for key in ("description", "default") if key in field}
        taken = field.pop("anyOf", None) or [dict(field)]
        field.clear()
        field.update(anyOf=[*taken, {"type": "null"}], **beside)


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is given or left out; it is never null."""
    options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
    return {**{k: v for k, v in field.items() if k not in ("anyOf", "default")}, **options[0]} if options else field
