"""The two bindings of A2A over HTTP: JSON-RPC, and HTTP+JSON. Both lead to the same methods."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from clawlink.domain.agent import Agent
from clawlink.doors.a2a import cards
from clawlink.doors.a2a.rules.states import Json
from clawlink.doors.a2a.server.bodies import A2A_JSON, JSON, Bodies
from clawlink.doors.a2a.server.calls import Calls, Target
from clawlink.doors.a2a.server.files import Files
from clawlink.doors.a2a.server.methods import OWN, Call, Methods
from clawlink.doors.a2a.server.sites import Sites
from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.failures import A2AError, Refusal, refusal
from clawlink.doors.a2a.wire.large_strings import Pieces
from clawlink.doors.a2a.wire.routing import VERSION_HEADER, envelope, require_version, route, version
from clawlink.errors import BadRequest, ClawLinkError, MethodNotAllowed, NotAuthenticated
from clawlink.relay.error_mapping import refusal as of_relay
from clawlink.relay.relay import Relay
from clawlink.server.request import Request, hung_up
from clawlink.server.response import Reply

_log = logging.getLogger("clawlink.a2a")

_CARD = cards.CARD_PATH.split("/")[1:]
_encode = msgspec.json.Encoder().encode


class Bindings:
    """Both bindings of one relay."""

    def __init__(
        self, relay: Relay, sites: Sites, calls: Calls, files: Files, methods: Methods, bodies: Bodies
    ) -> None:
        self._relay = relay
        self._sites = sites
        self._calls = calls
        self._files = files
        self._methods = methods.by_name
        self._bodies = bodies

    # -- requests ----------------------------------------------------------------------------------------------------

    async def serve(self, relay: Relay, request: Request, *, pools: bool = False) -> Reply | web.StreamResponse:
        """Serve a request below an agent's or a pool's address."""
        id, *rest = request.parameters["rest"].split("/")

        async def target() -> Target:
            name = _decoded(id)
            if pools:
                return await self._calls.target_pool(name, cards.pool_path(name))
            return await self._sites.agent(name)

        return await self._serve(request, target, rest)

    async def serve_relay(self, relay: Relay, request: Request) -> Reply | web.StreamResponse:
        """Serve a request below the relay's own address."""

        async def target() -> Target:
            return Target(OWN, cards.RELAY)

        return await self._serve(request, target, request.parameters.get("rest", "").split("/"))

    async def _serve(
        self, request: Request, target: Callable[[], Awaitable[Target]], rest: list[str]
    ) -> Reply | web.StreamResponse:
        rpc = not any(rest)
        try:
            caller = await self._sites.callers.asking(request)
            found = await target()
            if rest == _CARD:
                return await self._sites.card(request, found)
            if rpc:
                return await self._rpc(request, caller, found)
            return await self._rest(request, caller, found, [_decoded(one) for one in rest])
        except Exception as failure:
            of_card = rest == _CARD and isinstance(failure, ClawLinkError)
            if of_card or isinstance(failure, NotAuthenticated | ConnectionError):
                raise
            refused = self._refused(failure, request)
            return _reply(request, refused.rest(), refused.kind.http, refused)

    def _refused(self, failure: Exception, request: Request) -> Refusal:
        if isinstance(failure, A2AError):
            return refusal(failure)
        facts = {"method": request.method, "route": "a2a"}
        return refusal(of_relay(self._relay, failure, facts, _log))

    # -- JSON-RPC ----------------------------------------------------------------------------------------------------

    async def _rpc(self, request: Request, caller: Agent, target: Target) -> Reply | web.StreamResponse:
        if request.method != hdrs.METH_POST:
            raise MethodNotAllowed(f"JSON-RPC is a POST, not a {request.method}", current="POST")
        id: Any = None
        try:
            asked, cuts = await self._bodies.read(request, caller, "params")
            if isinstance(asked, dict) and isinstance(asked.get("id"), str | int | float | None):
                id = None if isinstance(asked.get("id"), bool) else asked.get("id")
            method, params = envelope(asked)
            old = version(_version(request)) == v0_3.VERSION and method not in self._methods
            if not old:
                require_version(_version(request))
            name = v0_3.METHODS.get(method) if old else method
            known = self._methods.get(name or "")
            if known is None:
                raise A2AError("METHOD_NOT_FOUND", f"there is no method {method[:64]!r}", field="method")
            wrap = partial(_result, id)
            if old:
                params, wrap = v0_3.params(method, params), partial(_old_event, id, name == "SubscribeToTask")
            call = Call(request, caller, target, self._sites.base(request), params, False, wrap, cuts, old)
            answer = await known(call)
        except Exception as failure:
            if isinstance(failure, ConnectionError) and hung_up(request):
                raise
            return _reply(request, self._refused(failure, request).rpc(id))
        if not isinstance(answer, dict):
            return answer
        return _reply(request, _result(id, v0_3.result(method, answer) if old else answer))

    # -- HTTP+JSON ---------------------------------------------------------------------------------------------------

    async def _rest(
        self, request: Request, caller: Agent, target: Target, rest: list[str]
    ) -> Reply | web.StreamResponse:
        method = "GET" if request.method == "HEAD" else request.method
        if len(rest) == 4 and rest[0] == "tasks" and rest[2] == "files" and method == "GET":
            view = await self._calls.own(caller, target, rest[1])
            return await self._files.send(caller, request, view, rest[3])
        name, path_fields = route(method, rest)
        require_version(_version(request))
        fields: Json = {}
        cuts: Mapping[str, Pieces] = {}
        if method == "POST":
            fields, cuts = await self._fields(request, caller, empty=name in ("CancelTask", "SubscribeToTask"))
        elif method == "GET":
            fields = {name: value for name, value in request.query.items() if value}
        if method != "POST":
            fields.pop(VERSION_HEADER, None)
        if request.method == "HEAD" and name == "SubscribeToTask":
            raise MethodNotAllowed("a stream is read with GET or POST", current="GET, POST")
        call = Call(
            request, caller, target, self._sites.base(request), {**fields, **path_fields}, method == "GET", _same, cuts
        )
        answer = await self._methods[name](call)
        return _reply(request, answer) if isinstance(answer, dict) else answer

    async def _fields(self, request: Request, caller: Agent, *, empty: bool) -> tuple[Json, Mapping[str, Pieces]]:
        if empty and not request.can_read_body:
            return {}, {}
        fields, cuts = await self._bodies.read(request, caller)
        if not isinstance(fields, dict):
            raise A2AError("INVALID_PARAMS", "the body is an object")
        return fields, cuts


def _version(request: Request) -> str | None:
    """Return the version of A2A that a request names, None without one."""
    return request.headers.get(VERSION_HEADER) or request.query.get(VERSION_HEADER)


def _decoded(piece: str) -> str:
    try:
        return unquote(piece, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the address is not UTF-8") from None


def _result(id: Any, result: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "result": result}


def _old_event(id: Any, through_questions: bool, event: Json) -> Json:
    return _result(id, v0_3.event(event, through_questions=through_questions))


def _same(event: Json) -> Json:
    return event


def _reply(request: Request, body: Any, status: int = 200, refused: Refusal | None = None) -> Reply:
    headers = {}
    if refused is not None and refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(refused.retry_after)))
    return Reply(_encode(body), status, content_type_for(request), headers or None)


def content_type_for(request: Request) -> str:
    """Return the media type of a reply: JSON, unless the request names that of A2A."""
    named = (request.headers.get(hdrs.ACCEPT, ""), request.headers.get(hdrs.CONTENT_TYPE, ""))
    return A2A_JSON if any(A2A_JSON in one for one in named) else JSON
