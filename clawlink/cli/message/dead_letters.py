"""``clawlink message dead-letters``: messages that were handed out too often without being acknowledged."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add no flags: it takes none of its own."""


def run(args: Namespace, ctx: Context) -> Exit:
    """List them, each with how to have it again."""
    from clawlink.cli.messages import show_message
    from clawlink.cli.render import ago, duration, epoch
    from clawlink.domain.limits import MAX_LIST_LENGTH

    letters = ctx.client.dead_letters(limit=MAX_LIST_LENGTH)
    if ctx.json:
        listed = [
            {
                "message_id": letter.message_id,
                "from_agent": letter.from_agent,
                "attempts": letter.attempts,
                "stored_at": letter.stored_at,
                "dead_at": letter.dead_at,
                "kept_until": letter.kept_until,
                "message": letter.raw,
            }
            for letter in letters
        ]
        ctx.out.json({"dead_letters": listed, "count": len(listed)})
        return Exit.DONE
    if not letters:
        ctx.out.line("No dead letters.")
        return Exit.DONE
    now = ctx.now
    for letter in letters:
        show_message(ctx, letter.message, letter.message_id, letter.raw)
        left = (epoch(letter.kept_until) or now) - now
        ctx.out.facts(
            ("reason", f"handed out {letter.attempts} times, and never acknowledged"),
            ("dead since", ago(letter.dead_at, now)),
            ("kept for", duration(left)),
            ("again", ctx.command("redrive", id=letter.message_id)),
        )
    ctx.out.line(f"All of them again: {ctx.command('redrive', all=True)}")
    return Exit.DONE
