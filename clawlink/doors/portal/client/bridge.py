"""The bridge beside OpenClaw: it reads the portal's websocket, wakes the agent, and acks once OpenClaw has the text.

A delivery is acked after an answer of 2xx, never before. While OpenClaw is away, the bridge holds what it has read. So
a restart of either side loses nothing. A text that OpenClaw refuses for good stays at the portal, and the owner is told
in the chat. Each contact has a line of its own: the texts of one keep their order, and hold up no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from clawlink import private
from clawlink.domain.backoff import backoff, spread
from clawlink.domain.terminal import cell
from clawlink.doors.portal.client.portal import Place
from clawlink.doors.portal.client.start_script import STATUS_FILE
from clawlink.doors.portal.rules.wake_texts import Turn, turn_of
from clawlink.timeouts import wait_for
from clawlink.wake.openclaw import COUNTED, KEPT, Gateway, NoGateway, OpenClaw, Outcome, pause

HOLD_SECONDS = 20.0
PING_SECONDS = 30.0
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 60.0
LOOK_SECONDS = 15.0
_MOST_FRAME_BYTES = 4 * 1024 * 1024
_MOST_DONE = 10_000
_CONFIGURATION = frozenset({401, 404})
_log = logging.getLogger("clawlink.bridge")


class Item(NamedTuple):
    """A delivery of the portal. ``id`` settles it; a portal of Agent P2P knows ``number`` alone.

    It takes no ack of a guest's or its owner's words: they have neither, and ``id`` tells them from others.
    """

    id: str
    number: int | None
    turn: Turn
    acked: bool = True


class Status:
    """The file that tells other programs how the bridge is."""

    def __init__(self, folder: Path, hub_url: str) -> None:
        self._path = folder / STATUS_FILE
        self._hub_url = hub_url
        self._last: tuple[str, str] | None = None

    def tell(self, status: str, message: str) -> None:
        """Write a status: starting, connected, disconnected, error or stopped."""
        if self._last == (status, message):
            return
        self._last = status, message
        _log.info("%s: %s", status, message)
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        told = {"status": status, "message": message, "timestamp": at, "hub_url": self._hub_url}
        try:
            private.write(self._path, json.dumps(told, ensure_ascii=False, indent=2).encode())
        except OSError as error:
            _log.warning("the status cannot be written: %s", error)


class Bridge:
    """A bridge between one portal and one OpenClaw. ``gateway`` is asked before each text: settings may be mended."""

    def __init__(self, portal: Place, gateway: Callable[[], Gateway], status: Status, *, ca: str | None = None) -> None:
        self._portal = portal
        self._urls = deque(portal.url.split(","))
        """The addresses of the portal's relays, the one to connect to at the front."""
        self._find = gateway
        self._status = status
        self._tls = ssl.create_default_context(cafile=ca) if ca else True
        self._gateway: Gateway | None = None
        self._lines: dict[str, deque[Item]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, Item] = {}
        """All that OpenClaw does not have yet, by delivery: in a line, or kept."""
        self._kept: dict[str, Item] = {}
        self._done: OrderedDict[str, None] = OrderedDict()
        """Deliveries that OpenClaw has: each may come again if its ack was lost."""
        self._unconfirmed: set[str] = set()
        """Deliveries that OpenClaw has, and whose acks the portal has not confirmed."""
        self._told: set[str] = set()
        self._mended = asyncio.Event()
        self._socket: Any = None
        self._session: aiohttp.ClientSession

    async def run(self) -> None:
        """Bridge until cancelled."""
        self._status.tell("starting", f"connecting to {self._portal.url}")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            self._session = session
            looking = asyncio.create_task(self._look())
            try:
                await self._connect_on()
            finally:
                tasks = [looking, *self._tasks.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    # -- the portal --------------------------------------------------------------------------------------------------

    async def _connect_on(self) -> None:
        failed = 0
        while True:
            began = time.monotonic()
            try:
                await self._stay_connected()
                why = "the portal has closed the connection"
            except aiohttp.WSServerHandshakeError as error:
                why = f"the portal answers {error.status}"
                if error.status in (401, 403):
                    why += ": it does not take the key; is AGENTP2P_API_KEY an owner key or an agent key of it?"
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                why = f"the portal does not answer: {cell(str(error))[:200] or type(error).__name__}"
            failed = 1 if time.monotonic() - began > MOST_PAUSE_SECONDS else failed + 1
            self._status.tell("error" if "key" in why else "disconnected", why)
            self._urls.rotate(-1)  # with several relays another one may be the active one
            await asyncio.sleep(
                spread(backoff(failed, first=FIRST_PAUSE_SECONDS, most=MOST_PAUSE_SECONDS), random.random())
            )

    async def _stay_connected(self) -> None:
        scheme, _, rest = self._urls[0].partition("://")
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws/agent"
        async with self._session.ws_connect(
            url,
            params={"acks": "all"},
            headers={"Authorization": f"Bearer {self._portal.key}"},
            heartbeat=PING_SECONDS,
            max_msg_size=_MOST_FRAME_BYTES,
            ssl=self._tls,
        ) as socket:
            self._socket = socket
            self._status.tell("connected", f"connected to {self._portal.url}")
            holding = asyncio.create_task(self._hold())
            try:
                await socket.send_json({"type": "sync_request"})
                async for received in socket:
                    if received.type is aiohttp.WSMsgType.TEXT:
                        await self._take(received.data)
            finally:
                self._socket = None
                holding.cancel()
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await self._send_hold(socket)

    async def _take(self, data: str) -> None:
        try:
            frame = json.loads(data)
        except ValueError:
            frame = None
        if not isinstance(frame, dict):
            _log.warning("a frame is no JSON object, and is left out")
            return
        if frame.get("type") == "sync_response":  # that of a portal of Agent P2P has the messages in it
            for one in frame.get("messages") or ():
                if isinstance(one, dict):
                    await self._bring({**one, "message_type": one.get("type"), "type": "new_message"})
            return
        if frame.get("type") == "ack_confirm":
            self._unconfirmed.difference_update(one for one in frame.get("deliveries") or () if isinstance(one, str))
        else:
            await self._bring(frame)

    async def _bring(self, frame: dict[str, Any]) -> None:
        """Put a delivery into its line, unless it is there, or OpenClaw has it."""
        turn = turn_of(frame)
        number = frame.get("id") if isinstance(frame.get("id"), int) else None
        given = frame.get("delivery")
        id = given if isinstance(given, str) else "" if number is None else f"message {number}"
        if turn is None:
            if isinstance(given, str):
                await self._ack(Item(given, None, Turn("", True, "")))
            return
        acked = bool(id)
        if not acked:
            id = f"{frame.get('type')} {frame.get('message_id')} {frame.get('created_at') or frame.get('timestamp')}"
        item = Item(id, None if isinstance(given, str) else number, turn, acked)
        if id in self._done:
            await self._ack(item)
        elif id not in self._waiting:
            self._waiting[id] = item
            self._queue(item)

    def _queue(self, item: Item) -> None:
        line = item.turn.line
        self._lines.setdefault(line, deque()).append(item)
        if line not in self._tasks:
            self._tasks[line] = asyncio.create_task(self._work(line))

    async def _ack(self, item: Item) -> None:
        """Ack a delivery. If the connection has gone, it comes again, and is acked then."""
        if not item.acked:
            return
        frame: dict[str, Any] = {"type": "ack", "deliveries": [item.id]}
        if item.number is not None:
            frame = {"type": "ack", "message_ids": [item.number]}
        else:
            self._unconfirmed.add(item.id)
        if self._socket is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self._socket.send_json(frame)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(HOLD_SECONDS)
            if self._socket is not None:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await self._send_hold(self._socket)

    async def _send_hold(self, socket: Any) -> None:
        if self._waiting and not socket.closed:
            await socket.send_json({"type": "hold", "deliveries": list(self._waiting)})

    # -- OpenClaw ----------------------------------------------------------------------------------------------------

    async def _work(self, line: str) -> None:
        """Wake for what is in a line, in its order."""
        waiting = self._lines[line]
        try:
            while waiting:
                await self._deliver(waiting[0])
                waiting.popleft()
        finally:
            del self._tasks[line], self._lines[line]

    async def _deliver(self, item: Item) -> None:
        failed = 0
        while True:
            outcome = await self._post(item)
            if outcome.kind == COUNTED:
                self._remember(item)
                await self._ack(item)
                return
            why = outcome.why or "OpenClaw does not take it"
            self._status.tell("error", why)
            if outcome.kind == KEPT:
                self._kept[item.id] = item
                await self._tell_owner(item, outcome, why)
                return
            failed += 1
            self._mended.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._mended.wait(), pause(failed, outcome))

    def _remember(self, item: Item) -> None:
        self._waiting.pop(item.id, None)
        self._done[item.id] = None
        while len(self._done) > _MOST_DONE:
            self._done.popitem(last=False)
        if self._socket is not None and not self._kept:
            self._status.tell("connected", f"connected to {self._portal.url}")

    async def _post(self, item: Item) -> Outcome:
        try:
            self._gateway = self._find()
        except NoGateway as error:
            return Outcome(KEPT, 401, str(error))
        openclaw = OpenClaw(self._session, self._gateway)
        if item.turn.external:
            return await openclaw.agent(item.turn.text, key=f"{self._portal.url} {item.id}", name="Agent P2P")
        return await openclaw.wake(item.turn.text)

    async def _tell_owner(self, item: Item, outcome: Outcome, why: str) -> None:
        """Tell the owner in the chat, once for a fault of the settings, and once for each text that is refused."""
        cause = str(outcome.status) if outcome.status in _CONFIGURATION else item.id
        if cause in self._told:
            return
        what = "texts for your agent wait" if outcome.status in _CONFIGURATION else f"a text ({item.turn.line}) waits"
        said = f"[bridge] OpenClaw 未接收消息 / {what} at the portal, because OpenClaw refuses: {cell(why)}"
        try:
            async with self._session.post(
                f"{self._urls[0]}/api/chat/owner/reply",
                json={"content": said},
                headers={"Authorization": f"Bearer {self._portal.key}"},
                allow_redirects=False,
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=30),
            ) as answer:
                if answer.status == 200:
                    self._told.add(cause)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            _log.warning("the owner could not be told: %s", cell(str(error))[:200])

    async def _look(self) -> None:
        """Look whether the settings of the gateway were mended; then all that was kept is tried again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found: Gateway | None = self._find()
            except NoGateway:
                found = None
            if found is not None and found != self._gateway:
                self._gateway = found
                self._mended.set()
                again, self._kept = self._kept, {}
                self._told.clear()
                for item in again.values():
                    self._queue(item)
