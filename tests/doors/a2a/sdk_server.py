"""An agent of the official SDK behind a real port: the remote agent in tests of the way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette

from tests.waiting import until


class Executor(AgentExecutor):  # type: ignore[misc,unused-ignore]
    """Does what the text of a message says; ``go`` lets a waiting task end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.heard: list[pb.Message] = []
        self.cancelled: list[str] = []

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        assert message is not None
        self.heard.append(message)
        text = context.get_user_input()
        updater = _updater(context, event_queue)
        if text == "say":
            await event_queue.enqueue_event(updater.new_agent_message([pb.Part(text="said")]))
            return
        if context.current_task is None:
            begun = pb.Task(id=context.task_id, context_id=context.context_id, history=[message])
            begun.status.state = pb.TASK_STATE_SUBMITTED
            await event_queue.enqueue_event(begun)
        if text == "ask":
            await updater.requires_input(updater.new_agent_message([pb.Part(text="which one?")]))
        elif text == "reject":
            await updater.reject(updater.new_agent_message([pb.Part(text="not mine")]))
        elif text == "fail":
            await updater.failed(updater.new_agent_message([pb.Part(text="broken")]))
        else:
            await updater.start_work(updater.new_agent_message([pb.Part(text="at work")]))
            if text == "wait":
                await self.go.wait()
            parts = [pb.Part(text=f"done: {text}")]
            if any(part.raw for part in message.parts):
                parts = [pb.Part(raw=part.raw, filename=part.filename) for part in message.parts if part.raw]
            await updater.add_artifact(parts, artifact_id="a")
            await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        self.cancelled.append(str(context.task_id))
        await _updater(context, event_queue).cancel()


def _updater(context: RequestContext, event_queue: EventQueue) -> TaskUpdater:
    return TaskUpdater(event_queue, str(context.task_id), str(context.context_id))


@dataclass
class RemoteAgent:
    """A running agent of the SDK."""

    url: str
    executor: Executor = field(default_factory=Executor)


@contextlib.asynccontextmanager
async def remote_agent(binding: str, *, streaming: bool = True) -> AsyncIterator[RemoteAgent]:
    """Run an agent of the SDK over one binding, on a port that the system chooses."""
    executor = Executor()
    app = Starlette()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none"))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    card = ParseDict(
        {
            "name": "Poet of the SDK",
            "description": "Writes.",
            "version": "1",
            "supportedInterfaces": [{"url": f"{url}/rpc", "protocolBinding": binding, "protocolVersion": "1.0"}],
            "capabilities": {"streaming": streaming},
            "defaultInputModes": ["text/plain"],
            "defaultOutputModes": ["text/plain"],
            "skills": [{"id": "poetry", "name": "poetry", "description": "Poems.", "tags": ["p"]}],
        },
        pb.AgentCard(),
    )
    handler = DefaultRequestHandlerV2(executor, InMemoryTaskStore(), card)
    app.routes.extend(create_agent_card_routes(card))
    if binding == "JSONRPC":
        app.routes.extend(create_jsonrpc_routes(handler, "/rpc"))
    else:
        app.routes.extend(create_rest_routes(handler, path_prefix="/rpc"))
    try:
        yield RemoteAgent(url, executor)
    finally:
        executor.go.set()
        server.should_exit = server.force_exit = True
        await serving
