"""The words of ``clawlink portal`` about what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def done(ctx: Context, told: Any, said: str) -> Exit:
    """Show the answer of the portal as JSON, or in words."""
    if ctx.json:
        ctx.out.json(told)
    else:
        ctx.out.line(said)
    return Exit.DONE
