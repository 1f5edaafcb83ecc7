"""Where every request comes in: which route takes it, whether it may, and every failure as JSON.

It stands directly on aiohttp's server, below its applications and middlewares: their routing, made for much more than
this, would take a tenth of a request.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterable

from aiohttp import hdrs, web

from clawlink.domain.auth_throttle import AuthThrottle
from clawlink.errors import BadRequest, MethodNotAllowed, NotAuthenticated, UnknownRoute
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.paths import INFO, PAGE_FILE
from clawlink.relay.error_mapping import refusal
from clawlink.relay.relay import Relay
from clawlink.server import cors
from clawlink.server.auth import Guard, may_be_agent
from clawlink.server.page_files import wants_page
from clawlink.server.request import Handler, Request, forget_failure, hung_up, origin_of
from clawlink.server.response import WRITTEN, Reply, reply_failure, send_plain, write, write_rest

_log = logging.getLogger("clawlink.request")
_NOWHERE = "none"
# From Python 3.12 on, aiohttp handles a request in the same turn of the event loop that has read it.
_IN_ONE_TURN = sys.version_info >= (3, 12)
PREFLIGHT = Endpoint("preflight", "OPTIONS", "", "What a page in a browser may do.", None, open=True, empty=True)


class Router:
    """Passes each request to its route. Addresses without parameters are found in a dict, the others by pattern."""

    def __init__(
        self,
        relay: Relay,
        guard: Guard,
        routes: Iterable[tuple[Endpoint, Handler]],
        *,
        page: Handler | None = None,
    ) -> None:
        """``page`` answers a browser at ``/``; without it everybody gets JSON there."""
        self._page = page
        self._relay = relay
        self._guard = guard
        self._throttle = AuthThrottle()
        self._routes = list(routes)
        self._fixed: dict[tuple[str, str], tuple[Endpoint, Handler]] = {}
        # Paths with parameters, by method and first segment. A first segment that is a parameter stands as "".
        self._patterns: dict[tuple[str, str], list[tuple[Endpoint, Handler]]] = {}
        for endpoint, serve in self._routes:
            if not endpoint.pattern.groups and endpoint.method != hdrs.METH_OPTIONS:  # that may be a preflight
                self._fixed[endpoint.method, endpoint.path] = endpoint, serve
            else:
                first = _first_segment(endpoint.path)
                key = endpoint.method, "" if "{" in first else first
                self._patterns.setdefault(key, []).append((endpoint, serve))
        # A line a request would cost more than the request, so there is none but at debug level.
        self._logs = _log.isEnabledFor(logging.DEBUG)

    async def __call__(self, request: Request) -> web.StreamResponse:
        if _IN_ONE_TURN:
            # Requests that came together hold up nobody else, and a peer that has closed is known to have done so.
            await asyncio.sleep(0)
        endpoint, serve = self._fixed.get(request.target) or self._find(request, request.method)
        if endpoint is INFO and self._page is not None and wants_page(request):
            endpoint, serve = PAGE_FILE, self._page
        started = time.perf_counter() if self._logs else 0.0
        refused: Reply | None = None
        try:
            self._guard.check(request, endpoint)
            if endpoint is not None and endpoint.acts:
                request.connection.by_agent = True
            elif not request.connection.by_agent:
                self._note_client(request, endpoint)
            answer = await serve(self._relay, request)
            if not isinstance(answer, Reply):
                response = answer
            elif (left := send_plain(request, answer)) is None:
                response = await write(request, answer)
            else:
                response = await write_rest(request, answer) if left else WRITTEN
        except asyncio.CancelledError:
            forget_failure(request)
            raise
        except Exception as failure:
            forget_failure(request)
            if isinstance(failure, ConnectionError) and hung_up(request):
                raise
            facts = {"method": request.method, "route": _name(endpoint), **origin_of(request)}
            # In one go: an error in a variable of this frame, which it remembers, would be garbage for a sweep to find.
            refused = reply_failure(refusal(self._relay, _in_our_words(failure), facts, _log))
            if request.writer.output_size > 0:  # a part of an answer is out: another one would be taken for its rest
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the answer broke off") from failure
        if refused is not None:
            if refused.status == NotAuthenticated.status:
                await self._delay(request)
            answer, response = refused, await write(request, refused)
        if self._logs:
            took = round((time.perf_counter() - started) * 1000, 2)
            seen = {"method": request.method, "route": _name(endpoint), "status": answer.status, "ms": took}
            _log.debug("request", extra=seen)
        return response

    def _note_client(self, request: Request, endpoint: Endpoint | None) -> None:
        """Note that an agent may use the connection. While the relay drains, any other connection ends with a reply."""
        if may_be_agent(request, endpoint):
            request.connection.by_agent = True
        elif self._relay.draining:
            request.end_connection()

    async def _delay(self, request: Request) -> None:
        """Let the answer to a wrong token wait, longer with each of an address."""
        whose = request.block
        if whose is None:
            return
        seconds = self._throttle.delay(whose, asyncio.get_running_loop().time())
        if seconds and self._throttle.may_hold(whose):
            request.note_wait()
            with self._throttle.hold(whose):
                await asyncio.sleep(seconds)

    def _find(self, request: Request, method: str) -> tuple[Endpoint | None, Handler]:
        path = request.rel_url.raw_path
        if (fixed := self._fixed.get((method, path))) is not None:
            return fixed
        if method == hdrs.METH_OPTIONS and cors.is_preflight(request):
            return PREFLIGHT, self._preflight
        for first in (_first_segment(path), ""):
            for endpoint, serve in self._patterns.get((method, first), ()):
                found = endpoint.pattern.fullmatch(path)
                if found is not None:
                    request.parameters = found.groupdict()
                    return endpoint, serve
        if method == hdrs.METH_HEAD:
            endpoint_or_none, serve = self._find(request, hdrs.METH_GET)
            if endpoint_or_none is not None and _takes_head(endpoint_or_none):
                return endpoint_or_none, serve
        return None, self._nowhere

    def _methods(self, path: str) -> set[str]:
        """Return the methods that an address takes."""
        found = [endpoint for endpoint, _ in self._routes if endpoint.pattern.fullmatch(path)]
        return {e.method for e in found} | {hdrs.METH_HEAD for e in found if _takes_head(e)}

    async def _preflight(self, relay: Relay, request: Request) -> Reply:
        """Tell a browser the rights of a page."""
        return cors.preflight(request, self._methods(request.rel_url.raw_path) or {hdrs.METH_GET, hdrs.METH_POST})

    async def _nowhere(self, relay: Relay, request: Request) -> Reply:
        """Refuse a request that no route takes: the method is wrong, or the address is."""
        path = request.rel_url.raw_path
        allowed = sorted(self._methods(path))
        if allowed:
            shown = ", ".join(allowed)
            raise MethodNotAllowed(f"this address does not take {request.method}, only {shown}", current=shown)
        raise UnknownRoute("this relay has no such address; GET / lists those it has")


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _in_our_words(failure: Exception) -> Exception:
    if isinstance(failure, web.HTTPException):
        return BadRequest(failure.reason or "the request is malformed")
    return failure


def _takes_head(endpoint: Endpoint) -> bool:
    """Return True for a GET that changes nothing and ends, so that HEAD answers like it, without the body."""
    return endpoint.method == hdrs.METH_GET and not endpoint.claims and not endpoint.stays


def _name(endpoint: Endpoint | None) -> str:
    """Name the route for the log, where no address may stand: it holds ids, keys and tokens."""
    return _NOWHERE if endpoint is None else endpoint.path
