"""A forwarded task: a task of the mesh that a remote agent does, from its message to its end.

The id of the remote task is a record, so that the relay goes on with it after a restart with ``--data``. The id of the
message is that of the task. If the relay ends between the message and the record, it sends the same message again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from msgspec import Raw

from clawlink.domain.agent import Agent
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.limits import MAX_DEADLINE_SECONDS
from clawlink.domain.message import Attachment
from clawlink.domain.record import BareRecord, text_bytes
from clawlink.domain.shares import Origin, holder
from clawlink.doors.a2a import outward
from clawlink.doors.a2a.outward import RemoteTask, Report
from clawlink.doors.a2a.rules.states import Json
from clawlink.doors.a2a.server.remote_calls import Refused, RemoteCalls
from clawlink.errors import BadRequest, ClawLinkError, Conflicted, NotAllowed, NotFound, OverLimit, Unavailable
from clawlink.protocol import requests
from clawlink.relay.core import retrying
from clawlink.relay.relay import Relay
from clawlink.store.base import Drop, Put
from clawlink.store.records import register

_log = logging.getLogger("clawlink.a2a")

FIRST_SECONDS = 0.5
MOST_SECONDS = 30.0
CANCEL_ATTEMPTS = 3
MAX_FILES_BYTES = 8 * 1024 * 1024
FILES_AT_ONCE = 4
"""The number of messages that are in memory with their files at a time, for all remote agents together."""
_PIECE_BYTES = 256 * 1024
# The record of a forwarded task outlives each task: no deadline is longer.
KEPT_SECONDS = MAX_DEADLINE_SECONDS + 86_400.0
_RECORD_BYTES = 300
# The relay knows of these errors that the task here has ended, or is another agent's.
_OVER = (Conflicted, NotAllowed, NotFound)


T = TypeVar("T")


class _Stopped(Exception):
    """The task here has ended, or the relay shuts down."""


class Away(BareRecord, frozen=True, kw_only=True, gc=False):
    """The remote task that does a task of the mesh. Its partition is itself."""

    agent_id: str
    remote_id: str
    remote_context: str
    ends_at: float

    @property
    def partition_key(self) -> str:
        return "a2a away " + self.id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(None, holder(self.agent_id, None))

    @property
    def footprint(self) -> int:
        return _RECORD_BYTES + sum(map(text_bytes, (self.id, self.agent_id, self.remote_id, self.remote_context)))


register(Away, "a2a_away")


def forget(away: Away, now: float) -> None:
    """Forget the record of a forwarded task whose time is over."""
    return


class Job(NamedTuple):
    """The parts of a task that a forwarded task needs."""

    id: str
    task: Any
    context: Any
    attachments: Sequence[Attachment]


class ForwardedTask:
    """A task that a remote agent does."""

    def __init__(
        self, relay: Relay, agent: Agent, calls: RemoteCalls, job: Job, turns: asyncio.Semaphore, *, streaming: bool
    ) -> None:
        self._relay = relay
        self._core = relay.core
        self._agent = agent
        self._calls = calls
        self._job = job
        self._id = job.id
        self._turns = turns
        self._streaming = streaming
        self._more: list[tuple[str, Any]] = []  # later messages of the requester, with their ids
        self._news = asyncio.Event()
        self._cancelled = False

    def add(self, id: str, content: Any) -> None:
        """Pass a later message of the requester on."""
        self._more.append((id, content))
        self._news.set()

    def cancel(self) -> None:
        """Cancel the remote task: the task here has ended."""
        self._cancelled = True
        self._news.set()

    async def run(self) -> None:
        """Have the remote agent do it, and report what it says, until the end."""
        try:
            task = await self._begin()
            if task is not None:
                await self._follow(task)
        except _Stopped:
            return
        except _OVER as over:
            _log.info("a forwarded task ended here first", extra={"task_id": self._id, "reason": over.message})
            self._cancelled = True
        except (Refused, BadRequest) as refused:
            with contextlib.suppress(ClawLinkError, _Stopped):
                await self._report(Report("failed", None, refused.message[: outward.MAX_NOTE]))
                await self._drop()
        finally:
            if self._cancelled:
                await asyncio.shield(self._cancel_there())

    async def _begin(self) -> RemoteTask | None:
        """Send the message, or find the remote task of an earlier time; None if the answer was the end."""
        away = await self._core.store.get(Away, self._id)
        if away is not None:
            return outward.known(away.remote_id, away.remote_context)
        hops, most = outward.hops(self._job.context), self._relay.limits.max_hops
        if hops >= most:
            raise BadRequest(
                f"the task came through {hops} relays, and may through {most}: remote agents that lead to each other "
                "go in circles; remove one of them"
            )
        sent = await self._again(self._send_with_files if self._job.attachments else lambda: self._send([]))
        if sent.task is None:
            if sent.message is None:
                raise BadRequest("the remote agent answered with neither a task nor a message")
            await self._report(Report("completed", outward.plain(sent.message)))
            return None
        await self._keep(sent.task)
        told = outward.report(None, sent.task)
        await self._report(told or Report("in_progress"))
        if told is None or not told.ends:
            return sent.task
        await self._drop()
        return None

    async def _send_with_files(self) -> outward.Sent:
        """Read the files and send the message, once. A pause before the next attempt holds none of them in memory."""
        async with self._calls.turns, self._turns:
            self._require_going_on()
            files = [await self._file(one) for one in self._job.attachments]
            try:
                return await self._send(files)
            finally:
                for file in files:  # what remembers a failed attempt remembers no file
                    file.clear()

    async def _send(self, files: list[Json]) -> outward.Sent:
        message = outward.message(self._id, self._job.task, context=self._job.context)
        return await self._say({**message, "parts": [*message["parts"], *files]}, outward.Sent)

    async def _say(self, message: Json, kind: type[T]) -> T:
        ask = {"message": message, "configuration": {"returnImmediately": True}}
        return await self._calls.call("SendMessage", ask, kind)

    async def _file(self, attached: Attachment) -> Json:
        """Return an attached file as a raw part. Raises BadRequest for one that is gone, or too large to go along."""
        if sum(one.size for one in self._job.attachments) > MAX_FILES_BYTES:
            raise BadRequest(
                f"the attached files have more than {MAX_FILES_BYTES} bytes, which a message to a remote agent may not"
            )
        reads = self._relay.file_reads
        try:
            file, version = await reads.find(attached.file_key, attached.version, asker=self._agent)
            pieces, left = [b'"'], b""
            async with reads.open(file, version, self._agent.id) as content:
                while content.at < version.content.size:
                    left += await content.read(_PIECE_BYTES)
                    # Three bytes are four characters, so whole threes join without padding.
                    whole = len(left) if content.at >= version.content.size else len(left) // 3 * 3
                    pieces.append(base64.b64encode(left[:whole]))
                    left = left[whole:]
                    await asyncio.sleep(0)
        except NotFound:
            raise BadRequest(f"the attached file {attached.name!r} is gone") from None
        # Raw is copied into the message, not looked through.
        raw = Raw(await asyncio.to_thread(b"".join, [*pieces, b'"']))
        return {"raw": raw, "filename": attached.name, "mediaType": version.content_type}

    async def _follow(self, task: RemoteTask) -> None:
        """Look at the remote task again and again, at once when it streams a change, until it ends."""
        listening: asyncio.Task[None] | None = None
        pause = FIRST_SECONDS
        try:
            while True:
                self._news.clear()
                while self._more:
                    id, content = self._more[0]
                    message = outward.message(id, content, task=task)
                    await self._again(partial(self._say, message, Raw))
                    self._more.pop(0)
                now = await self._again(partial(self._calls.call, "GetTask", {"id": task.id}, RemoteTask))
                told = outward.report(task, now)
                task = now
                if told is not None:
                    await self._report(told)
                    pause = FIRST_SECONDS
                    if told.ends:
                        await self._drop()
                        return
                if self._streaming and listening is None:
                    listening = asyncio.create_task(self._listen(task.id))
                await self._wait(pause)
                pause = min(2 * pause, MOST_SECONDS)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, remote_id: str) -> None:
        """Wake the forwarded task at each event of the remote task's stream. A stream that ended is opened again."""
        while True:
            async for _ in self._calls.changes(remote_id):
                self._news.set()
            self._news.set()
            await asyncio.sleep(MOST_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Wait for news, this long at most. Raises _Stopped once the task here has ended, or the relay goes."""
        # Not wait_for: before Python 3.12 it may swallow that it was cancelled.
        timer = asyncio.get_running_loop().call_later(seconds, self._news.set)
        try:
            await self._news.wait()
        finally:
            timer.cancel()
        self._require_going_on()

    def _require_going_on(self) -> None:
        if self._cancelled or self._relay.draining:
            raise _Stopped

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the remote agent, again after a failure that may pass. Raises Refused, BadRequest, _Stopped."""
        failed = 0
        while True:
            self._require_going_on()
            try:
                return await call()
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    _log.warning("a remote agent fails; it is tried again", extra={"reason": error.message[:200]})
            # Only here is the error gone: its traceback holds the message with its files.
            self._news.clear()
            await self._wait(spread(backoff(failed, first=FIRST_SECONDS, most=MOST_SECONDS), random.random()))

    async def _report(self, told: Report) -> None:
        """Report on the task here. Raises one of ``_OVER`` if it has ended, or is another agent's by now."""
        ask = requests.Respond(
            from_agent=self._agent.id, message_id=self._id, result=told.result, status=told.status, note=told.note
        )
        failed = 0
        while True:
            try:
                await self._relay.tasks.respond(self._agent, ask)
                return
            except (Unavailable, OverLimit):
                failed += 1
                if self._relay.draining:
                    raise _Stopped from None
                await asyncio.sleep(backoff(failed, first=FIRST_SECONDS, most=MOST_SECONDS))

    @retrying
    async def _keep(self, task: RemoteTask) -> None:
        core = self._core
        away = Away(
            id=self._id,
            version=1,
            agent_id=self._agent.id,
            remote_id=task.id,
            remote_context=task.context_id,
            ends_at=core.clock() + KEPT_SECONDS,
        )
        await core.memory.require(away.footprint, away.origin, answers=True)
        await core.commit(away.partition_key, Put(away))

    @retrying
    async def _drop(self) -> None:
        away = await self._core.store.get(Away, self._id)
        if away is not None:
            await self._core.commit(away.partition_key, Drop(away))

    async def _cancel_there(self) -> None:
        """Cancel the remote task, if there is one. It may have ended, or not answer: the task here has ended anyway."""
        away = await self._core.store.get(Away, self._id)
        if away is None:
            return
        for attempt in range(1, CANCEL_ATTEMPTS + 1):
            try:
                await self._calls.call("CancelTask", {"id": away.remote_id}, Raw)
                break
            except Unavailable:
                if attempt < CANCEL_ATTEMPTS:
                    await asyncio.sleep(backoff(attempt, first=FIRST_SECONDS, most=MOST_SECONDS))
            except (Refused, BadRequest):
                break
        await self._drop()
