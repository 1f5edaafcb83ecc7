"""``clawlink portal import``: what Agent P2P kept comes into the folder of a portal."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.doors.portal.rules.import_report import Report

_MOST_LINES = 40


def run(args: Namespace, ctx: Context) -> Exit:
    """Bring the database in; without ``--data`` and ``--store`` say what would come."""
    from clawlink.cli.exits import UsageError
    from clawlink.doors.portal import DOOR
    from clawlink.doors.portal.client.portal import URL
    from clawlink.doors.portal.rules.import_report import Choice

    own = args.at or ctx.environ.get("PORTAL_URL") or ctx.environ.get(URL) or None
    if args.data is not None and args.store:
        raise UsageError("give --data DIR or --store, not both")
    data = None if args.data is None else Path(args.data)
    choice = Choice(args.owner_key, tuple(args.agent_key or ()))
    report = DOOR.import_database(Path(args.words[0]), data, own, choice, store=args.store)
    if ctx.json:
        ctx.out.json(report.as_json())
    else:
        _tell(report, args, ctx)
    return Exit.DONE


def _tell(report: Report, args: Namespace, ctx: Context) -> None:
    from clawlink.domain.terminal import cell
    from clawlink.doors.portal.rules.import_report import MOST_LISTED

    dry = args.data is None and not args.store
    verb = "would come" if dry else "came"
    for kind, count in report.came.items():
        there = f", {report.there[kind]} were here before" if report.there[kind] else ""
        ctx.out.line(f"{kind:>9}  {count} {verb}{there}")
    for note in report.notes[:_MOST_LINES]:
        ctx.out.line(f"Note: {cell(str(note))}.")
    if report.left:
        ctx.out.line("These stay in the old database:", style="bold")
    for left in report.left[:_MOST_LINES]:
        ctx.out.line(f"  {cell(left.what)}: {cell(left.why)}")
    more = len(report.left[_MOST_LINES:]) + report.more_left
    if more:
        ctx.out.line(f"  and {more} more; --json shows the first {MOST_LISTED}")
    if report.keys and args.owner_key is None:
        ctx.out.line("Keys that may be yours; choose with --owner-key and --agent-key:", style="bold")
        for key in report.keys:
            ctx.out.line(f"  {key.shown}  {cell(key.name) or '-'}")
        ctx.out.line("A stranger could make a key at the old portal: choose the one in your own gateway.env alone.")
    if dry:
        ctx.out.line("Nothing was changed. Give --data DIR to bring it in, or --store.")
    elif args.store:
        ctx.out.line("Go on with: clawlink serve --portal URL, with the same CLAWLINK_STORE")
    else:
        ctx.out.line(f"Go on with: clawlink serve --portal URL --data {cell(args.data)}")
