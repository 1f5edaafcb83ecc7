"""The methods of A2A as both bindings call them: from a request to JSON, or to a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct, field

from clawlink.domain.agent import Agent
from clawlink.doors.a2a.rules import tasks
from clawlink.doors.a2a.rules.states import FINAL, Json, UrlOf
from clawlink.doors.a2a.server import streams
from clawlink.doors.a2a.server.calls import Calls, Target
from clawlink.doors.a2a.server.push import Push
from clawlink.doors.a2a.server.sites import Sites
from clawlink.doors.a2a.wire import shapes
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.large_strings import Pieces
from clawlink.protocol.replies import TaskView
from clawlink.relay.relay import Relay
from clawlink.server.request import Request

OWN = "relay"
"""The target of the relay's own agent."""

T = TypeVar("T")


class Call(Struct, frozen=True):
    """A request on its way to a method: the client, the target and the parameters. ``old`` is for one of A2A 0.3."""

    request: Request
    caller: Agent
    target: Target
    base: str
    fields: Any
    texts: bool
    wrap: Callable[[Json], Any]
    cuts: Mapping[str, Pieces] = field(default_factory=dict)
    old: bool = False

    def read(self, kind: type[T]) -> T:
        """Return the parameters. Raises BadRequest, A2AError."""
        return shapes.read(self.fields, kind, texts=self.texts)


Method = Callable[[Call], Awaitable[Json | web.StreamResponse]]


class Methods:
    """The methods, by their names."""

    def __init__(self, relay: Relay, sites: Sites, calls: Calls, push: Push) -> None:
        self._relay = relay
        self._sites = sites
        self._calls = calls
        self._push = push
        self.by_name: dict[str, Method] = {
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

    async def _task(self, call: Call, view: TaskView, history: int | None) -> Json:
        return tasks.task(view, self._url_of(call, view), history=history)

    def _url_of(self, call: Call, view: TaskView) -> UrlOf:
        return self._sites.url_of(call.base, call.target.path, view.task_id)

    async def _submit(self, call: Call, *, settles: bool = False) -> tuple[shapes.SendMessage, TaskView]:
        """Take a message; return its task, with ``settles`` as a client that waits gets it."""
        ask = call.read(shapes.SendMessage)
        config = ask.configuration.task_push_notification_config
        if config is not None:
            self._push.require(config)
        id = await self._calls.send(call.caller, call.target, ask, call.cuts)
        if config is not None:
            view = await self._calls.own(call.caller, call.target, id)
            await self._push.create(call.caller, call.target, call.base, view, config, old=call.old)
        if not settles or ask.configuration.return_immediately:
            return ask, await self._calls.own(call.caller, call.target, id)
        if call.request.method == hdrs.METH_POST:
            call.request.stay()
        return ask, await self._calls.settled(call.caller, id)

    async def _send(self, call: Call) -> Json | web.StreamResponse:
        if call.target.to == OWN:
            return {"message": await self._directory(call)}
        ask, view = await self._submit(call, settles=True)
        why = tasks.unsupported(view)
        if why is not None:
            raise A2AError("CONTENT_TYPE_NOT_SUPPORTED", why, field="message.parts")
        direct = tasks.direct(view, self._url_of(call, view))
        if direct is not None:
            return {"message": direct}
        return {"task": await self._task(call, view, ask.configuration.history_length)}

    async def _stream(self, call: Call) -> Json | web.StreamResponse:
        if call.target.to == OWN:
            return await streams.one(call.request, call.wrap({"message": await self._directory(call)}))
        _, view = await self._submit(call)
        return await self._follow(call, view, through_questions=False)

    async def _subscribe(self, call: Call) -> Json | web.StreamResponse:
        view = await self._calls.own(call.caller, call.target, call.read(shapes.TaskQuery).id)
        if tasks.state(view) in FINAL:
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
        made = await self._push.create(call.caller, call.target, call.base, view, config, old=call.old)
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
        if call.target.to == OWN:
            raise A2AError("PUSH_NOTIFICATION_NOT_SUPPORTED", "the relay's own agent has no tasks, and no webhooks")
        return await method(call)

    return serve


def _config(config: shapes.PushConfig) -> Json:
    made: Json = msgspec.to_builtins(config)
    return made
