"""``clawlink info``: what a relay is and holds."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import Info

NAME = "info"
HELP = "Show what a relay is and holds."


def add(parser: ArgumentParser) -> None:
    """Add no flags: it takes none of its own."""


def run(args: Namespace, ctx: Context) -> Exit:
    """Ask the relay about itself."""
    info = ctx.visitor.info()
    if ctx.json:
        ctx.out.json(info)
    else:
        _show(ctx, info)
    return Exit.DONE


def _show(ctx: Context, info: Info) -> None:
    from clawlink.cli.render import ago, cell, plural, size

    draining = ", shutting down" if info.draining else ""
    ctx.out.line(f"{cell(info.service)} {cell(info.version)} at {cell(ctx.visitor.relay)}{draining}", style="bold")
    ctx.out.facts(
        ("token", "asked for" if info.auth_required else "not asked for"),
        ("agent keys", "required" if info.agent_keys_required else "not required"),
        ("agents", f"{info.agents_online} online, {info.agents_stale} stale"),
        ("messages held", f"{info.messages_held}, {size(info.bytes_held)}"),
        ("broadcasts", str(info.total_broadcasts)),
        ("shared files", plural(info.shared_files, "file")),
        ("started", ago(info.started_at, ctx.now)),
        ("takeovers", str(info.takeovers)),
        ("rate limited", str(info.rate_limited)),
        ("loops stopped", str(info.loops_stopped)),
    )
    if info.recent_stops:
        ctx.out.line("stopped of late, with the agents in order:")
        for stop in info.recent_stops:
            ctx.out.line(f"  {ago(stop.at, ctx.now)}: {cell(stop.code)}, {cell(' -> '.join(stop.agents))}")
    if info.limits:
        ctx.out.line("limits:")
        ctx.out.facts(*((cell(name.replace("_", " ")), f"{value:,.15g}") for name, value in info.limits.items()))
