"""Which route takes a request: a dict for fixed addresses, a pattern for those with parameters.

It stands directly on aiohttp's server, below its applications: their routing, made for much more than this, would take
a twentieth of a request.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from clawlink.errors import MethodNotAllowed, UnknownRoute
from clawlink.protocol.paths import Endpoint


class Request(web.BaseRequest):
    """A request, with the parameters of its path, still percent-encoded."""

    parameters: Mapping[str, str] = {}


Served = Callable[[Request], Awaitable[web.StreamResponse]]


class Front:
    """Passes each request to its route."""

    def __init__(self, routes: Iterable[tuple[Endpoint, Served]], nowhere: Served) -> None:
        self._fixed: dict[tuple[str, str], Served] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Served]] = []
        self._nowhere = nowhere
        for endpoint, serve in routes:
            if endpoint.pattern.groups:
                self._patterns.append((endpoint.method, endpoint.pattern, serve))
            else:
                self._fixed[endpoint.method, endpoint.path] = serve

    async def __call__(self, request: Request) -> web.StreamResponse:
        serve = self._fixed.get((request.method, request.rel_url.raw_path))
        return await (self._find(request) if serve is None else serve)(request)

    def _find(self, request: Request) -> Served:
        path = request.rel_url.raw_path
        for method, pattern, serve in self._patterns:
            found = pattern.fullmatch(path) if method == request.method else None
            if found is not None:
                request.parameters = found.groupdict()
                return serve
        return self._nowhere


def refuse_nowhere(request: Request, endpoints: Iterable[Endpoint]) -> web.StreamResponse:
    """Refuse a request that no route takes: the method is wrong, or the address is."""
    path = request.rel_url.raw_path
    allowed = sorted({e.method for e in endpoints if e.pattern.fullmatch(path)})
    if allowed:
        shown = ", ".join(allowed)
        raise MethodNotAllowed(f"this address does not take {request.method}, only {shown}", current=shown)
    raise UnknownRoute("this relay has no such address; GET / lists those it has")
