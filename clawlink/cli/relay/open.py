"""``clawlink relay open``: the page of a relay in the browser, by a one-time link."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.operator_access import add_admin_token, as_operator
from clawlink.cli.values import seconds
from clawlink.domain.limits import SESSION_SECONDS

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_PRINT_HELP = (
    "print the link, and open no browser: while a browser starts, other accounts of this machine may read the link in "
    "its command line"
)


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--read-only", action="store_true", help="a session that can look, and change nothing")
    parser.add_argument(
        "--seconds", type=seconds, default=SESSION_SECONDS, metavar="S", help="how long the session lasts (43200)"
    )
    parser.add_argument("--print", action="store_true", help=_PRINT_HELP)
    parser.add_argument("--end-all", action="store_true", help="end all sessions and unused links instead")
    add_admin_token(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Make a link, print it, and open it."""
    _, operating = as_operator(args, ctx)
    client = ctx.connect(operating)
    if args.end_all:
        ended = client.end_sessions()
        if ctx.json:
            ctx.out.json(ended)
        else:
            ctx.out.line(f"All sessions of the page have ended: {ended.ended}.")
        return Exit.DONE
    made = client.make_link(read_only=args.read_only, seconds=args.seconds)
    link = client.relay + made.path
    if ctx.json:
        ctx.out.json({"link": link, "read_only": made.read_only, "seconds": made.seconds})
        return Exit.DONE
    ctx.out.line(link)
    ctx.out.line("The link works once, within 10 minutes.")
    if not args.print:
        import webbrowser

        webbrowser.open(link)
    return Exit.DONE
