"""Routes for operators: the relay's facts, health, metrics and interface."""

from __future__ import annotations

from dataclasses import fields

import msgspec

from clawlink.protocol import paths
from clawlink.relay.relay import Relay
from clawlink.relay.telemetry.stats import HELP
from clawlink.server.openapi import document
from clawlink.server.request import Request, Routes
from clawlink.server.response import Reply, reply
from clawlink.version import VERSION

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
        (await _metrics(relay, connections=request.ceiling.count)).encode(),
        content_type="text/plain; version=0.0.4; charset=utf-8",
    )


@routes.serves(paths.OPENAPI)
async def openapi(relay: Relay, request: Request) -> Reply:
    """This interface as OpenAPI."""
    return Reply(document())


async def _metrics(relay: Relay, *, connections: int) -> str:
    """Return all counters and gauges. None of them has a label that a user can fill, so their number is fixed."""
    info = await relay.info(endpoints={})
    lines: list[str] = []

    def metric(name: str, kind: str, help: str, value: float, labels: str = "") -> None:
        lines.append(f"# HELP clawlink_{name} {help}")
        lines.append(f"# TYPE clawlink_{name} {kind}")
        lines.append(f"clawlink_{name}{labels} {value}")

    metric("build_info", "gauge", "The version that runs.", 1, f'{{version="{VERSION}"}}')
    for field in fields(relay.stats):
        metric(f"{field.name}_total", "counter", HELP[field.name], getattr(relay.stats, field.name))
    metric("agents_online", "gauge", "Agents seen lately.", info.agents_online)
    metric("agents_stale", "gauge", "Agents not seen lately.", info.agents_stale)
    metric("messages_held", "gauge", "Messages in all mailboxes, dead letters included.", info.messages_held)
    metric("message_bytes_held", "gauge", "Their bytes.", info.bytes_held)
    metric("memory_bytes", "gauge", "Memory of all records and contents of files, about.", info.memory_bytes)
    metric("memory_limit_bytes", "gauge", "What --max-memory allows, with --data --max-data.", relay.memory_limit)
    metric("shared_files", "gauge", "Shared files.", info.shared_files)
    metric("file_bytes", "gauge", "Bytes of files, versions and uploads under way included.", relay.file_quota.used)
    metric("uploads", "gauge", "Resumable uploads that are known.", relay.uploads.count)
    metric("upkeep_stuck", "gauge", "Records that upkeep could not settle, and tries again.", relay.janitor.stuck)
    metric("connections", "gauge", "Connections that are open at this moment.", connections)
    metric("stopped", "gauge", "1 while the operator has stopped all work.", int(relay.stopped))
    metric("waiting_polls", "gauge", "Polls and connections that wait for messages at this moment.", relay.waiting)
    return "\n".join(lines) + "\n"
