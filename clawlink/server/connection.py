"""One HTTP connection: what aiohttp itself refuses is answered like every other error, and quotes nothing in the log.

A request that is no HTTP reaches no route. aiohttp would answer it in plain text and log a traceback that quotes it,
with whatever secret its headers hold.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from clawlink.errors import BadRequest, ClawLinkError, InternalError, UnknownRoute
from clawlink.server.wire import reply_failure

_log = logging.getLogger("clawlink.request")


class Runner(web.AppRunner):
    """Runs an application on such connections."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ()

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
            _log.error("unexpected failure", exc_info=exc)
            error = InternalError("the relay failed at this request; its log says more")
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer has been sent already")
        response = reply_failure(error)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Note that a connection ended badly: mostly it is a body that cannot be read. A traceback would quote it."""
        _log.warning("connection failed", extra={"reason": type(sys.exc_info()[1]).__name__})

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Bring what aiohttp refuses before it looks for a route into our tree: Expect, CONNECT, ``*``."""
        if isinstance(resp, web.HTTPException):
            resp = reply_failure(
                UnknownRoute("this relay has no such address; GET / lists those it has")
                if isinstance(resp, web.HTTPNotFound)
                else BadRequest(resp.text or resp.reason)
            )
        return await super().finish_response(request, resp, start_time)
