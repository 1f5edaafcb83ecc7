"""The remote agents: each is an agent of the mesh, for which the door claims tasks and forwards them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging

import aiohttp
from msgspec import UNSET

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import AttemptEnd, Delivery
from clawlink.domain.message import PlainMessage, TaskAnswer, TaskDelegation, TaskUpdate, decode
from clawlink.doors.a2a.server.forwarded_tasks import FILES_AT_ONCE, Away, ForwardedTask, Job, forget
from clawlink.doors.a2a.server.remote_calls import RemoteCalls
from clawlink.doors.a2a.wire.list_file import Watch
from clawlink.doors.a2a.wire.remotes import REMOTES, Remote
from clawlink.errors import ClawLinkError, UnknownAgent
from clawlink.protocol import requests
from clawlink.relay.ids import receipt
from clawlink.relay.kinds import Kind
from clawlink.relay.mailbox.consumer import Consumer
from clawlink.relay.relay import Relay

_log = logging.getLogger("clawlink.a2a")

_MACHINE = "a2a"
_SHARED = "a2a remote"
_LEASE_SECONDS = 60.0
_CREDIT = 32
_TOUCH_SECONDS = 20.0
_RETRY_SECONDS = 1.0
_CONNECTIONS = 64
_PAGE = 100
_NO_TASK = "a remote agent of A2A takes tasks, and messages about a task that it has"
_OPEN = ("delivered", "in_progress", "input_required")


class Remotes:
    """The remote agents of a file, which is read again once it has changed."""

    def __init__(self, relay: Relay, file: str) -> None:
        self._relay = relay
        self._file = file
        self._watch = Watch(file)
        self._wanted: dict[str, Remote] = {}
        self._open: dict[str, _Remote] = {}
        self._refused: dict[str, str] = {}  # by name, why
        self._session: aiohttp.ClientSession | None = None
        self._touched = 0.0
        self._turns = asyncio.Semaphore(FILES_AT_ONCE)
        relay.keep(Kind(Away, forget))

    @property
    def count(self) -> int:
        """How many remote agents there are."""
        return len(self._open)

    @property
    def forwarded_tasks(self) -> int:
        """How many tasks they do at this moment."""
        return sum(len(remote.forwarded_tasks) for remote in self._open.values())

    async def upkeep(self, now: float) -> None:
        """Read the file again once it has changed, and keep the agents online, while this relay leads."""
        if not self._relay.leads:
            await self._let_go()
            return
        await self._reload()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            await self._open_missing()
            for id in list(self._open):
                await self._relay.agents.touch(id)

    async def _let_go(self) -> None:
        """Leave the agents and their forwarded tasks to the relay that leads."""
        self._touched = 0.0
        async with contextlib.AsyncExitStack() as stack:
            while self._open:
                stack.push_async_callback(self._open.popitem()[1].close)

    async def close(self) -> None:
        """Stop. The forwarded tasks go on after a restart with ``--data``, or at another relay of the mesh."""
        try:
            await self._let_go()
        finally:
            if self._session is not None:
                await self._session.close()

    async def _reload(self) -> None:
        if self._relay.draining:
            return
        try:
            if not self._watch.changed():
                return
            self._wanted = wanted = {remote.name: remote for remote in REMOTES.read(self._file)}
        except (OSError, ClawLinkError) as error:  # the agents that are known stay
            _log.warning("the file of remote agents cannot be read; they stay", extra={"reason": str(error)})
            return
        for name, open in list(self._open.items()):
            if wanted.get(name) != open.remote:
                del self._open[name]
                await open.close()
                if name not in wanted:
                    await self._relay.deregistration.leave(open.agent)
        await self._open_missing()

    async def _open_missing(self) -> None:
        """Register the agents that are not here yet: another agent may have had the name until now."""
        if self._relay.draining:
            return
        for name, remote in self._wanted.items():
            if name in self._open:
                continue
            try:
                self._open[name] = await self._begin(remote)
                self._refused.pop(name, None)
            except ClawLinkError as error:
                if self._refused.get(name) != type(error).__name__:
                    _log.warning("a remote agent was refused", extra={"agent": name, "reason": error.message})
                self._refused[name] = type(error).__name__

    async def _begin(self, remote: Remote) -> _Remote:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        key = hmac.new(self._relay.core.secret, f"a2a remote {remote.name}".encode(), hashlib.sha256).hexdigest()
        ask = requests.Register(
            agent_id=remote.name,
            name=remote.name,
            capabilities=remote.capabilities,
            description=remote.description or f"A remote agent of A2A, at {remote.url}"[:200],
            subscriptions=[],
            claim=True,
            notices=False,
        )
        done = await self._relay.agents.register(ask, machine=_MACHINE, agent_key=key, address=_SHARED, by_door=True)
        opened = _Remote(self._relay, remote, done.agent, RemoteCalls(self._session, remote), self._turns)
        await opened.resume()
        return opened


class _Remote:
    """A remote agent: the reader of its mailbox, and its forwarded tasks by their tasks."""

    def __init__(
        self, relay: Relay, remote: Remote, agent: Agent, calls: RemoteCalls, turns: asyncio.Semaphore
    ) -> None:
        self.remote = remote
        self.forwarded_tasks: dict[str, ForwardedTask] = {}
        self._relay = relay
        self.agent = agent
        self._calls = calls
        self._turns = turns
        self._at_work: set[asyncio.Task[None]] = set()
        self._reader = asyncio.create_task(self._read())

    async def resume(self) -> None:
        """Go on with the tasks that it had before a restart."""
        after: str | None = None
        while True:
            ask = requests.TasksQuery(assignee=self.agent.id, status="open", limit=_PAGE, after=after)
            page = await self._relay.task_views.list(self.agent, ask)
            for view in page.tasks:
                if view.status in _OPEN and view.acked_at is not None:
                    self._send(Job(view.task_id, view.task, view.context, view.attachments))
            after = page.next
            if after is None:
                return

    async def close(self) -> None:
        """Stop the reader and all forwarded tasks; the remote tasks go on."""
        self._reader.cancel()
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(self._reader, *self._at_work, return_exceptions=True)

    async def _read(self) -> None:
        consumer = self._relay.consumer(self.agent, lease=_LEASE_SECONDS, credit=_CREDIT)
        try:
            while not self._relay.draining:
                try:
                    await self._take(consumer)
                except UnknownAgent:
                    await asyncio.sleep(_RETRY_SECONDS)
                except Exception:
                    _log.exception("reading the mailbox of a remote agent failed; it goes on")
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            await asyncio.shield(consumer.close())

    async def _take(self, consumer: Consumer) -> None:
        touch = self._relay.agents.touch
        taken, _ = await consumer.next(self.agent, tick=lambda: touch(self.agent.id))
        for d in taken:
            mark = [receipt(str(d.receipt), d.id)]
            if self._takes(d):
                await self._relay.acks.ack(self.agent.id, mark)
            else:
                await self._relay.acks.nack(
                    self.agent.id, mark, _RETRY_SECONDS, note=_NO_TASK, end=AttemptEnd.UNDELIVERABLE
                )
            consumer.settled(mark)

    def _takes(self, d: Delivery) -> bool:
        """Deal with a message; return False for one that no forwarded task is about."""
        message = decode(d.body)
        if isinstance(message, TaskDelegation):
            attached = () if message.attachments is UNSET else message.attachments
            self._send(Job(message.message_id, message.task, message.context, attached))
            return True
        about = message.in_reply_to if isinstance(message, PlainMessage) else getattr(message, "task_id", None)
        forwarded = self.forwarded_tasks.get(about or "")
        if isinstance(message, TaskAnswer | PlainMessage) and forwarded is not None:
            forwarded.add(message.message_id, message.content)
        elif isinstance(message, TaskUpdate) and forwarded is not None:
            forwarded.cancel()
        return not isinstance(message, PlainMessage) or forwarded is not None

    def _send(self, job: Job) -> None:
        """Begin a forwarded task, unless it is under way: a task may come twice."""
        if job.id in self.forwarded_tasks:
            return
        forwarded = ForwardedTask(
            self._relay, self.agent, self._calls, job, self._turns, streaming=self.remote.streaming
        )
        self.forwarded_tasks[job.id] = forwarded
        work = asyncio.create_task(self._run(forwarded, job.id))
        self._at_work.add(work)
        work.add_done_callback(self._at_work.discard)

    async def _run(self, forwarded: ForwardedTask, task_id: str) -> None:
        try:
            await forwarded.run()
        except Exception:
            _log.exception("a forwarded task failed", extra={"task_id": task_id})
        finally:
            with contextlib.suppress(KeyError):
                del self.forwarded_tasks[task_id]
