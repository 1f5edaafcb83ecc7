"""``clawlink relay top``: the relay at a glance and the steps of its tasks, live in a terminal."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.operator_access import add_admin_token, as_operator

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.sync import Client
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.admin import Overview

_AGAIN = "not connected, tries again"


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--once", action="store_true", help="show the overview once, and end")
    add_admin_token(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Show the overview, again with each change until Ctrl-C."""
    _, operating = as_operator(args, ctx)
    client = ctx.connect(operating)
    if args.once:
        _show_once(ctx, client.overview())
        return Exit.DONE
    if ctx.out.terminal and not ctx.json:
        _follow_on_screen(ctx, client)
    else:
        _follow_as_lines(ctx, client)
    return Exit.DONE


def _show_once(ctx: Context, overview: Overview) -> None:
    if ctx.json:
        ctx.out.json(overview)
        return
    from clawlink.cli.relay.dashboard import facts, mailboxes

    for line in facts(overview):
        ctx.out.line(line)
    rows = mailboxes(overview)
    if rows:
        ctx.out.table(("agent", "messages", "oldest"), rows)


def _follow_as_lines(ctx: Context, client: Client) -> None:
    """Print a line for each step of a task; with ``--json`` each overview as an object on a line."""
    from clawlink.cli.relay.dashboard import Tail
    from clawlink.client.live import overviews

    tail = Tail(client)

    def away(error: ClawLinkError) -> None:
        ctx.warn(f"{_AGAIN}: {error.message}")

    for overview in overviews(client, on_away=away):
        if ctx.json:
            ctx.out.json(overview, one_line=True)
        else:
            for line in tail.news(overview):
                ctx.out.line(line)
        ctx.out.flush()


def _follow_on_screen(ctx: Context, client: Client) -> None:
    """Fill the screen, and draw it again with each overview. The terminal is as before when this ends."""
    from rich.live import Live

    from clawlink.cli.relay.dashboard import Tail, screen
    from clawlink.client.live import overviews

    console = ctx.out.console()
    tail = Tail(client)
    last: list[Overview] = []
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw(overview: Overview | None, away: str | None) -> None:
            size = console.size
            live.update(screen(overview, list(tail.lines), size.width, size.height, away=away), refresh=True)

        def lost(error: ClawLinkError) -> None:
            draw(last[0] if last else None, f"{_AGAIN}: {error.message}")

        draw(None, None)
        for overview in overviews(client, on_away=lost):
            last[:] = [overview]
            tail.news(overview)
            draw(overview, None)
