"""What several commands say in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawlink.cli.render import named, presence

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.replies import RecipientInfo


def show_recipient(ctx: Context, what: str, to: RecipientInfo) -> None:
    """Say who will get it, and whether they are there."""
    there = presence(to.status, to.last_heartbeat, ctx.now)
    later = "" if to.status == "online" else "; it will get it when it polls"
    ctx.out.line(f"{what} {named(to.name, to.agent_id)}, {there}{later}.", style="bold")
