"""Null for an optional field is the same as leaving the field out: on every route, in every frame."""

from __future__ import annotations

from typing import Any

import msgspec

from clawlink.protocol.paths import ENDPOINTS, FRAMES
from clawlink.protocol.reading import optional_fields
from tests.conftest import UNPACED, Serve
from tests.server.sockets import websocket

# A value for each required field, by the field's name, for any route or frame.
_GIVEN: dict[str, Any] = {
    "agent": "nobody",
    "agent_id": "a",
    "from_agent": "a",
    "to_agent": "b",
    "task": "t",
    "content": "c",
    "message_id": "none",
    "adapter": "x",
    "result": "started",
    "receipts": ["none-none"],
    "lease": 10,
    "file_key": "k",
    "seconds": 10,
    "stopped": False,
    "message_ids": ["none"],
    "subscriptions": ["*"],
    "key_id": "0" * 64,
    "nonce": "0" * 16,
    "name": "n",
}


def _least(kind: type[Any]) -> dict[str, Any]:
    names = [f.encode_name for f in msgspec.structs.fields(kind) if f.required]
    if "task" in names:  # to_agent is one of two ways to say who is to do it
        names.append("to_agent")
    return {name: _GIVEN[name] for name in names}


def _facts(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what two equal requests are answered alike: what is refused, and why."""
    return {name: answer.get(name) for name in ("code", "field", "status")}


async def test_null_for_an_optional_field_is_as_if_it_were_left_out(serve: Serve) -> None:
    relay = await serve(limits=UNPACED)
    for agent_id in ("a", "b"):
        await relay.post("/register", {"agent_id": agent_id})
    tried = 0
    for endpoint in (e for e in ENDPOINTS if e.body is not None):
        path = endpoint.url(task_id="none", agent_id="a", message_id="none")
        fields = _least(endpoint.body)
        left_out = await relay.post(path, fields)
        for name in sorted(optional_fields(endpoint.body) - fields.keys()):
            status, answer = await relay.post(path, {**fields, name: None})
            assert (status, _facts(answer)) == (left_out[0], _facts(left_out[1])), (endpoint.name, name, answer)
            tried += 1
    assert tried > 40
    async with websocket(relay, "a", lease=60) as peer:
        for type, row in FRAMES.items():
            kind, identity = row.body, row.by
            fields = {name: value for name, value in _least(kind).items() if name != identity}
            answers = []
            for name in ("", *sorted(optional_fields(kind) - fields.keys())):
                await peer.say(type, id=name, **fields, **({name: None} if name else {}))
                frame = await peer.answer(name)
                answers.append((frame["type"], _facts(frame.get("reply", frame))))
                assert answers[-1] == answers[0], (type, name, frame)


async def test_null_for_what_must_be_given_is_refused(serve: Serve) -> None:
    relay = await serve(limits=UNPACED)
    for endpoint in (e for e in ENDPOINTS if e.body is not None):
        fields = _least(endpoint.body)
        for name in fields:
            if name in ("to_agent", "content") and endpoint.name.removesuffix("_as_operator") in (
                "delegate",
                "send",
                "answer",
            ):
                continue  # one of two ways; or any JSON, null too
            path = endpoint.url(task_id="none", agent_id="a", message_id="none")
            status, answer = await relay.post(path, {**fields, name: None})
            assert (status, answer["code"], answer["field"]) == (400, "bad_request", name), (
                endpoint.name,
                name,
                answer,
            )


def test_openapi_lets_each_optional_field_of_a_body_be_null() -> None:
    from clawlink.server.openapi import document

    schemas = msgspec.json.decode(document())["components"]["schemas"]
    for endpoint in (e for e in ENDPOINTS if e.body is not None):
        shown = schemas[endpoint.body.__name__]
        for name in optional_fields(endpoint.body):
            field = shown["properties"][name]
            nullable = {"type": "null"} in field.get("anyOf", [field]) or not field.keys() & {"type", "anyOf", "$ref"}
            assert nullable, (endpoint.name, name, field)
            assert name not in shown.get("required", ()), (endpoint.name, name)
