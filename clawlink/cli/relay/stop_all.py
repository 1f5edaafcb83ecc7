"""``clawlink relay stop-all``: stop all new work and all claims, as the operator of the relay."""

from __future__ import annotations

import shlex
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
    where, operating = as_operator(args, ctx)
    done = ctx.connect(operating).stop_all()
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    ctx.out.line(f"All work at {where.relay} is stopped: no agent can delegate, send or take messages.")
    ctx.out.line("Acks, answers and heartbeats go on, and leases and deadlines stand still.")
    of_relay = "" if args.relay is None else f" --relay {shlex.quote(where.relay)}"
    ctx.out.line(f"Resume it with: clawlink resume-all{of_relay}")
    return Exit.DONE
