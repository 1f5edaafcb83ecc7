"""One HTTP connection: what is no HTTP is refused like everything else, and quoted nowhere.

A request that cannot be read reaches no route. aiohttp would answer it in plain text and log a traceback that quotes
it, with whatever secret its headers hold.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from clawlink.domain.limits import MAX_KEY_LENGTH
from clawlink.errors import BadRequest, ClawLinkError, InternalError
from clawlink.server.address import Addresses
from clawlink.server.flow import Unread, Watch, on_its_way
from clawlink.server.front import Front
from clawlink.server.masks import Masked
from clawlink.server.reply import as_response, reply_failure
from clawlink.server.wire import Request

# The longest key of a file, all of it percent-encoded, and what stands around it.
_MAX_LINE_BYTES = 3 * 4 * MAX_KEY_LENGTH + 1024
_log = logging.getLogger("clawlink.request")


class Server(web.Server):
    """Accepts connections. A client that hangs up cancels its request, so that it takes no lease with it."""

    def __init__(
        self, front: Front, *, addresses: Addresses, names: Iterable[str], unread: Unread, max_body_bytes: int
    ) -> None:
        loop = asyncio.get_running_loop()
        told = frozenset(name.lower() for name in names)

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Request:
            made = Request(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)
            made.addresses = addresses
            made.names = told
            made.unread = unread
            return made

        super().__init__(cast(Any, front), request_factory=request, handler_cancellation=True)

    def __call__(self) -> RequestHandler:
        loop = asyncio.get_running_loop()
        return _Connection(
            self,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=_MAX_LINE_BYTES,
            auto_decompress=False,  # nobody has been asked for a token yet, and a small body may become a huge one
        )


class _Connection(RequestHandler):
    __slots__ = ("_closed_early", "reset", "when_lost")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.reset = False
        self._closed_early = False
        self.when_lost: list[Callable[[bool], object]] = []
        super().connection_made(transport)

    async def start(self) -> None:
        """Serve until the connection ends. Abort it if what is left to write then stands still for 60 s."""
        transport: Any = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.get_write_buffer_size():
                Watch(lambda: -on_its_way(transport), transport.abort)

    def set_parser(self, parser: Any, *more: Any, **callbacks: Any) -> None:
        """Read frames of a websocket from now on, masked ones alone."""
        super().set_parser(cast(Any, Masked(parser)), *more, **callbacks)

    def eof_received(self) -> None:
        """Note whether the peer closed while something was on its way to it, which is then thrown away."""
        self._closed_early = self.transport is not None and on_its_way(self.transport) > 0
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note how it was lost, before the request under way is cancelled."""
        self.reset = exc is not None or self._closed_early
        super().connection_lost(exc)
        for tell in self.when_lost:
            tell(self.reset)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or what failed outside every route; then the connection ends."""
        error: ClawLinkError
        if status < 500:
            _log.debug("malformed", extra={"reason": type(exc).__name__})
            # The first words say what is wrong; what follows them quotes the request.
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
