"""``clawlink message status``: how far a message came. Stored, delivered, acked and answered are four facts."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import message_id

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.protocol.mailbox_replies import MessageStatus

_OF_A_DOOR = "/"  # in the ids of agents that stand for others elsewhere


def add(parser: ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "id",
        type=message_id,
        metavar="ID",
        help="id of a message, task or broadcast that you sent or got",
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Ask the relay, as its sender or recipient."""
    from clawlink.cli import ids

    status = ctx.client.message(ids.message(ctx, args.id))
    if ctx.json:
        ctx.out.json(status)
    elif status.type == "knowledge_broadcast" and status.to_agent is None:
        _show_broadcast(ctx, status)
    else:
        _show_one(ctx, status)
    return Exit.DONE


def _show_one(ctx: Context, status: MessageStatus) -> None:
    from clawlink.cli.render import when
    from clawlink.cli.tasks import said
    from clawlink.domain.terminal import cell

    now = ctx.now
    is_task = status.type == "task_delegation"
    there = _there(ctx, status) if _OF_A_DOOR in (status.to_agent or "") else None
    kind = "task" if is_task else status.type.replace("_", " ")
    delivered = when(status.delivered_at, now)
    if status.delivered_to is not None:
        reader = ctx.agents.named(status.delivered_to) if there is None else "the portal here"
        delivered += f" to {reader}, attempt {status.attempts}"
    elif status.last_delivered_at is not None and status.requeued_at is not None:
        delivered = f"{when(status.last_delivered_at, now)}, queued again {when(status.requeued_at, now)}"
    ctx.out.stands(f"{kind} {cell(status.message_id)}", cell(status.task_status or status.state))
    ctx.out.facts(
        ("from", ctx.agents.named(status.from_agent)),
        ("to", "the first agent that claims it" if status.to_agent is None else ctx.agents.named(status.to_agent)),
        ("stored", when(status.stored_at, now)),
        ("delivered", delivered),
        ("acked", when(status.acked_at, now)),
        ("there", there),
        ("answered", when(status.answered_at, now) if is_task or status.type == "message" else None),
        ("expired", when(status.expired_at, now) if status.expired_at else None),
        ("dead", when(status.dead_at, now) if status.dead_at else None),
        ("attempts", str(status.attempts)),
        *(("woken", f"{when(wake.at, now)} {said(wake)}") for wake in status.woken),
        ("history", ctx.command("task", status.message_id) if is_task else None),
    )


def _there(ctx: Context, status: MessageStatus) -> str | None:
    """Return how far a message for an agent elsewhere came; None if it has ended, or the agent is of this relay."""
    import shlex

    from msgspec import UNSET

    from clawlink.cli.render import quoted
    from clawlink.cli.tasks import holder_elsewhere, not_there_yet
    from clawlink.domain.terminal import cell

    if status.type == "task_delegation":
        return holder_elsewhere(ctx.client.task(status.message_id))
    listed, _ = ctx.agents.listed()
    to = next((one for one in listed if one.agent_id == status.to_agent), None)
    if to is None or to.through is UNSET or status.expired_at or status.dead_at:
        return None
    portal = cell(to.through)
    contact = shlex.quote(to.name.removesuffix(f"@{to.through}"))
    more = f"clawlink {portal} history {cell(contact)} (with the owner key)"
    if status.acked_at is None:
        return f"{not_there_yet(to.name, portal)}; {more}"
    return f"the {portal} of {quoted(to.name, len(to.name))} has it; how far it came there: {more}"


def _show_broadcast(ctx: Context, status: MessageStatus) -> None:
    from clawlink.cli.render import plural, when
    from clawlink.domain.terminal import cell

    ctx.out.line(f"broadcast {cell(status.message_id)} to {plural(status.recipients, 'agent')}", style="bold")
    counts = dict(status.counts)
    full = counts.pop("refused", 0)
    ctx.out.facts(
        ("refused" if status.state == "refused" else "stored", when(status.stored_at, ctx.now)),
        *((f"in state {cell(state)}", str(count)) for state, count in sorted(counts.items())),
        ("had no room", plural(full, "mailbox", "mailboxes") if full else None),
    )
