"""Webhooks of tasks: their records, and the delivery of each event to each of them.

Each webhook follows its task on its own, so a slow one holds up no other. After a restart with ``--data`` it gets the
task as it is, and then each change.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Sequence

import aiohttp
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from clawlink.domain.agent import Agent
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.record import text_bytes
from clawlink.domain.shares import Origin, holder
from clawlink.doors.a2a.rules import tasks, updates
from clawlink.doors.a2a.rules.states import FINAL, Json, UrlOf
from clawlink.doors.a2a.server import streams
from clawlink.doors.a2a.server.calls import Calls, Target
from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.screening import fault, require_url
from clawlink.doors.a2a.wire.shapes import PushConfig
from clawlink.protocol.replies import TaskView
from clawlink.relay.core import retrying
from clawlink.relay.kinds import Kind
from clawlink.relay.relay import Relay
from clawlink.server.outgoing import ScreenedResolver
from clawlink.store.base import Drop, Put
from clawlink.store.records import register

_log = logging.getLogger("clawlink.a2a")

MAX_OF_TASK = 10
MAX_WEBHOOKS = 10_000
ATTEMPTS = 5
POST_SECONDS = 15.0
_FIRST_SECONDS = 1.0
_MOST_SECONDS = 30.0
_WAIT_SECONDS = 600.0
_PAGE = 200
_RECORD_BYTES = 400
_MEDIA_TYPE = "application/a2a+json"
_TOKEN = "X-A2A-Notification-Token"  # noqa: S105
ALL = " a2a webhooks"
NEW = " a2a webhooks that are new"
_TAKEN_AT_ONCE = 100
_encode = msgspec.json.Encoder().encode


class Webhook(Struct, frozen=True, kw_only=True, gc=False):
    """A webhook of a task. Its partition is the task's own, of webhooks alone.

    ``requester`` is the client's agent, ``key_hash`` of its key; ``to`` and ``path`` name the target, and ``base`` is
    where the client reached the relay. ``ends_at`` is when it is forgotten, None while its task goes on. An
    ``old`` webhook is of A2A 0.3. With several relays, a webhook is ``taken`` once the relay that leads knows of it.
    """

    id: str
    version: int
    task_id: str
    requester: str
    key_hash: str | None
    to: str
    path: str
    base: str
    config: PushConfig
    address: str | None = None
    ends_at: float | None = None
    old: bool = False
    taken: bool = True

    @property
    def partition_key(self) -> str:
        return "a2a webhooks " + self.task_id

    @property
    def origin(self) -> Origin:
        """The address and the agent that it counts for."""
        return Origin(self.address, holder(self.requester, self.key_hash))

    @property
    def index_keys(self) -> tuple[str, ...]:
        return (ALL, of_task(self.task_id), *(() if self.taken else (NEW,)))

    @property
    def weight(self) -> int:
        return 0

    @property
    def footprint(self) -> int:
        config = self.config
        texts = (self.id, config.url, config.token, self.path, self.base, self.to)
        known = config.authentication
        return _RECORD_BYTES + sum(map(text_bytes, texts)) + (0 if known is None else text_bytes(known.credentials))


def of_task(task_id: str) -> str:
    """Return the index key of a task's webhooks."""
    return "a2a webhook of " + task_id


def _forget(webhook: Webhook, now: float) -> None:
    return None


register(Webhook, "a2a_webhook")


class Push:
    """The webhooks of one relay."""

    def __init__(self, relay: Relay, calls: Calls, url_of: Callable[[str, str, str], UrlOf], *, private: bool) -> None:
        """``url_of`` returns the addresses of a task's files, by base, path and task."""
        self._core = relay.core
        self._relay = relay
        self._calls = calls
        self._url_of = url_of
        self._private = private
        self._following: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._leads = False
        relay.keep(Kind(Webhook, _forget))

    @property
    def count(self) -> int:
        """How many webhooks wait for news of their tasks."""
        return len(self._following)

    async def upkeep(self) -> None:
        """Deliver for all webhooks while this relay leads, and for none while another relay does."""
        if self._leads != self._relay.leads:
            self._leads = self._relay.leads
            await (self._take_all() if self._leads else self._stop())
        elif self._leads and self._core.peers is not None:
            for webhook in (await self._core.store.page(Webhook, NEW, limit=_TAKEN_AT_ONCE)).records:
                await self._take(webhook.id)

    @retrying
    async def _take(self, id: str) -> None:
        """Begin with a webhook that another relay has added."""
        webhook = await self._core.store.get(Webhook, id)
        if webhook is None or webhook.taken:
            return
        webhook = replace(webhook, version=webhook.version + 1, taken=True)
        await self._core.commit(webhook.partition_key, Put(webhook))
        if webhook.ends_at is None:
            self._follow(webhook, None)

    async def _take_all(self) -> None:
        """Go on with the webhooks that the store has."""
        after: str | None = None
        while True:
            page = await self._core.store.page(Webhook, ALL, after, _PAGE)
            for webhook in page.records:
                if webhook.ends_at is None:
                    self._follow(webhook, None)
            after = page.after
            if after is None:
                return

    async def close(self) -> None:
        """Stop all deliveries. They go on after a restart with ``--data``, or at another relay of the mesh."""
        try:
            await self._stop()
        finally:
            if self._session is not None:
                await self._session.close()

    async def _stop(self) -> None:
        following = list(self._following.values())
        for task in following:
            task.cancel()
        if following:
            await asyncio.wait(following)

    # -- configurations ----------------------------------------------------------------------------------------------

    def require(self, config: PushConfig) -> None:
        """Refuse a webhook that may not be called. Raises A2AError."""
        require_url(config.url, private=self._private)

    async def create(
        self, caller: Agent, target: Target, base: str, view: TaskView, config: PushConfig, *, old: bool
    ) -> PushConfig:
        """Add a webhook to a task, or replace the one of that id. Raises A2AError, StorageFull."""
        self.require(config)
        config = replace(config, id=config.id or str(uuid.uuid4()), task_id=view.task_id)
        webhook = await self._put(caller, target, base, view, config, old=old)
        if webhook.ends_at is None and webhook.taken:
            self._follow(webhook, view)
        return config

    @retrying
    async def _put(
        self, caller: Agent, target: Target, base: str, view: TaskView, config: PushConfig, *, old: bool
    ) -> Webhook:
        core = self._core
        known = await self._of(view.task_id)
        before = next((one for one in known if one.config.id == config.id), None)
        if before is None and (len(known) >= MAX_OF_TASK or self.count >= MAX_WEBHOOKS):
            most = MAX_OF_TASK if len(known) >= MAX_OF_TASK else MAX_WEBHOOKS
            whose = "a task" if len(known) >= MAX_OF_TASK else "this relay"
            raise A2AError("UNSUPPORTED_OPERATION", f"{whose} has {most} webhooks at most; delete one first")
        ended = tasks.state(view) in FINAL
        webhook = Webhook(
            id=f"{view.task_id}/{config.id}",
            version=1 if before is None else before.version + 1,
            task_id=view.task_id,
            requester=caller.id,
            key_hash=caller.key_hash,
            to=target.to,
            path=target.path,
            base=base,
            config=config,
            address=caller.address,
            ends_at=core.clock() + core.limits.retention if ended else None,
            old=old,
            taken=self._leads,
        )
        if before is None:
            await core.memory.require(webhook.footprint, webhook.origin)
        await core.commit(webhook.partition_key, Put(webhook))
        return webhook

    async def get(self, view: TaskView, id: str) -> PushConfig:
        """Return a webhook of a task. Raises A2AError."""
        for webhook in await self._of(view.task_id):
            if webhook.config.id == id:
                return webhook.config
        raise A2AError("TASK_NOT_FOUND", f"task {view.task_id} has no webhook {id!r}", field="id")

    async def all(self, view: TaskView) -> list[PushConfig]:
        """Return all webhooks of a task."""
        return [webhook.config for webhook in await self._of(view.task_id)]

    @retrying
    async def delete(self, view: TaskView, id: str) -> None:
        """Take a webhook off a task, if it is there."""
        for webhook in await self._of(view.task_id):
            if webhook.config.id == id:
                await self._core.commit(webhook.partition_key, Drop(webhook))
                following = self._following.get(webhook.id)
                if following is not None:
                    following.cancel()

    async def _of(self, task_id: str) -> list[Webhook]:
        return list((await self._core.store.page(Webhook, of_task(task_id), limit=MAX_OF_TASK + 1)).records)

    # -- delivery ----------------------------------------------------------------------------------------------------

    def _follow(self, webhook: Webhook, view: TaskView | None) -> None:
        before = self._following.get(webhook.id)
        if before is not None:
            before.cancel()
        task = asyncio.create_task(self._run(webhook, view))
        self._following[webhook.id] = task

        def over(done: asyncio.Task[None]) -> None:
            if self._following.get(webhook.id) is done:
                del self._following[webhook.id]

        task.add_done_callback(over)

    async def _run(self, webhook: Webhook, view: TaskView | None) -> None:
        """Deliver the events after ``view``, or the whole task first if there is none. Ends with the task."""
        try:
            caller = await self._relay.agents.resolve(webhook.requester)
            target = Target(webhook.to, webhook.path)
            url_of = self._url_of(webhook.base, webhook.path, webhook.task_id)
            if view is None:
                view = await self._calls.own(caller, target, webhook.task_id)
                await self._tell(webhook, view, url_of, [{"task": tasks.task(view, url_of)}])
            known = updates.told(view)
            del view
            if known.state not in FINAL:
                following = streams.events(
                    self._relay, self._calls, caller, webhook.task_id, known, url_of, wait=_WAIT_SECONDS, last=FINAL
                )
                async for change in following:
                    await self._tell(webhook, change.view, url_of, change.events)
                    del change
            if not self._relay.draining:
                await self._end(webhook.id)
        except A2AError:  # the task is forgotten
            await self._end(webhook.id)
        except Exception:
            _log.exception("following a task for a webhook failed", extra={"task_id": webhook.task_id})

    @retrying
    async def _end(self, id: str) -> None:
        """Keep the record for as long as the ended task is kept."""
        webhook = await self._core.store.get(Webhook, id)
        if webhook is not None and webhook.ends_at is None:
            ends_at = self._core.clock() + self._core.limits.retention
            ended = replace(webhook, version=webhook.version + 1, ends_at=ends_at)
            await self._core.commit(webhook.partition_key, Put(ended))

    async def _tell(self, webhook: Webhook, view: TaskView, url_of: UrlOf, events: Sequence[Json]) -> None:
        """Post events. A webhook of 0.3 gets the task in their place."""
        if webhook.old and events:
            events = [v0_3.task(tasks.task(view, url_of))]
        for event in events:
            if await self._core.store.get(Webhook, webhook.id) is not None:  # another relay may have deleted it
                await self._deliver(webhook, event)

    async def _deliver(self, webhook: Webhook, event: Json) -> None:
        """Post an event, again after a failure; after the last attempt it is logged and left out."""
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reason = await self._post(webhook.config, _encode(event))
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
            if not reason:
                return
            if attempt < ATTEMPTS:
                await asyncio.sleep(spread(backoff(attempt, first=_FIRST_SECONDS, most=_MOST_SECONDS), random.random()))
        facts = {"task_id": webhook.task_id, "attempts": ATTEMPTS, "reason": reason[:200]}
        _log.warning("a webhook of A2A does not take an event; it is left out", extra=facts)

    async def _post(self, config: PushConfig, body: bytes) -> str:
        """Post a body; return the reason of a failure, empty if there is none."""
        if self._session is None:
            resolver = None if self._private else ScreenedResolver(fault)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True),
                timeout=aiohttp.ClientTimeout(total=POST_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
            )
        require_url(config.url, private=self._private)
        headers = {"Content-Type": _MEDIA_TYPE, "A2A-Version": "1.0"}
        if config.token:
            headers[_TOKEN] = config.token
        if config.authentication is not None:
            headers["Authorization"] = f"{config.authentication.scheme} {config.authentication.credentials}".strip()
        async with self._session.post(config.url, data=body, headers=headers, allow_redirects=False) as response:
            return "" if 200 <= response.status < 300 else f"HTTP {response.status}"
