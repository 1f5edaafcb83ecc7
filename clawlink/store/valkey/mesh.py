"""A relay's part in a mesh of several: its store, what it hears of the others, their time, and the lead in upkeep."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from clawlink.store.base import Failed
from clawlink.store.events import Event
from clawlink.store.valkey import scripts
from clawlink.store.valkey.contents import SharedBlobs
from clawlink.store.valkey.link import Link, LinkError, ReplyError
from clawlink.store.valkey.primary import Place
from clawlink.store.valkey.server import StoreError, loss
from clawlink.store.valkey.store import LAYOUT, ValkeyStore
from clawlink.store.valkey.wire import Wire

# A relay that looks after the records has the lead for this long after it said so last.
_LEAD_SECONDS = 10
# If no relay was there for longer than this, agents could not be heard meanwhile.
_AWAY_SECONDS = 3
# A file that only one may read is handed out by one relay for this long after it said so last.
_HOLD_SECONDS = 30
_PING_SECONDS = 5.0
_PAUSE_SECONDS = 0.25
_TIME_SECONDS = 10.0
_SWEEP_SECONDS = 60.0
_SECRET_BYTES = 24
_log = logging.getLogger("clawlink.store")

_encode = msgspec.msgpack.Encoder().encode


class _News(msgspec.Struct, frozen=True, array_like=True):
    """The events of one relay, of one turn of its event loop. Without events, some of them were lost."""

    relay: str
    events: tuple[Event, ...]


_decode = msgspec.msgpack.Decoder(_News).decode


class MeshTime:
    """The time of the server, in seconds since the epoch: a steady clock, set to the server's again and again."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._offset = 0.0

    def __call__(self) -> float:
        return self._steady() + self._offset

    async def follow(self, wire: Wire) -> None:
        """Ask the server, and be right by half of the time that the answer took. Raises Failed."""
        took, offset = float("inf"), 0.0
        for _ in range(3):
            asked = self._steady()
            seconds, microseconds = await wire.call("TIME")
            answered = self._steady()
            if answered - asked < took:
                took = answered - asked
                offset = int(seconds) + int(microseconds) / 1e6 - (asked + answered) / 2
        if not self._offset or abs(offset - self._offset) > took / 2:
            self._offset = offset


class Mesh:
    """A relay of several over a server. Make it with ``open``, and call ``close`` at the end."""

    def __init__(
        self, url: str, prefix: str, blobs: Path | None, steady: Callable[[], float], replicas: int = 0
    ) -> None:
        self._wire = Wire(url, prefix, replicas)
        self.store = ValkeyStore(self._wire, prefix)
        self.blobs = SharedBlobs(self._wire, self.store, blobs)
        self.clock = MeshTime(steady)
        self.secret = b""
        self.warnings: list[str] = []
        """Sentences about the server that the operator should read."""
        self._id = secrets.token_hex(8)
        self._base = self.store.base
        self._own = _encode(_News(self._id, ()))[:-1]  # the first bytes of what it told itself
        self._told: list[Event] = []
        self._untold = False  # some events could not be sent
        self._hear: Callable[[Event], None] = lambda event: None
        self._missed: Callable[[], None] = lambda: None
        self._listening: asyncio.Task[None] | None = None
        self._time_asked = self._swept = -float("inf")
        self._steady = steady
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        prefix: str = "clawlink",
        blobs: str | None = None,
        steady: Callable[[], float],
        replicas: int = 0,
    ) -> Mesh:
        """Join the mesh of this prefix. A commit is answered when this number of ``replicas`` has it.

        Raises StoreError with a sentence that has no password.
        """
        try:
            mesh = cls(url, prefix, None if blobs is None else Path(blobs), steady, replicas)
        except ValueError:  # their words may have the password
            raise StoreError(
                "--store is no address of a server (redis://USER:PASSWORD@HOST:PORT/DB?OPTION=VALUE); write characters "
                "of a password that mean something in an address as %XX, as %2F for a slash"
            ) from None
        await mesh.store.open()
        try:
            await mesh._join()
        except Failed as failed:
            await mesh.store.close()
            raise StoreError(f"--store {mesh._wire.primary.shown} cannot be used: {failed}") from None
        except BaseException:
            await mesh.store.close()
            raise
        return mesh

    async def _join(self) -> None:
        meta = f"{self._base}:meta"
        await self._wire.call("HSETNX", meta, "secret", secrets.token_urlsafe(_SECRET_BYTES))
        self.secret = await self._wire.call("HGET", meta, "secret")
        await self.clock.follow(self._wire)
        if (missing := await self.blobs.join(hashlib.sha256(b"folder\0" + self.secret).hexdigest()[:32])) is not None:
            self.warnings.append(missing)
        await self.blobs.count()
        if (lost := loss(self._wire.primary.facts, await self._snapshots())) is not None:
            self.warnings.append(lost)

    async def _snapshots(self) -> bool | None:
        """Return True if the server writes snapshots, and None if it does not tell: some servers refuse CONFIG."""
        try:
            told = await self._wire.call("CONFIG", "GET", "save")
        except Failed:
            return None
        return bool(told[1]) if len(told) == 2 else None

    @property
    def server(self) -> str:
        """The name and version of the server."""
        return self.store.server

    @property
    def away(self) -> str | None:
        """The reason why the server does not answer; None while it does."""
        return self._wire.away

    # -- the other relays --------------------------------------------------------------------------------------------

    async def listen(self, hear: Callable[[Event], None], missed: Callable[[], None]) -> None:
        """Pass on from now on what the others tell; ``missed`` is called when some of that may have been lost."""
        self._hear, self._missed = hear, missed
        self._wire.on_back.append(self._tell_of_lost)
        heard = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(heard))
        await heard.wait()

    async def _listen(self, heard: asyncio.Event) -> None:
        while not self._closed:
            place = self._wire.primary.place
            link = None
            try:
                link = await self._wire.link()
                await self._hear_all(link, place, heard)
            except LinkError as error:
                _log.debug("the news of other relays broke off", extra={"reason": str(error)})
                self._wire.forget_idle()
            except Exception:
                _log.exception("the news of other relays cannot be read")
            finally:
                heard.set()
                if link is not None:
                    await link.close()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hear_all(self, link: Link, place: Place, subscribed: asyncio.Event) -> None:
        """Pass on what comes until the connection ends, or another server takes the writes."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Exception] = loop.create_future()
        heard_at = loop.time()

        def take(said: Any) -> None:
            nonlocal heard_at
            heard_at = loop.time()
            if isinstance(said, ReplyError):
                link.end(said)
            elif said[0] == b"message":
                self._take_news(said[2])
            elif said[0] == b"subscribe":
                self._missed()
                subscribed.set()

        link.take = take
        link.ended = ended.set_result
        link.send([("SUBSCRIBE", f"{self._base}:news")])
        asked_at = heard_at
        while not self._closed and self._wire.primary.place == place:
            await asyncio.wait([ended], timeout=_PING_SECONDS)
            if ended.done():
                raise ended.result()
            if heard_at < asked_at:
                raise asyncio.TimeoutError
            if loop.time() - heard_at >= _PING_SECONDS:  # nothing came: see whether the server is there
                asked_at = loop.time()
                link.send([("PING",)])

    def _take_news(self, data: bytes) -> None:
        if data.startswith(self._own):
            return
        news = _decode(data)
        if not news.events:
            self._missed()
        for event in news.events:
            self._hear(event)

    def tell(self, event: Event) -> None:
        if not self._told:
            asyncio.get_running_loop().call_soon(self._publish)
        self._told.append(event)

    def _publish(self) -> None:
        told, self._told = self._told, []
        self._send(*told)

    def _send(self, *events: Event) -> None:
        def sent(answer: asyncio.Future[Any]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                self._untold = True

        news = _encode(_News(self._id, events))
        self._wire.begin("PUBLISH", f"{self._base}:news", news, again=True).add_done_callback(sent)

    def _tell_of_lost(self) -> None:
        """Have the others look at everything if some events could not be sent."""
        if self._untold and self._wire.away is None:
            self._untold = False
            self._send()

    # -- one of them ---------------------------------------------------------------------------------------------------

    async def hold(self, file_key: str) -> bool:
        words = (f"{self._base}:reading:{file_key}", self._id, _HOLD_SECONDS)
        return bool(await self._wire.run(scripts.TAKE, 1, *words))

    async def let_go(self, file_key: str) -> None:
        await self._wire.run(scripts.GIVE_UP, 1, f"{self._base}:reading:{file_key}", self._id)

    async def lease(self, name: str, held: str, proposed: str, seconds: float) -> str | None:
        words = (self._base, name, held, proposed, int(seconds * 1000))
        token = await self._wire.run(scripts.LEASE, 1, *words)
        return None if token is None else str(token.decode())

    async def end_lease(self, name: str, token: str) -> None:
        await self._wire.run(scripts.GIVE_UP, 1, f"{self._base}:lease:{name}", token)

    async def leads(self) -> tuple[bool, float]:
        """Ask for the lead in upkeep. Return True if this relay has it, and for how long no relay was there before.

        A server that has lost all records gets the facts of the mesh again, so that all its relays stay one.
        This relay leaves a mesh that has others by now. Raises Failed.
        """
        folder = int(self.blobs.folder is not None)
        words = (self._base, self._id, _LEAD_SECONDS, _AWAY_SECONDS, LAYOUT, self.secret, folder)
        leads, away, layout, secret, missing = await self._wire.run(scripts.LEAD, 1, *words, again=False)
        if (int(layout), secret) != (LAYOUT, self.secret):
            raise Failed(self._leave())
        if missing:
            _log.error("the server of the store has lost the records of this mesh; agents have to register again")
        return bool(leads), float(away)

    def _leave(self) -> str:
        """Use the store no more, and return the reason."""
        why = f"{self._wire.primary.shown} has the keys of another mesh or version under {self._base} by now"
        self.store.broken = why
        self._wire.lost(why, for_good=True)
        return why

    async def upkeep(self, *, leads: bool) -> None:
        """Do what is to be done now and then. Raises Failed, OSError."""
        self._tell_of_lost()
        now = self._steady()
        await self.blobs.count()
        if now - self._time_asked >= _TIME_SECONDS:
            self._time_asked = now
            await self.clock.follow(self._wire)
        if leads and now - self._swept >= _SWEEP_SECONDS:
            self._swept = now
            await self.blobs.sweep()

    async def close(self) -> None:
        """Leave the mesh."""
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
        try:
            if self._listening is not None:
                await asyncio.wait([self._listening])
            with contextlib.suppress(Failed):
                await self._wire.run(scripts.GIVE_UP, 1, f"{self._base}:lead", self._id)
        finally:
            await self.store.close()
