"""``clawlink relay audit``: the acts of the operator, the newest first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.operator_access import add_admin_token, as_operator
from clawlink.cli.values import count

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.admin import AuditEntry


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="how many acts to show (50; up to 1000)")
    add_admin_token(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """List the acts."""
    _, operating = as_operator(args, ctx)
    found = ctx.connect(operating).audit(limit=args.limit)
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    if not found.entries:
        ctx.out.line("The operator has done nothing so far.")
        return Exit.DONE
    from clawlink.cli.render import ago
    from clawlink.domain.terminal import cell

    rows = [
        (ago(e.at, ctx.now), _act(e), cell(_target(e, found.names)), cell(e.address or "-"), cell(e.by))
        for e in found.entries
    ]
    ctx.out.table(("when", "act", "target", "from", "right"), rows, least=("right", "from"))
    return Exit.DONE


def _target(entry: AuditEntry, names: dict[str, str]) -> str:
    """Return on what an act was, with agents by their names."""
    facts = entry.facts
    if entry.act == "rename_agent" and facts.get("before"):
        return f"{facts['before']} to {facts['name']}"
    recipient = facts.get("recipient")
    if isinstance(recipient, dict):
        return f"{entry.target} for {recipient.get('name') or names.get(recipient['agent_id'], recipient['agent_id'])}"
    return names.get(entry.target, entry.target)


def _act(entry: AuditEntry) -> str:
    """Return the act by the name of its command: one route stops all work and resumes it."""
    return "resume_all" if (entry.act, entry.target) == ("stop_all", "running") else entry.act
