"""The two bindings of A2A over HTTP: JSON-RPC, and HTTP+JSON. Both lead to the same methods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote
from weakref import WeakValueDictionary

import msgspec
from aiohttp import hdrs, web

from clawlink.domain.agent import Agent
from clawlink.domain.limits import MAX_JSON_DEPTH
from clawlink.doors.a2a import cards, rules
from clawlink.doors.a2a.rules import Json
from clawlink.doors.a2a.server import callers, streams
from clawlink.doors.a2a.server.calls import Calls, Target
from clawlink.doors.a2a.server.files import Files
from clawlink.doors.a2a.server.push import Push
from clawlink.doors.a2a.server.sites import Sites
from clawlink.doors.a2a.wire import shapes
from clawlink.doors.a2a.wire.cutting import LONG, Cutter, Pieces, marks, restored
from clawlink.doors.a2a.wire.failures import A2AError, Refusal, refusal
from clawlink.errors import (
    BadJson,
    BadRequest,
    BodyTimeout,
    ClawLinkError,
    MethodNotAllowed,
    NotAuthenticated,
    TooLarge,
)
from clawlink.protocol.nesting import is_shallow
from clawlink.protocol.replies import TaskView
from clawlink.relay.error_mapping import refusal as of_relay
from clawlink.relay.relay import Relay
from clawlink.server.http_files import parts
from clawlink.server.request import Request, hung_up
from clawlink.server.response import Reply

_log = logging.getLogger("clawlink.a2a")

VERSION_HEADER = "A2A-Version"
JSON, A2A_JSON = "application/json", "application/a2a+json"
_DEFAULT_VERSION = "0.3"
# The number of requests that may read a large body at a time.
LARGE_AT_ONCE = 4
# A large body has these seconds, and one more for each LARGE_RATE bytes: others wait for its slot.
LARGE_SECONDS = 60.0
LARGE_RATE = 64 * 1024
_OWN = "relay"
_CARD = cards.CARD_PATH.split("/")[1:]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

T = TypeVar("T")


class Call(NamedTuple):
    """A request on its way to a method: who asks, and for what."""

    request: Request
    caller: Agent
    target: Target
    base: str
    fields: Any
    texts: bool
    wrap: Callable[[Json], Any]
    cuts: Mapping[str, Pieces] = MappingProxyType({})

    def read(self, kind: type[T]) -> T:
        """Return the parameters. Raises BadRequest, A2AError."""
        return shapes.read(self.fields, kind, texts=self.texts)


Method = Callable[[Call], Awaitable[Json | web.StreamResponse]]


class Bindings:
    """Both bindings of one relay."""

    def __init__(self, relay: Relay, sites: Sites, calls: Calls, files: Files, push: Push, *, max_body: int) -> None:
        self._relay = relay
        self._sites = sites
        self._calls = calls
        self._files = files
        self._push = push
        self._max_body = max_body
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by client
        self._methods: dict[str, Method] = {
            "SendMessage": self._send,
            "SendStreamingMessage": self._stream,
            "GetTask": self._get,
            "ListTasks": self._list,
            "CancelTask": self._cancel,
            "SubscribeToTask": self._subscribe,
            "CreateTaskPushNotificationConfig": _of_tasks(self._create_push),
            "GetTaskPushNotificationConfig": _of_tasks(self._get_push),
            "ListTaskPushNotificationConfigs": _of_tasks(self._list_push),
            "DeleteTaskPushNotificationConfig": _of_tasks(self._delete_push),
            "GetExtendedAgentCard": self._extended_card,
        }

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
            return Target(_OWN, cards.RELAY)

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
            asked, cuts = await self._body(request, caller, "params")
            if isinstance(asked, dict) and isinstance(asked.get("id"), str | int | float | None):
                id = None if isinstance(asked.get("id"), bool) else asked.get("id")
            method, params = _envelope(asked)
            _require_version(request)
            known = self._methods.get(method)
            if known is None:
                raise A2AError("METHOD_NOT_FOUND", f"there is no method {method[:64]!r}", field="method")
            call = Call(request, caller, target, self._sites.base(request), params, False, partial(_result, id), cuts)
            answer = await known(call)
        except Exception as failure:
            if isinstance(failure, ConnectionError) and hung_up(request):
                raise
            return _reply(request, self._refused(failure, request).rpc(id))
        return _reply(request, _result(id, answer)) if isinstance(answer, dict) else answer

    async def _body(self, request: Request, caller: Agent, *path: str) -> tuple[Any, Mapping[str, Pieces]]:
        """Read and decode a body; ``path`` leads to the request in it. Raises A2AError, and the refusals of a body.

        The raw parts of a message may be marks of strings that were cut out, which are returned, too.
        """
        given = request.headers.get(hdrs.CONTENT_TYPE, JSON).partition(";")[0].strip().lower()
        if given not in (JSON, A2A_JSON):
            raise A2AError("CONTENT_TYPE_NOT_SUPPORTED", f"the body is {JSON} or {A2A_JSON}, not {given[:64]}")
        length = request.content_length
        if length is not None and length > self._max_body:
            raise self._too_large(length)
        if length is not None and length <= LONG:
            return _parsed(b"".join([piece async for piece in parts(request)])), {}
        async with self._turn(caller), self._large:
            deadline = _Deadline(request)
            try:
                return await self._cut(request, path, deadline)
            finally:
                deadline.stop()

    def _turn(self, caller: Agent) -> asyncio.Lock:
        """Return the lock of a client: it sends one large body at a time. Clients of the token differ by address."""
        client = f"{caller.id} {caller.address or ''}" if caller.id == callers.OWN else caller.id
        return self._turns.setdefault(client, asyncio.Lock())

    async def _cut(
        self, request: Request, path: tuple[str, ...], deadline: _Deadline
    ) -> tuple[Any, Mapping[str, Pieces]]:
        """Read a large body: its long strings apart, all else within the limit of a body of the relay."""
        cutter, size = Cutter(), 0
        async for piece in parts(request):
            size += len(piece)
            deadline.took(len(piece))
            if size > self._max_body:
                raise self._too_large(size)
            for _ in cutter.feed(piece):
                await asyncio.sleep(0)
                self._require_small(cutter.kept)
        self._require_small(cutter.kept)
        asked = _parsed(cutter.end())
        if not cutter.cuts:
            return asked, {}
        raw = frozenset(map(id, _parts_in(asked, *path)))
        self._require_small(
            cutter.kept + sum(sum(map(len, cutter.cuts[mark])) for mark in marks(asked, cutter.cuts, raw))
        )
        try:
            return restored(asked, cutter.cuts, raw), cutter.cuts
        except UnicodeDecodeError as error:
            raise BadJson(f"the body is not JSON in UTF-8: {error}") from None

    def _require_small(self, actual: int) -> None:
        limit = self._relay.limits.max_body_bytes
        if actual > limit:
            raise TooLarge(
                f"all but the raw parts of a message may have {limit} bytes, and this has {actual} or more; send large "
                "contents as a raw part, which becomes a file",
                field="message.parts",
                limit=limit,
                actual=actual,
            )

    def _too_large(self, actual: int) -> TooLarge:
        return TooLarge(
            f"a body may have {self._max_body} bytes, and this one has {actual} or more; send a file as a url part, or "
            "start the relay with a higher --a2a-max-body",
            limit=self._max_body,
            actual=actual,
        )

    # -- HTTP+JSON ---------------------------------------------------------------------------------------------------

    async def _rest(
        self, request: Request, caller: Agent, target: Target, rest: list[str]
    ) -> Reply | web.StreamResponse:
        method = "GET" if request.method == "HEAD" else request.method
        if len(rest) == 4 and rest[0] == "tasks" and rest[2] == "files" and method == "GET":
            view = await self._calls.own(caller, target, rest[1])
            return await self._files.send(caller, request, view, rest[3])
        name, path_fields = _route(method, rest)
        _require_version(request)
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
        fields, cuts = await self._body(request, caller)
        if not isinstance(fields, dict):
            raise A2AError("INVALID_PARAMS", "the body is an object")
        return fields, cuts

    # -- methods -----------------------------------------------------------------------------------------------------

    async def _task(self, call: Call, view: TaskView, history: int | None) -> Json:
        return rules.task(view, self._url_of(call, view), history=history)

    def _url_of(self, call: Call, view: TaskView) -> rules.UrlOf:
        return self._sites.url_of(call.base, call.target.path, view.task_id)

    async def _submit(self, call: Call) -> tuple[shapes.SendMessage, TaskView]:
        ask = call.read(shapes.SendMessage)
        config = ask.configuration.task_push_notification_config
        if config is not None:
            self._push.require(config)
        view = await self._calls.send(call.caller, call.target, ask, call.cuts)
        if config is not None:
            await self._push.create(call.caller, call.target, call.base, view, config)
        return ask, view

    async def _send(self, call: Call) -> Json | web.StreamResponse:
        if call.target.to == _OWN:
            return {"message": await self._directory(call)}
        ask, view = await self._submit(call)
        if not ask.configuration.return_immediately:
            if call.request.method == hdrs.METH_POST:
                call.request.stay()
            view = await self._calls.settled(call.caller, view)
        direct = rules.direct(view, self._url_of(call, view))
        if direct is not None:
            return {"message": direct}
        return {"task": await self._task(call, view, ask.configuration.history_length)}

    async def _stream(self, call: Call) -> Json | web.StreamResponse:
        if call.target.to == _OWN:
            return await streams.one(call.request, call.wrap({"message": await self._directory(call)}))
        _, view = await self._submit(call)
        return await self._follow(call, view, through_questions=False)

    async def _subscribe(self, call: Call) -> Json | web.StreamResponse:
        view = await self._calls.own(call.caller, call.target, call.read(shapes.TaskQuery).id)
        if rules.state(view) in rules.FINAL:
            raise A2AError("UNSUPPORTED_OPERATION", f"task {view.task_id} has ended: it is {view.status}; get the task")
        return await self._follow(call, view, through_questions=True)

    async def _follow(self, call: Call, view: TaskView, *, through_questions: bool) -> web.StreamResponse:
        return await streams.serve(
            self._relay,
            self._calls,
            call.request,
            call.caller,
            view,
            self._url_of(call, view),
            wrap=call.wrap,
            through_questions=through_questions,
        )

    async def _directory(self, call: Call) -> Json:
        ask = call.read(shapes.SendMessage)
        if ask.message.task_id:
            raise A2AError("TASK_NOT_FOUND", "the relay's own agent has no tasks")
        return await self._sites.directory(call.base, ask.message)

    async def _get(self, call: Call) -> Json:
        ask = call.read(shapes.TaskQuery)
        return await self._task(call, await self._calls.own(call.caller, call.target, ask.id), ask.history_length)

    async def _list(self, call: Call) -> Json:
        ask = call.read(shapes.ListTasks)
        urls = partial(self._sites.url_of, call.base, call.target.path)
        return await self._calls.page(call.caller, call.target, ask, urls)

    async def _cancel(self, call: Call) -> Json:
        ask = call.read(shapes.TaskQuery)
        return await self._task(call, await self._calls.cancel(call.caller, call.target, ask.id), None)

    async def _create_push(self, call: Call) -> Json:
        config = call.read(shapes.PushConfig)
        if not config.task_id:
            raise A2AError("INVALID_PARAMS", "taskId is missing", field="taskId")
        view = await self._calls.own(call.caller, call.target, config.task_id)
        made = await self._push.create(call.caller, call.target, call.base, view, config)
        return _config(made)

    async def _get_push(self, call: Call) -> Json:
        ask = call.read(shapes.OnePushConfig)
        return _config(await self._push.get(await self._calls.own(call.caller, call.target, ask.task_id), ask.id))

    async def _list_push(self, call: Call) -> Json:
        ask = call.read(shapes.ListPushConfigs)
        view = await self._calls.own(call.caller, call.target, ask.task_id)
        return {"configs": [_config(one) for one in await self._push.all(view)], "nextPageToken": ""}

    async def _delete_push(self, call: Call) -> Json:
        ask = call.read(shapes.OnePushConfig)
        await self._push.delete(await self._calls.own(call.caller, call.target, ask.task_id), ask.id)
        return {}

    async def _extended_card(self, call: Call) -> Json:
        return await self._sites.extended_card(call.base, call.target)


def _of_tasks(method: Method) -> Method:
    """Return a method of webhooks that refuses the relay's own agent, which has no tasks."""

    async def serve(call: Call) -> Json | web.StreamResponse:
        if call.target.to == _OWN:
            raise A2AError("PUSH_NOTIFICATION_NOT_SUPPORTED", "the relay's own agent has no tasks, and no webhooks")
        return await method(call)

    return serve


def _config(config: shapes.PushConfig) -> Json:
    made: Json = msgspec.to_builtins(config)
    return made


class _Deadline:
    """Has a body refused once it is late. Each byte that comes moves the end."""

    def __init__(self, request: Request) -> None:
        self._content = request.content
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + LARGE_SECONDS
        self._timer = self._loop.call_at(self._ends_at, self._look)

    def took(self, size: int) -> None:
        """Note that ``size`` bytes more have come."""
        self._ends_at += size / LARGE_RATE

    def stop(self) -> None:
        """The body has come."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._loop.time() < self._ends_at:
            self._timer = self._loop.call_at(self._ends_at, self._look)
            return
        self._content.set_exception(
            BodyTimeout(
                f"a body of more than {LONG} bytes has {LARGE_SECONDS:g} s, and 1 s for each {LARGE_RATE} bytes of it; "
                "send it faster, or send a file as a url part",
                limit=LARGE_SECONDS,
                retry_after=1,
            )
        )


def _parsed(body: bytes) -> Any:
    """Decode a body that is no longer than those of the relay. Raises BadRequest."""
    if not is_shallow(body, MAX_JSON_DEPTH):
        raise BadRequest(f"JSON may be nested {MAX_JSON_DEPTH} levels deep", limit=MAX_JSON_DEPTH)
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadJson(f"the body is not JSON in UTF-8: {error}") from None


def _parts_in(asked: Any, *path: str) -> list[Json]:
    """Return the parts of the message in a decoded body."""
    for name in (*path, "message", "parts"):
        asked = asked.get(name) if isinstance(asked, dict) else None
    return [part for part in asked if isinstance(part, dict)] if isinstance(asked, list) else []


def _decoded(piece: str) -> str:
    try:
        return unquote(piece, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the address is not UTF-8") from None


def _require_version(request: Request) -> None:
    """Refuse a version of A2A that is not spoken here. Without one a request is of 0.3. Raises A2AError."""
    given = (request.headers.get(VERSION_HEADER) or request.query.get(VERSION_HEADER) or _DEFAULT_VERSION).strip()
    if ".".join(given.split(".")[:2]) != cards.PROTOCOL_VERSION:
        raise A2AError(
            "VERSION_NOT_SUPPORTED",
            f"this relay speaks A2A {cards.PROTOCOL_VERSION}, not {given[:16]!r}; send the header {VERSION_HEADER}: "
            f"{cards.PROTOCOL_VERSION}",
            field=VERSION_HEADER,
        )


def _envelope(asked: Any) -> tuple[str, Any]:
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


def _route(method: str, rest: list[str]) -> tuple[str, Json]:
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


def _result(id: Any, result: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "result": result}


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
