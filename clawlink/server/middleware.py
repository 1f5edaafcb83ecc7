"""The one layer around every route: who may come in, and every failure as JSON."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from clawlink.errors import (
    BadRequest,
    ClawLinkError,
    InternalError,
    MethodNotAllowed,
    StoreUnavailable,
    TooLarge,
    UnknownRoute,
)
from clawlink.relay.stats import Stats
from clawlink.server.auth import Guard
from clawlink.server.wire import Handler, reply_failure
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.request")


def around(guard: Guard, stats: Stats, open_paths: frozenset[str]) -> Handler:
    """Return the middleware. Requests are logged at debug level only: a line costs more than the request."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard.check(request, open_to_all=request.path in open_paths)
            response = await handler(request)
        except ClawLinkError as error:
            response = _refuse(request, error, stats)
        except web.HTTPException as error:
            response = _refuse(request, _translate(error, request), stats)
        except Failed as error:
            _log.error("the store failed", extra={"route": _route(request), "reason": str(error)})
            response = _refuse(request, StoreUnavailable("the store does not answer; try again", retry_after=1), stats)
        except ConnectionError:
            raise
        except Exception:
            _log.exception("unexpected failure", extra={"method": request.method, "route": _route(request)})
            response = _refuse(request, InternalError("the relay failed at this request; its log says more"), stats)
        return response

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response = await middleware(request, handler)
        _log.debug(
            "request",
            extra={
                "method": request.method,
                "route": _route(request),
                "status": response.status,
                "ms": round((time.perf_counter() - started) * 1000, 2),
            },
        )
        return response

    return logged if _log.isEnabledFor(logging.DEBUG) else middleware  # type: ignore[return-value]


def _route(request: web.Request) -> str:
    """Name the route, never the address: that may hold ids, keys and tokens."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else resource.canonical


def _refuse(request: web.Request, error: ClawLinkError, stats: Stats) -> web.Response:
    stats.refused += 1
    if error.status in (401, 403):
        _log.warning("refused", extra={"method": request.method, "route": _route(request), "code": error.code})
    return reply_failure(error)


def _translate(error: web.HTTPException, request: web.Request) -> ClawLinkError:
    """Bring aiohttp's own refusals into our tree."""
    if isinstance(error, web.HTTPNotFound):
        return UnknownRoute("this relay has no such address; GET / lists those it has")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"this address does not take {request.method}, only {allowed}", current=allowed)
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge("the request is too large")
    return BadRequest(error.reason or "the request is malformed")
