"""The websocket: it yields messages as they arrive, and carries calls and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from functools import cached_property
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec

from clawlink.client import calls, endpoints, mailbox_endpoints
from clawlink.client.aio import NO_ANSWER, AsyncClient
from clawlink.client.base_client import Method, turn_into_methods
from clawlink.client.calls import Call, Claimed, Identity, Reply
from clawlink.domain.limits import MAX_RECEIPTS, MIB
from clawlink.errors import (
    BY_CODE,
    BadRequest,
    ClawLinkError,
    Draining,
    NotAllowed,
    NotARelay,
    RelayUnreachable,
    TooLarge,
    UnknownAgent,
    UnknownRoute,
)
from clawlink.protocol import failure, mailbox_paths, mailbox_replies, replies

T = TypeVar("T")

# A peer that is silent for this many seconds gets a ping, and is gone if no pong comes in half of that.
_PING_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_MOST_BYTES = 64 * MIB
# The meaning of the codes with which the relay closes.
_CLOSED = {1001: Draining, 1009: TooLarge, 4403: NotAllowed, 4404: UnknownAgent}


class NoWebsocket(ClawLinkError):
    """Something answers at the address, but it makes no websocket: a proxy, or a relay of an earlier time."""

    code = "no_websocket"


class _Frame(msgspec.Struct):
    """A frame from the relay: a message with its ``delivery``, a ``reply``, or an error with its ``code``."""

    type: str
    id: int | str | None = None
    reply: msgspec.Raw = msgspec.Raw()
    delivery: mailbox_replies.Lease | None = None
    code: str | None = None


_decoder = msgspec.json.Decoder(_Frame)
_encoder = msgspec.json.Encoder()
_read_subscribed = msgspec.json.Decoder(replies.Subscribed)
_read_pong = msgspec.json.Decoder(replies.Pong)

# Receipts, with the futures of their results.
_Ack = tuple[Sequence[str], asyncio.Future[mailbox_replies.Receipted]]


class Stream:
    """A websocket of one agent: iterate over it for messages, and make calls over it instead of requests.

        async with client.stream(credit=8) as stream:
            async for claimed in stream:
                await stream.ack([claimed.receipt])

    Messages are held under a lease as by ``poll``, and at most ``credit`` of them are under way unacked. Unacked
    messages are due again at once when it ends. The iteration, and all calls that wait for a reply, raise a failure of
    the connection: Draining, UnknownAgent, NotAllowed or RelayUnreachable. The stream does not connect again: open
    another. NoWebsocket at the start means that only polling works at that address.
    """

    def __init__(self, client: AsyncClient, *, lease: float = 60.0, credit: int = 32) -> None:
        self.identity: Identity = client.identity
        self._client = client
        self._query = f"lease={lease}&credit={credit}"
        self._ids = count(1)
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._acks: list[_Ack] = []
        self._come: asyncio.Queue[Claimed | None] = asyncio.Queue()
        self._work: set[asyncio.Task[None]] = set()
        self._transport: asyncio.Transport | None = None
        self._failed: ClawLinkError | None = None
        self._over = False

    # -- the connection ------------------------------------------------------------------------------------------------

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        patience = self._client.timeout
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=patience, sock_read=patience)
        # aiohttp would follow a redirect, and take the agent's key along to wherever that leads.
        traces = aiohttp.TraceConfig()
        traces.on_request_redirect.append(lambda session, context, redirect: self._refuse(redirect.response))
        return aiohttp.ClientSession(timeout=timeout, raise_for_status=self._refuse, trace_configs=[traces])

    async def open(self) -> None:
        """Connect. Raises the relay's refusal of the handshake, or NoWebsocket."""
        client = self._client
        path = f"{mailbox_paths.SOCKET.url(agent_id=self.identity.require())}?{self._query}"
        try:
            self._socket = await self._session.ws_connect(
                client._url(path),
                headers=client._headers(None),
                heartbeat=_PING_SECONDS,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                ssl=await client._trusted(),
                proxy=client._proxy_url,
                max_msg_size=_MOST_BYTES,
            )
            connection = self._socket._response.connection
            self._transport = None if connection is None else connection.transport
        except aiohttp.WSServerHandshakeError as error:
            await self._session.close()
            raise NoWebsocket(f"{client.relay} agrees to a websocket, and makes none: {error.message}") from error
        except NO_ANSWER as error:
            await self._session.close()
            raise client._failure(error, client.timeout) from error
        except BaseException:
            await self._session.close()
            raise
        self._begin(self._read())

    async def _refuse(self, response: aiohttp.ClientResponse) -> None:
        """Raise the error for an answer that is no handshake. A proxy before the relay may know no websockets."""
        if response.status == 101:
            return
        refusal = self._client._refusal(response.status, await response.read())
        response.close()
        stripped = isinstance(refusal, BadRequest) and refusal.field == "Upgrade"
        if stripped or isinstance(refusal, NotARelay | UnknownRoute):
            raise NoWebsocket(f"{self._client.relay} makes no websocket: {refusal.message}")
        raise refusal

    async def close(self) -> None:
        """End the stream. Unacked messages are due again at once."""
        self._end(RelayUnreachable("the stream was closed"), by_us=True)
        async with AsyncExitStack() as stack:  # each step is done, even if the one before is cancelled
            if "_session" in self.__dict__:
                stack.push_async_callback(self._session.close)
            stack.push_async_callback(self._end_work)
            if "_socket" in self.__dict__:
                await self._hang_up()

    async def _end_work(self) -> None:
        for work in list(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def _hang_up(self) -> None:
        """Say goodbye, and break the connection off: of itself it would stay until the relay has read all of it."""
        alarm = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._break_off)
        try:
            with suppress(*NO_ANSWER):
                await self._socket.close()
        finally:
            alarm.cancel()
            self._break_off()
            self._socket._response.close()  # aiohttp leaves it open if the goodbye is cancelled

    def _break_off(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def __aenter__(self) -> Stream:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _must_be_open(self) -> None:
        """Raise RuntimeError if it was never opened: nothing would ever come."""
        if self._failed is None and "_socket" not in self.__dict__:
            raise RuntimeError("the stream is not open; open it first: async with client.stream() as stream")

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _end(self, error: ClawLinkError, *, by_us: bool = False) -> None:
        """Fail all calls that still wait."""
        if self._over or self._failed is not None:
            return
        self._failed, self._over = error, by_us
        waiting: list[asyncio.Future[Any]] = [*self._asked.values(), *(future for _, future in self._acks)]
        self._asked.clear()
        self._acks.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(_again(error))
        self._come.put_nowait(None)

    # -- incoming messages ---------------------------------------------------------------------------------------------

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Claimed:
        """Return the next message. Raises the error that ended the connection, unless this side closed it."""
        self._must_be_open()
        come = None if self._failed is not None else await self._come.get()
        if come is not None and self._failed is None:
            return come
        self._come.put_nowait(None)  # for another iteration of the same stream
        if self._over or self._failed is None:
            raise StopAsyncIteration
        raise _again(self._failed)

    async def _read(self) -> None:
        error: ClawLinkError
        try:
            while True:
                frame = await self._socket.receive()
                if frame.type is aiohttp.WSMsgType.TEXT:
                    self._take(frame.data.encode())
                elif frame.type is not aiohttp.WSMsgType.BINARY:
                    break
            error = self._why(frame)
        except msgspec.MsgspecError as torn:
            error = NotARelay(f"what came over the websocket is not from a ClawLink relay: {torn}")
        except Exception as broken:  # as the answer to a ping that came before the end, which cannot be sent
            error = RelayUnreachable(f"the connection to {self._client.relay} ended: {_said(broken)}")
            error.__cause__ = broken
        self._end(error)
        if not self._over:  # else it is being closed already, and the relay may still say goodbye
            await self._hang_up()

    def _why(self, last: Any) -> ClawLinkError:
        """Return the error for this end of the connection."""
        code = self._socket.close_code
        said = last.extra if last.type is aiohttp.WSMsgType.CLOSE else None
        if code in _CLOSED:
            return _CLOSED[code](str(said or f"the relay ended the connection with code {code}"))
        failed = self._socket.exception()
        how = f"code {code}" if failed is None else _said(failed)
        if said:
            how = f"{said} (code {code})"
        return RelayUnreachable(f"the connection to {self._client.relay} ended: {how}")

    def _take(self, data: bytes) -> None:
        frame = _decoder.decode(data)
        if frame.delivery is not None:
            claimed = calls.claimed(msgspec.Raw(data), frame.delivery)
            claimed.raw.pop("delivery", None)
            self._come.put_nowait(claimed)
            return
        id = frame.id
        if id is None and frame.type == "error":
            # An unreadable frame has no id. Frames are answered in order, so it is the oldest open request.
            id = next(iter(self._asked), None)
        future = self._asked.pop(id, None) if isinstance(id, int) else None
        if future is None or future.done():
            return
        if frame.type == "reply":
            future.set_result(bytes(frame.reply))
        elif frame.type == "error":
            kind = BY_CODE.get(frame.code or "", BadRequest)
            future.set_exception(failure.from_reply(kind.status, data))

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def perform(self, call: Call[T]) -> T:
        """Send a call as a frame, once, and return its answer. Raises ClawLinkError."""
        answer = call.answer(Reply(200, {}, await self._ask(call.endpoint.name, call.body or b"{}")))
        if call.learn is not None:
            call.learn(self.identity, answer)
        return answer

    async def _ask(self, kind: str, body: bytes) -> bytes:
        self._must_be_open()
        if self._failed is not None:
            raise _again(self._failed)
        id = next(self._ids)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        self._asked[id] = future
        rest = body[1:] if body == b"{}" else b"," + body[1:]
        # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the answer.
        alarm = loop.call_later(self._client.timeout, self._give_up, future)
        # Sent by a task of its own: while the relay does not read, sending takes longer than the wait for the answer,
        # and a cancelled caller must not cut a frame.
        self._begin(self._put(b'{"type":"%b","id":%d%b' % (kind.encode(), id, rest), future))
        try:
            return await future
        finally:
            alarm.cancel()
            self._asked.pop(id, None)

    async def _put(self, frame: bytes, answer: asyncio.Future[bytes]) -> None:
        """Send a frame; if that fails, fail the call that waits for its answer."""
        try:
            await self._socket.send_frame(frame, aiohttp.WSMsgType.TEXT)
        except NO_ANSWER as error:
            if not answer.done():
                ended = RelayUnreachable(f"the connection to {self._client.relay} ended: {_said(error)}")
                ended.__cause__ = error
                answer.set_exception(ended)

    def _give_up(self, future: asyncio.Future[bytes]) -> None:
        if not future.done():
            future.set_exception(self._client._silent(self._client.timeout))

    heartbeat = Method(endpoints.heartbeat)
    delegate = Method(endpoints.delegate)
    respond = Method(endpoints.respond)
    send = Method(endpoints.send)
    broadcast = Method(endpoints.broadcast)
    nack = Method(mailbox_endpoints.nack)
    extend = Method(mailbox_endpoints.extend)

    async def ack(self, receipts: Sequence[str] = (), *, tasks: Sequence[str] = ()) -> mailbox_replies.Receipted:
        """Settle leased messages, and the news of the end of ``tasks``.

        Receipts that are acked within one turn of the event loop go in one frame.
        """
        self._must_be_open()
        if self._failed is not None:
            raise _again(self._failed)
        if tasks:
            return await self.perform(mailbox_endpoints.ack(self.identity, receipts, tasks=tasks))
        loop = asyncio.get_running_loop()
        if not self._acks:
            loop.call_soon(lambda: self._begin(self._flush()))
        future: asyncio.Future[mailbox_replies.Receipted] = loop.create_future()
        self._acks.append((list(receipts), future))
        return await future

    async def subscribe(self, subscriptions: Sequence[str]) -> replies.Subscribed:
        """Change the topics whose broadcasts this agent gets: patterns as ``build.*``, ``*`` for all."""
        body = _encoder.encode({"subscriptions": list(subscriptions)})
        return _read_subscribed.decode(await self._ask("subscribe", body))

    async def ping(self) -> replies.Pong:
        """Ask the relay for a sign of life, and for its time."""
        return _read_pong.decode(await self._ask("ping", b"{}"))

    async def _flush(self) -> None:
        """Send the gathered acks in as few frames as possible, and give each waiter its part of the answer."""
        acks, self._acks = self._acks, []
        try:
            await asyncio.gather(*(self._settle(batch) for batch in _batches(acks)))
        finally:
            for _, future in acks:
                if not future.done():
                    future.set_exception(RelayUnreachable("the stream ended before the answer to this ack came"))

    async def _settle(self, batch: list[_Ack]) -> None:
        try:
            done = await self.perform(
                mailbox_endpoints.ack(self.identity, [one for receipts, _ in batch for one in receipts])
            )
        except ClawLinkError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(_again(error))
            return
        results = iter(done.results)
        for receipts, future in batch:
            mine = [next(results) for _ in receipts]
            if not future.done():
                future.set_result(mailbox_replies.Receipted(mine, sum(one.status == "acked" for one in mine)))


def _batches(acks: Sequence[_Ack]) -> Iterator[list[_Ack]]:
    """Split acks into batches of one frame each."""
    batch: list[_Ack] = []
    size = 0
    for ack in acks:
        if batch and size + len(ack[0]) > MAX_RECEIPTS:
            yield batch
            batch, size = [], 0
        batch.append(ack)
        size += len(ack[0])
    if batch:
        yield batch


def _said(error: BaseException) -> str:
    """Return the words of an error; our own for a connection that the other side has left."""
    if isinstance(error, aiohttp.ClientConnectionResetError):
        return "the relay is gone, or has closed it"
    return str(error) or type(error).__name__


def _again(error: ClawLinkError) -> ClawLinkError:
    """Return a copy of an error to raise again, because each raise writes into its error."""
    return type(error)(
        error.message,
        field=error.field,
        limit=error.limit,
        actual=error.actual,
        retry_after=error.retry_after,
        current=error.current,
    )


turn_into_methods(Stream, vars(Stream).copy(), AsyncClient._method)
