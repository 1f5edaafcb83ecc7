"""Routes for operators: the relay's facts, health, metrics and interface."""

from __future__ import annotations

import msgspec

from clawlink.protocol import paths
from clawlink.relay.relay import Relay
from clawlink.server.metrics import render
from clawlink.server.openapi import document
from clawlink.server.request import Request, Routes
from clawlink.server.response import Reply, reply

routes = Routes()
_SHOWN = {e.name: f"{e.method} {e.path}" for e in paths.ENDPOINTS}


@routes.serves(paths.INFO)
async def info(relay: Relay, request: Request) -> Reply:
    """Show this relay, its contents and its limits."""
    told = await relay.info(endpoints=_SHOWN)
    ceiling = request.ceiling
    limits = told.limits | {"max_connections": ceiling.most, "max_connections_address": ceiling.most_address}
    undeclared = request.addresses.undeclared
    return reply(msgspec.structs.replace(told, undeclared_proxy=undeclared, limits=limits, connections=ceiling.count))


@routes.serves(paths.METRICS)
async def metrics(relay: Relay, request: Request) -> Reply:
    """Counters in Prometheus text format."""
    return Reply(
        (await render(relay, connections=request.ceiling.count)).encode(),
        content_type="text/plain; version=0.0.4; charset=utf-8",
    )


@routes.serves(paths.OPENAPI)
async def openapi(relay: Relay, request: Request) -> Reply:
    """This interface as OpenAPI."""
    return Reply(document())
