"""An agent for tests, over the official Agent Client Protocol library: the task's text says what it does.

A task may name several things, with a comma in between.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from acp import Agent, InitializeResponse, NewSessionResponse, PromptResponse, run_agent, text_block
from acp import update_agent_message as message
from acp.helpers import plan_entry, start_tool_call, tool_content, update_plan
from acp.schema import (
    BlobResourceContents,
    EmbeddedResourceContentBlock,
    PermissionOption,
    ResourceContentBlock,
    ToolCallUpdate,
)


class Example(Agent):  # type: ignore[misc]
    """Echoes, plans, asks for permission, makes files, or waits until it is cancelled."""

    def on_connect(self, conn: Any) -> None:
        self._client = conn
        self._cancelled = asyncio.Event()

    async def initialize(self, protocol_version: int, **kwargs: Any) -> InitializeResponse:
        return InitializeResponse(protocol_version=protocol_version)

    async def new_session(self, cwd: str, **kwargs: Any) -> NewSessionResponse:
        self._cwd = cwd
        return NewSessionResponse(session_id=uuid4().hex)

    async def cancel(self, session_id: str, **kwargs: Any) -> None:
        self._cancelled.set()

    async def prompt(self, session_id: str, prompt: list[Any], **kwargs: Any) -> PromptResponse:
        text = prompt[0].text
        task = json.loads(text[text.index("{") :])["task"]
        for part in task.split(", "):
            await getattr(self, f"_{part.split()[0]}", self._echo)(session_id, text, part)
        return PromptResponse(stop_reason="cancelled" if self._cancelled.is_set() else "end_turn")

    async def _say(self, session: str, block: Any) -> None:
        await self._client.session_update(session_id=session, update=message(block))

    async def _echo(self, session: str, text: str, task: str) -> None:
        await self._say(session, text_block(text))

    async def _plan(self, session: str, text: str, task: str) -> None:
        entries = [plan_entry("look", status="completed"), plan_entry("act", status="in_progress")]
        await self._client.session_update(session_id=session, update=update_plan(entries))
        call = start_tool_call("c", "Build it", kind="execute", content=[tool_content(text_block("x"))])
        await self._client.session_update(session_id=session, update=call)
        await self._say(session, text_block("built"))

    async def _ask(self, session: str, text: str, task: str) -> None:
        options = [
            PermissionOption(option_id="a", name="Allow", kind="allow_once"),
            PermissionOption(option_id="r", name="Reject", kind="reject_once"),
        ]
        call = ToolCallUpdate(
            tool_call_id="c", title="rm -rf build", kind=cast("Any", task.split()[1]), raw_input={"command": "rm"}
        )
        told = await self._client.request_permission(session_id=session, tool_call=call, options=options)
        chosen = getattr(told.outcome, "option_id", "nothing")
        await self._say(session, text_block(f"chosen: {chosen}"))

    async def _file(self, session: str, text: str, task: str) -> None:
        path = Path(self._cwd) / "made.txt"
        path.write_text("made here")
        await self._say(session, ResourceContentBlock(type="resource_link", uri=path.as_uri(), name="made.txt"))
        data = base64.b64encode(b"png").decode()
        blob = BlobResourceContents(uri="memory://pic.png", blob=data, mime_type="image/png")
        await self._say(session, EmbeddedResourceContentBlock(type="resource", resource=blob))
        await self._say(session, text_block("two files"))

    async def _wait(self, session: str, text: str, task: str) -> None:
        await self._say(session, text_block(f"pid {os.getpid()}"))
        await self._client.session_update(
            session_id=session, update=update_plan([plan_entry(f"pid {os.getpid()}", status="in_progress")])
        )
        await self._cancelled.wait()
        print("cancelled in good order", file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(run_agent(cast("Any", Example)()))
