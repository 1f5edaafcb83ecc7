"""``clawlink relay resume-all``: let work go on after ``stop-all``, as the operator of the relay."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.operator_access import add_admin_token, as_operator

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flag."""
    add_admin_token(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Tell the relay; where it runs on this account, its admin token is at hand."""
    from clawlink.cli.render import duration

    where, operating = as_operator(args, ctx)
    client = ctx.connect(operating)
    was_stopped = client.info().stopped_at is not None
    done = client.resume_all()
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    if not was_stopped:
        ctx.out.line(f"Work at {where.relay} was not stopped; it goes on.")
        return Exit.DONE
    lasted = "" if done.lasted is None else f"; the last stop took {duration(done.lasted)}"
    ctx.out.line(f"Work at {where.relay} goes on{lasted}.")
    return Exit.DONE
