"""The agent that the A2A conformance kit tests: ``python -m tests.doors.a2a.agent --relay URL [--name tck]``.

It answers each message by the prefix of its id, as the kit expects. The kit's address is RELAY/a2a/tck. The kit has
its webhooks on this machine, so the relay is started with ``clawlink serve --a2a --a2a-private-webhooks``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from clawlink.client.aio import AsyncClient
from clawlink.domain.message import TaskAnswer, TaskDelegation, TaskUpdate

HOLD_SECONDS = 4.5
"""How long a task goes on that clients subscribe to again: the kit asks for 4 s at least."""
DELAY_SECONDS = 2.0
"""How long a task works before it is completed, so that a client that does not wait has its answer before that."""

_FILE = {"raw": "dGNr", "mediaType": "text/plain", "filename": "output.txt"}
_FILE_URL = {"url": "https://example.com/output.txt", "mediaType": "text/plain", "filename": "output.txt"}


def _artifact(part: dict[str, Any]) -> dict[str, Any]:
    return {"a2a": {"artifact": {"artifactId": "tck-artifact", "parts": [part]}}}


def _says(text: str) -> dict[str, Any]:
    return {"a2a": {"message": {"parts": [{"text": text}]}}}


_NOT_TAKEN = {"a2a": {"unsupportedMedia": True, "message": {"parts": [{"text": "this agent does not take that"}]}}}
_AUTH = {"a2a": {"authRequired": True, "message": {"parts": [{"text": "Log in, please"}]}}}

# Each prefix with the final answer that it asks for, and whether a report comes first.
_ANSWERS: tuple[tuple[str, bool, Any], ...] = (
    ("tck-complete-task", False, _says("Hello from TCK")),
    ("tck-artifact-text", False, _artifact({"text": "Generated text content"})),
    ("tck-artifact-file-url", False, _artifact(_FILE_URL)),
    ("tck-artifact-file", False, _artifact(_FILE)),
    ("tck-artifact-data", False, _artifact({"data": {"key": "value", "count": 42}})),
    ("tck-message-response", False, {"a2a": {"reply": {"parts": [{"text": "Direct message response"}]}}}),
    ("tck-stream-001", True, _artifact({"text": "Stream hello from TCK"})),
    ("tck-stream-002", False, None),
    ("tck-stream-003", True, _artifact({"text": "Stream task lifecycle"})),
    ("tck-stream-ordering-001", True, _artifact({"text": "Ordered output"})),
    ("tck-stream-artifact-text", True, _artifact({"text": "Streamed text content"})),
    ("tck-stream-artifact-file", True, _artifact(_FILE)),
)
_CHUNKS = ("chunk-1 ", "chunk-2")


_UNSUPPORTED = "application/x-unsupported-tck-type"


def media_types(task: TaskDelegation) -> list[str]:
    """Return the media types of the parts that an A2A client sent."""
    context = task.context if isinstance(task.context, dict) else {}
    asked = context.get("a2a")
    parts = asked["message"]["parts"] if isinstance(asked, dict) else []
    return [part.get("mediaType", "") for part in parts]


def message_id(task: TaskDelegation) -> str:
    """Return the id that the A2A client gave its message."""
    context = task.context if isinstance(task.context, dict) else {}
    asked = context.get("a2a")
    return str(asked["message"]["messageId"]) if isinstance(asked, dict) else ""


class Agent:
    """The agent: it polls, as an agent does that cannot be reached itself."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._at_work: set[asyncio.Task[None]] = set()
        self._over: dict[str, asyncio.Event] = {}

    async def run(self) -> None:
        """Work until it is cancelled."""
        try:
            while True:
                for claimed in await self._client.poll(wait=30, lease=60):
                    work = asyncio.create_task(self._do(claimed.message, claimed.receipt))
                    self._at_work.add(work)
                    work.add_done_callback(self._at_work.discard)
        finally:
            for work in self._at_work:
                work.cancel()
            await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _do(self, message: Any, receipt: str) -> None:
        await self._client.ack([receipt])
        if isinstance(message, TaskDelegation):
            if _UNSUPPORTED in media_types(message):
                await self._client.respond(message.message_id, _NOT_TAKEN, status="rejected")
            else:
                await self._answer(message.message_id, message_id(message))
        elif isinstance(message, TaskAnswer):
            await self._client.respond(message.task_id, _says("Thank you for the input"))
        elif isinstance(message, TaskUpdate) and message.task_id in self._over:
            self._over[message.task_id].set()

    async def _answer(self, task_id: str, asked: str) -> None:
        respond = self._client.respond
        if asked.startswith("tck-stream-artifact-chunked"):
            for number, text in enumerate(_CHUNKS):
                last = number == len(_CHUNKS) - 1
                chunk = {"artifactId": "tck-chunks", "parts": [{"text": text}]}
                await respond(
                    task_id,
                    {"a2a": {"artifact": chunk, "append": number > 0, "lastChunk": last}},
                    status="in_progress",
                )
            await respond(task_id)
        elif asked.startswith("test-resubscribe-message-id"):
            await respond(task_id, status="in_progress", note="working")
            over = self._over[task_id] = asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), HOLD_SECONDS)
            if not over.is_set():
                await respond(task_id)
        elif asked.startswith("tck-delayed-complete"):
            await respond(task_id, status="in_progress", note="working")
            await asyncio.sleep(DELAY_SECONDS)
            await respond(task_id, _says("Done after delay"))
        elif asked.startswith("tck-auth-required"):
            await respond(task_id, _AUTH, status="input_required")
        elif asked.startswith("tck-input-required"):
            await respond(task_id, "More input, please", status="input_required")
        elif asked.startswith("tck-reject-task"):
            await respond(task_id, "rejected", status="rejected")
        else:
            for prefix, begins, answer in _ANSWERS:
                if asked.startswith(prefix):
                    if begins:
                        await respond(task_id, status="in_progress", note="working")
                    await respond(task_id, answer)
                    return
            await respond(task_id, _says(f"Unhandled messageId prefix: {asked}"))


@contextlib.asynccontextmanager
async def at_work(relay: str, name: str = "tck", token: str | None = None) -> AsyncIterator[AsyncClient]:
    """Have the agent work at a relay."""
    async with AsyncClient(relay, token=token, agent_id=name) as client:
        await client.register(name, capabilities=["tck"], claim=False)
        task = asyncio.create_task(Agent(client).run())
        try:
            yield client
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _main(relay: str, name: str, token: str | None) -> None:
    async with at_work(relay, name, token):
        print(f"{relay.rstrip('/')}/a2a/{name}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", required=True, metavar="URL")
    parser.add_argument("--name", default="tck")
    parser.add_argument("--token", default=None)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(given.relay, given.name, given.token))
