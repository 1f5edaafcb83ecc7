"""A registered connection to the relay, good for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from clawlink.doors.agentlink.client.message import seal
from clawlink.doors.agentlink.client.sent import Sent
from clawlink.doors.agentlink.wire import frames, signing
from clawlink.doors.agentlink.wire.files import LinkFile
from clawlink.errors import BY_CODE, ClawLinkError, NotARelay, RelayUnreachable, TooLarge, Unavailable
from clawlink.protocol.failure import next_step
from clawlink.timeouts import wait_for

PATH = "/agentlink"
CONNECT_SECONDS = 10.0
MAX_FRAME_BYTES = 64 * 1024 * 1024
# The relay's own pings come more often, so a connection that is silent for this many seconds is dead.
_HEARTBEAT_SECONDS = 20.0
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def address(relay_url: str) -> str:
    """Return the websocket's address for what a relay is called: http:// and a missing path are mended."""
    parts = urlsplit(relay_url if "://" in relay_url else f"ws://{relay_url}")
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    return urlunsplit(parts._replace(scheme=scheme, path=parts.path if parts.path.strip("/") else PATH))


class Session:
    """A connection that has registered. Its frames are read by iterating over it."""

    def __init__(self, config: LinkFile, http: aiohttp.ClientSession, socket: Any) -> None:
        self._config = config
        self._http = http
        self._socket = socket
        self._relay_url = config.relay_url
        self._max_bytes: int | None = None
        self.largest: tuple[str | None, int] = (None, 0)  # the id and the size of the largest frame sent

    @classmethod
    async def open(cls, config: LinkFile) -> Session:
        """Connect and register, at the first relay of those named that is there and takes work.

        Raises RelayUnreachable, NotARelay, or what the relay refused; of several relays the error of the last.
        """
        *others, last = config.relay_url.split(",")
        for url in others:
            with contextlib.suppress(RelayUnreachable, Unavailable, NotARelay):
                return await cls._at(url.strip(), config)
        return await cls._at(last.strip(), config)

    @classmethod
    async def _at(cls, relay_url: str, config: LinkFile) -> Session:
        trusted = True if config.ca is None else ssl.create_default_context(cafile=config.ca)
        http = aiohttp.ClientSession()
        session = cls(config, http, None)
        session._relay_url = relay_url
        try:
            session._socket = await wait_for(
                http.ws_connect(
                    address(relay_url),
                    heartbeat=_HEARTBEAT_SECONDS,
                    max_msg_size=MAX_FRAME_BYTES,
                    ssl=trusted,
                ),
                CONNECT_SECONDS,
            )
            await session._register()
        except BaseException as failure:
            await session.close()
            if isinstance(failure, aiohttp.WSServerHandshakeError):
                step = next_step(failure.status)
                raise NotARelay(
                    f"{relay_url} answered with HTTP {failure.status}: no relay that serves Agent Link there"
                    + (f", or a proxy before it; {step}" if step is not None else "")
                ) from None
            if isinstance(failure, asyncio.TimeoutError | aiohttp.ClientError | OSError | ValueError):
                reason = str(failure) or type(failure).__name__
                raise RelayUnreachable(f"no relay answers at {relay_url}: {reason}") from None
            raise
        return session

    async def _register(self) -> None:
        config = self._config
        agent_id = config.agent_id or ""
        stamp, nonce = signing.stamp(time.time()), signing.new_nonce()
        text = signing.canonical_register(config.instance_id, agent_id, time=stamp, nonce=nonce)
        signature = signing.digest(config.secret.encode(), text)
        await self._put(
            "register",
            instance_id=config.instance_id,
            agent_id=agent_id,
            time=stamp,
            nonce=nonce,
            signature=signature,
        )
        answer = await wait_for(self._socket.receive(), CONNECT_SECONDS)
        if answer.type is not aiohttp.WSMsgType.TEXT:
            raise RelayUnreachable(f"{self._relay_url} ended the connection before it answered")
        frame = _read(answer.data)
        if frame.get("type") == "error":
            raise error_of(frame)
        if frame.get("type") != "registered":
            raise NotARelay(f"{self._relay_url} does not speak Agent Link: it answered with {frame.get('type')!r}")
        limit = frame.get("max_frame_bytes")
        self._max_bytes = limit if isinstance(limit, int) else None

    @property
    def sender(self) -> str:
        """The address that messages are sent from."""
        return f"{self._config.instance_id}/{self._config.agent_id}"

    async def send(self, sent: Sent) -> None:
        """Send a message, with a new signature.

        Raises TooLarge for more than the relay said it takes, RelayUnreachable.
        """
        config = self._config
        stamp, nonce = signing.stamp(time.time()), signing.new_nonce()
        text = signing.canonical_send(self.sender, sent.to, sent.message, time=stamp, nonce=nonce, id=sent.id)
        shared = config.end_to_end.get(sent.to.partition("/")[0]) if "/" in sent.to else None
        await self._put(
            "send",
            **{"from": self.sender},
            to=sent.to,
            message=sent.message,
            time=stamp,
            nonce=nonce,
            id=sent.id,
            signature=signing.digest(config.secret.encode(), text),
            seal=None
            if shared is None
            else seal(shared, self.sender, sent.to, sent.message, time=stamp, nonce=nonce, id=sent.id),
        )

    async def ack(self, receipt: str) -> None:
        """Say that a message is dealt with."""
        await self._put("ack", receipts=[receipt])

    async def nack(self, receipt: str, delay: float) -> None:
        """Give a message back, to come again after ``delay`` seconds."""
        await self._put("nack", receipts=[receipt], delay=delay)

    async def respond(self, task_id: str, result: str, status: str, id: str) -> None:
        """Report on a task, or answer it."""
        await self._put("respond", task_id=task_id, result=result, status=status, id=id)

    async def _put(self, type: str, **fields: Any) -> None:
        text = frames.write(type, **fields)
        size = len(text.encode())
        if self._max_bytes is not None and size > self._max_bytes:
            raise TooLarge(
                f"signed and in JSON this is {size} bytes, and the relay takes frames of {self._max_bytes} at most",
                limit=self._max_bytes,
                actual=size,
            )
        if size > self.largest[1]:
            self.largest = (fields.get("id"), size)
        try:
            await self._socket.send_str(text)
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            raise RelayUnreachable("the connection to the relay has ended") from error

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            try:
                message = await self._socket.receive()
            except (ConnectionError, aiohttp.ClientError):  # a ping that came before the end cannot be answered
                return
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            yield _read(message.data)

    @property
    def why_ended(self) -> str:
        """Why the connection has ended, as far as is known."""
        code = self._socket.close_code
        if code in (None, 1006):
            return "the connection broke off"
        why = ": a frame was larger than it takes" if self.too_large else ""
        return f"the relay closed the connection ({code}){why}"

    @property
    def too_large(self) -> bool:
        """Return True if the relay ended the connection because a frame was too large for it."""
        return bool(self._socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG)

    async def close(self) -> None:
        """Say goodbye."""
        try:
            if self._socket is not None:
                await self._socket.close()
        finally:  # a caller that waits for the relay's goodbye may be cancelled
            await self._http.close()


def _read(text: str) -> dict[str, Any]:
    try:
        frame = json.loads(text)
    except ValueError:
        frame = None
    if not isinstance(frame, Mapping):
        raise NotARelay("what came over the connection is no frame of Agent Link")
    return dict(frame)


def error_of(frame: dict[str, Any]) -> ClawLinkError:
    """Return the error that an error frame tells of."""
    kind = BY_CODE.get(str(frame.get("code")), ClawLinkError)
    return kind(
        str(frame.get("message", "the relay refused")),
        field=frame.get("field"),
        limit=_number(frame.get("limit")),
        actual=_number(frame.get("actual")),
        retry_after=_number(frame.get("retry_after")),
    )


def _number(told: object) -> float | None:
    """Return a number, or None for what is none: a relay may say what it likes."""
    return told if isinstance(told, int | float) else None
