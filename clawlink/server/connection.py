"""An HTTP connection. It refuses bytes that are no HTTP with JSON, and quotes them nowhere.

A malformed request reaches no route. aiohttp would answer it in plain text and log a traceback that quotes it, with the
secrets in its headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_protocol import RequestHandler

from clawlink.domain.limits import MAX_KEY_LENGTH
from clawlink.errors import BadRequest, BodyTimeout, ClawLinkError, InternalError
from clawlink.relay.time_slices import Turns
from clawlink.server.address import Addresses
from clawlink.server.ceiling import HEAD_SECONDS, Ceiling, Seat
from clawlink.server.flow import UnreadReplies, Watch, gone_test, on_its_way, unwritten
from clawlink.server.handover import Handover, Handovers, has_come
from clawlink.server.request import Request
from clawlink.server.response import Written, as_bytes, as_response, reply_failure
from clawlink.server.router import Router
from clawlink.server.ws_connection import Masked

# The longest key of a file, all of it percent-encoded, and the rest of its address.
_MAX_LINE_BYTES = 3 * 4 * MAX_KEY_LENGTH + 1024
_log = logging.getLogger("clawlink.request")


class Server(web.Server):
    """Accepts connections. A client that hangs up cancels its request, so that it takes no lease with it."""

    def __init__(
        self,
        router: Router,
        *,
        addresses: Addresses,
        names: Iterable[str],
        unread: UnreadReplies,
        ceiling: Ceiling,
        max_body_bytes: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        told = frozenset(name.lower() for name in names)
        # The same for all requests of this server.
        shared = {"addresses": addresses, "names": told, "unread": unread, "ceiling": ceiling}
        kind: type[Request] = type("Request", (Request,), shared)

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
            made = kind(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)
            made.target = message.method, message.path
            made.connection = protocol
            stays = not message.should_close
            made.plain = stays and message.version is HttpVersion11 and message.method != hdrs.METH_HEAD
            protocol.began = made
            if protocol.ended:
                protocol.close_once_answered()
            if self.ending:
                made.end_connection()
            return made

        super().__init__(cast(Any, router), request_factory=request, handler_cancellation=True)
        self.ending = False
        """True once each reply is the last of its connection."""

    async def end_quiet(self, since: float) -> None:
        """End the connections that have been quiet since a time: of those of agents only as all end."""
        turns = Turns()
        for connection in self.connections:
            cast(_Connection, connection).leave_if_quiet(since, agents=self.ending)
            await turns.next()

    def connection(self, seat: Seat) -> RequestHandler:
        """Return the protocol of a connection that has a place."""
        return _Connection(
            self,
            seat,
            loop=asyncio.get_running_loop(),
            access_log=None,
            max_line_size=_MAX_LINE_BYTES,
            auto_decompress=False,  # no token has been checked yet, and a small body may become a huge one
        )


class _Connection(RequestHandler):
    __slots__ = (
        "_ahead",
        "_closed_early",
        "_handovers",
        "_heard",
        "began",
        "by_agent",
        "ended",
        "has_gone",
        "quiet_since",
        "reset",
        "seat",
        "when_lost",
    )

    def __init__(self, server: Server, seat: Seat, **options: Any) -> None:
        super().__init__(server, **options)
        self.seat = seat

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.reset = False
        self.has_gone = gone_test(transport)
        """Returns True if nothing can be written to the peer any more."""
        self.ended = False  # the peer has closed its side
        self._closed_early = False
        self._ahead = False  # something came that is not the request under way
        self.began: Request | None = None
        """The last request that began."""
        self.by_agent = False
        """True once an agent may have made a request of the connection."""
        self._handovers: Handovers | None = None
        self.when_lost: list[Callable[[bool], object]] = []
        self._heard = False
        self.seat.holder = self
        self.quiet_since = self._loop.time()
        """The time of its start, or of the end of its last request."""
        self.seat.awaits_head(self.quiet_since)
        super().connection_made(transport)
        if self._task_handler is not None:
            self._task_handler.add_done_callback(lambda _: _watch_rest(transport))

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Note that the request is answered. aiohttp sends the response, unless it is written already."""
        now = self.quiet_since = self._loop.time()
        if now >= self.seat.placed_until:
            self.seat.idle(now)
        if isinstance(resp, Written) and not self._upgraded:
            request._finish()
            return resp, False
        return await super().finish_response(request, resp, start_time)

    def set_parser(self, parser: Any, *more: Any, **callbacks: Any) -> None:
        """Read frames of a websocket from now on, masked ones alone."""
        super().set_parser(cast(Any, Masked(parser)), *more, **callbacks)

    # -- input ---------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes. They prove that the peer has read the last reply, if it had no request on its way before."""
        if self._handovers:
            self._handovers.heard()
        # On uvloop the first bytes may come before aiohttp waits for them: so it is idle while no request has begun.
        idle = not self._messages and (self._waiter is not None or self.began is None)
        RequestHandler.data_received(self, data)  # super() costs as much as ten other steps before Python 3.12
        if not self._messages:
            if idle:
                self._heard = True
                self.seat.awaits_head(self._loop.time())
        elif self.seat.waited_for:
            self.seat.busy()
        self._ahead = not idle or not data.endswith(b"\r\n\r\n") or len(self._messages) > 1

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on after a pause. aiohttp asks at the end of each body, and would parse again without a pause."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def close_once_answered(self) -> None:
        """Close the connection of a peer that has closed its side, after the request that began if it is the last."""
        if not self._messages:
            self.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Note that the peer has closed its side.

        Return True to still answer it, or to wait for the verdict on a reply.

        A peer may have closed both sides. Its system then throws away the bytes under way.
        """
        super().eof_received()
        transport = self.transport
        if transport is None:
            return False
        self.ended = True
        self._closed_early = on_its_way(transport) > 0
        busy, at_once = self._under_way()
        if busy and not at_once:
            return False
        if busy:
            self.close_once_answered()
        unsure = self._handovers is not None and bool(self._handovers) and self._handovers.end()
        return (busy or unsure) and transport.get_extra_info("sslcontext") is None

    def _under_way(self) -> tuple[bool, bool]:
        """Return two booleans: whether a request waits for its reply, and whether it can be answered at once."""
        request = self.began if self._waiter is None else None
        if request is not None and request.writer.output_size and self._current_request is not request:
            request = None  # it is answered
        if request is None and not self._messages:
            return False, False
        if request is not None and (request.stays or hdrs.UPGRADE in request.headers):
            return True, False
        if self._messages:
            message, payload = self._messages[-1]
            return True, payload.is_eof() and not getattr(message, "upgrade", False)
        return True, request is not None and request.content.is_eof()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note how it was lost, before the request under way is cancelled."""
        self.seat.leave()
        self.seat.holder = None  # it leads back to this connection
        self.reset = exc is not None or self._closed_early
        if self._handovers is not None:
            self._handovers.lost(exc)
        handler = self._task_handler
        if handler is not None:
            handler.add_done_callback(_forget_cancellation)
        super().connection_lost(exc)
        for tell in self.when_lost:
            tell(self.reset)
        self.began = None  # it leads back to this connection
        self.has_gone = gone_test(None)  # so did the transport

    # -- connections that keep the relay waiting ---------------------------------------------------------------------

    def leave_if_idle(self) -> bool:
        """End the connection unless a request or a reply is under way. Return True if it has ended."""
        transport = self.transport
        if transport is None:
            return True
        if self._is_busy() or self._handovers or unwritten(transport):
            return False
        transport.abort()
        return True

    def leave_if_quiet(self, since: float, *, agents: bool) -> None:
        """End the connection as the relay drains, if it has been quiet since a time. An agent's ends with ``agents``.

        No byte of a further request has come then.
        """
        begun = self.seat.waited_for and self._heard
        stays = begun or (self.by_agent and not agents) or self.quiet_since > since
        if not stays and self.transport is not None and not has_come(self.transport):
            self.leave_if_idle()

    def give_up_idle(self) -> None:
        """End a connection that has been idle for too long."""
        if self._is_busy():
            self.seat.idle(self._loop.time())  # it begins again
        else:
            self.force_close()

    def give_up_head(self) -> None:
        """End a connection whose request head is overdue. Answer 408 if a part of it has come."""
        if self.transport is not None and self._heard and not self._messages:
            error = BodyTimeout(
                f"the head of a request did not arrive within {HEAD_SECONDS:.0f} s; send it again in one piece",
                limit=HEAD_SECONDS,
                retry_after=1,
            )
            self.transport.write(as_bytes(reply_failure(error)))
        self.force_close()

    def _is_busy(self) -> bool:
        return self._waiter is None or bool(self._messages)

    # -- whether replies are read ------------------------------------------------------------------------------------

    @property
    def more_to_answer(self) -> bool:
        """Return True if further requests are here."""
        return bool(self._messages)

    def hand_over(self, handover: Handover) -> None:
        """Tell ``handover`` whether the peer has read the current reply, as soon as that is known."""
        if self._handovers is None:
            self._handovers = Handovers(self.transport, self._close_ended, ended=self.ended)
        self._handovers.add(handover)

    def handed_over(self) -> None:
        """Note that all of the reply is written."""
        if self._handovers is not None:
            early = self._ahead or bool(self._messages) or has_come(self.transport) > 0
            self._handovers.written(provable=not early)

    def not_written(self, handover: Handover) -> None:
        """Note that the reply was not written."""
        if self._handovers is None or not self._handovers.forget(handover, read=False):
            handover.over(read=False)

    def forget(self, handover: Handover) -> None:
        """Leave it at that the reply is written."""
        if self._handovers is not None:
            self._handovers.forget(handover, read=True)

    async def read_or_not(self) -> None:
        """Return once it is known of all replies whether they were read."""
        if self._handovers:
            await self._handovers.known()

    def _close_ended(self) -> None:
        """Close the connection of a peer that has closed its side, unless a request of it is under way."""
        if self._waiter is not None and not self._messages and self.transport is not None:
            self.transport.close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Close the connection as the relay stops."""
        if self._handovers:
            self._handovers.settle()
        await super().shutdown(timeout)

    # -- failures ------------------------------------------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request, or a failure outside every route; then the connection ends."""
        error: ClawLinkError
        if status < 500:
            _log.debug("malformed", extra={"reason": type(exc).__name__})
            # The first words name the fault; the rest quotes the request.
            reason = (message or "").partition(":")[0].partition("\n")[0].strip()
            error = BadRequest(f"this is not well-formed HTTP: {reason if ' ' in reason else 'it cannot be read'}")
        else:
            if not isinstance(exc, ConnectionError):  # a client that hung up in the middle of its body
                _log.error("unexpected failure", exc_info=exc)
            error = InternalError("the relay failed at this request; its log says more")
        if exc is not None:
            exc.__traceback__ = None  # its frames know this connection, which keeps the error: garbage in a circle
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer has been sent already")
        response = as_response(reply_failure(error))
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Note that a connection ended badly: mostly a body that cannot be read on. Its traceback would quote it."""
        _log.warning("connection failed", extra={"reason": type(sys.exc_info()[1]).__name__})


def _watch_rest(transport: Any) -> None:
    """Abort a connection that is served to its end, if the rest to write stands still for 60 s."""
    if unwritten(transport):
        Watch(lambda: -on_its_way(transport), transport.abort)


def _forget_cancellation(task: asyncio.Task[None]) -> None:
    """Take the error of a cancelled task, for its traceback leads to the request, and back to the task."""
    if task.cancelled():
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()
