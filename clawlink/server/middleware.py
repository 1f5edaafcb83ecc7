"""The one layer around every route: who may come in, and every failure as JSON.

It wraps the routes themselves and is no aiohttp middleware: that would cost a tenth of a request.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from clawlink.errors import (
    BadRequest,
    ClawLinkError,
    InternalError,
    StoreUnavailable,
)
from clawlink.relay.relay import Relay
from clawlink.relay.stats import Stats
from clawlink.server.auth import Guard
from clawlink.server.front import Request, Served
from clawlink.server.wire import Handler, reply_failure
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.request")


def around(serve: Handler, relay: Relay, guard: Guard, *, route: str, open_to_all: bool) -> Served:
    """Return the route as aiohttp gets it. ``route`` names it in the log, where no address may stand: it holds ids."""

    stats = relay.stats

    async def guarded(request: Request) -> web.StreamResponse:
        try:
            guard.check(request, open_to_all)
            return await serve(relay, request)
        except ClawLinkError as error:
            return _refuse(request, route, error, stats)
        except web.HTTPException as error:
            return _refuse(request, route, BadRequest(error.reason or "the request is malformed"), stats)
        except Failed as error:
            _log.error("the store failed", extra={"route": route, "reason": str(error)})
            unavailable = StoreUnavailable("the store does not answer; try again", retry_after=1)
            return _refuse(request, route, unavailable, stats)
        except ConnectionError:
            raise
        except Exception:
            _log.exception("unexpected failure", extra={"method": request.method, "route": route})
            return _refuse(request, route, InternalError("the relay failed at this request; its log says more"), stats)

    async def logged(request: Request) -> web.StreamResponse:
        started = time.perf_counter()
        response = await guarded(request)
        took = round((time.perf_counter() - started) * 1000, 2)
        _log.debug("request", extra={"method": request.method, "route": route, "status": response.status, "ms": took})
        return response

    # A line a request would cost more than the request, so there is none but at debug level.
    return logged if _log.isEnabledFor(logging.DEBUG) else guarded


def _refuse(request: Request, route: str, error: ClawLinkError, stats: Stats) -> web.Response:
    stats.refused += 1
    if error.status in (401, 403):
        _log.warning("refused", extra={"method": request.method, "route": route, "code": error.code})
    return reply_failure(error)
