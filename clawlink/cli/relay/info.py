"""``clawlink relay info``: a relay, its contents and its limits."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import Info

# A larger number is easier to read in a larger unit.
_WORTH_SAYING = 1000


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
    from clawlink.cli.render import ago, plural, size
    from clawlink.domain.terminal import cell

    draining = ", shutting down" if info.draining else ""
    ctx.out.line(f"{cell(info.service)} {cell(info.version)} at {cell(ctx.visitor.relay)}{draining}", style="bold")
    ctx.out.facts(
        ("token", "asked for" if info.auth_required else "not asked for"),
        ("agent keys", "required" if info.agent_keys_required else "not required"),
        ("agents", f"{info.agents_online} online, {info.agents_stale} stale"),
        ("messages held", f"{info.messages_held}, {size(info.bytes_held)}"),
        ("broadcasts", str(info.total_broadcasts)),
        ("shared files", plural(info.shared_files, "file")),
        ("uploads", f"{info.uploads_under_way} under way, {size(info.upload_bytes)}"),
        ("data" if info.on_disk else "memory", _room(info)),
        ("connections", str(info.connections)),
        ("started", ago(info.started_at, ctx.now)),
        ("stopped", None if info.stopped_at is None else f"all work, {ago(info.stopped_at, ctx.now)}"),
        ("takeovers", str(info.takeovers)),
        ("rate limited", str(info.rate_limited)),
        ("loops stopped", str(info.loops_stopped)),
        ("doors", cell(", ".join(info.doors)) or None),
    )
    if info.recent_stops:
        ctx.out.line("recently stopped, with the agents in order:")
        for stop in info.recent_stops:
            ctx.out.line(
                f"  {ago(stop.at, ctx.now)}: {cell(stop.code)}, {' -> '.join(map(ctx.agents.named, stop.agents))}"
            )
    if info.limits:
        ctx.out.line("limits:")
        ctx.out.facts(*_with_units(info.limits), indent=2)


def _room(info: Info) -> str:
    """Return the room in use and its limit. A relay of another version may not tell them."""
    from clawlink.cli.render import size

    most = info.memory_limit or info.limits.get("max_memory")
    return f"{size(info.memory_bytes)} in use" if most is None else f"{size(info.memory_bytes)} of {size(int(most))}"


def _with_units(limits: dict[str, float]) -> list[tuple[str, str]]:
    """Return the limits with their units, those of a unit together; unknown limits of a newer relay come last."""
    from clawlink.cli.render import duration, size
    from clawlink.domain.limits import LIMIT_FIELDS
    from clawlink.domain.terminal import cell
    from clawlink.doors.registry import limit_fields

    units = {field.name: str(field.metadata["unit"]) for field in (*LIMIT_FIELDS, *limit_fields())}
    grouped: dict[str, list[tuple[str, str]]] = {unit: [] for unit in units.values()}
    for name, value in limits.items():
        unit = units.get(name, "of a unit that this version does not know")
        larger = ""
        if value >= _WORTH_SAYING and unit in ("bytes", "seconds"):
            larger = f" ({size(int(value)) if unit == 'bytes' else duration(value)})"
        grouped.setdefault(unit, []).append((cell(name.replace("_", " ")), f"{value:,.15g} {unit}{larger}"))
    return [pair for pairs in grouped.values() for pair in pairs]
