"""``clawlink file history``: the versions of a shared file that are kept."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_DIGEST_SHOWN = 12


def add(parser: ArgumentParser) -> None:
    """Add the key."""
    add_file_key(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """List them, the newest first."""
    from clawlink.cli.files import ends_line, lock_line, reader, readers_line
    from clawlink.cli.render import ago, size
    from clawlink.domain.terminal import cell

    history = reader(ctx).file_history(args.key)
    if ctx.json:
        ctx.out.json(history)
        return Exit.DONE
    now = ctx.now
    ctx.out.table(
        ("version", "size", "type", "editor", "written", "sha-256"),
        [
            (
                str(one.version),
                size(one.size),
                cell(one.content_type),
                ctx.agents.named(one.editor),
                ago(one.updated_at, now),
                cell(one.sha256[:_DIGEST_SHOWN]),
            )
            for one in history.versions
        ],
        least=("sha-256", "type", "size"),
    )
    ctx.out.facts(
        ("readers", readers_line(ctx, history.owner, history.readers)),
        ("lock", None if history.lock is None else lock_line(ctx, history.lock)),
        ("end", ends_line(history.expires_at, history.burn_after_read, now)),
        indent=0,
    )
    return Exit.DONE
