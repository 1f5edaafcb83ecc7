"""``clawlink whoami``: the identities kept here, the one in use, and its relay's view of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.identity import Saved
    from clawlink.protocol.replies import ListedAgent


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--offline", action="store_true", help="list the identities without asking the relay")


def run(args: Namespace, ctx: Context) -> Exit:
    """List the identities, then ask the relay. An error of the relay comes after the list."""
    from clawlink.client.identity import NoIdentity, to_register
    from clawlink.errors import ClawLinkError

    kept, failed = ctx.identities.all(), ctx.identities.unreadable()
    if not kept and not failed:
        raise NoIdentity(f"no identity is kept here; register first: {to_register(ctx.given.relay)}")
    chosen, problem = _chosen(ctx)
    listed: ListedAgent | None = None
    failure: ClawLinkError | None = None
    if chosen is not None and not args.offline:
        try:
            listed = _ask(ctx, chosen)
        except ClawLinkError as error:
            failure = error
    if ctx.json:
        ctx.out.json(
            {
                "identities": [_public(saved, saved == chosen) for saved in kept],
                "chosen": None if chosen is None else _public(chosen, True),
                "relay_says": listed,
                "unreadable": [{"path": str(one.path), "why": one.why, "fix": one.fix} for one in failed],
            }
        )
    else:
        _show(ctx, kept, chosen, problem, listed)
        for one in failed:
            ctx.warn(str(one))
    if failure is not None:
        raise failure
    return Exit.DONE


def _chosen(ctx: Context) -> tuple[Saved | None, str | None]:
    from clawlink.client.identity import IdentityUnreadable, NoIdentity, SeveralIdentities, told_apart_by

    named, relay = ctx.given.named, ctx.given.relay
    try:
        return ctx.identities.pick(named=named, relay=relay), None
    except SeveralIdentities:  # the table names them
        return None, f"say which with {told_apart_by(ctx.identities.matching(named=named, relay=relay))}"
    except (NoIdentity, IdentityUnreadable) as error:
        return None, error.message


def _ask(ctx: Context, chosen: Saved) -> ListedAgent:
    """Return the relay's listing of the agent. The request is no sign of life. Raises UnknownAgent."""
    from clawlink.errors import UnknownAgent

    client = ctx.client
    for agent in client.discover(name=chosen.name, status="all").agents:
        if agent.agent_id == chosen.agent_id:
            return agent
    raise UnknownAgent(f"the relay has no agent {chosen.agent_id}", field="agent_id")


def _public(saved: Saved, chosen: bool) -> dict[str, Any]:
    """Return an identity without its secrets."""
    return {
        "name": saved.name,
        "agent_id": saved.agent_id,
        "relay": saved.relay,
        "claimed": saved.agent_key is not None,
        "token": saved.token is not None,
        "chosen": chosen,
    }


def _show(
    ctx: Context, kept: list[Saved], chosen: Saved | None, problem: str | None, listed: ListedAgent | None
) -> None:
    from clawlink.cli.render import named, plural, presence
    from clawlink.domain.terminal import cell

    ctx.out.table(
        ("", "name", "id", "relay", "agent key", "token"),
        [
            (
                "*" if saved == chosen else "",
                cell(saved.name),
                cell(saved.agent_id),
                cell(saved.relay),
                "kept" if saved.agent_key else "none",
                "kept" if saved.token else "none",
            )
            for saved in kept
        ],
        whole="id",
        least=("token", "agent key", "id"),
    )
    if chosen is None:
        ctx.out.line(f"None of them is used: {cell(problem or '')}.")
        return
    ctx.out.line(f"Used: {named(chosen.name, chosen.agent_id)} on {cell(chosen.relay)}")
    if listed is not None:
        ctx.out.facts(
            ("the relay says", presence(listed.status, listed.last_heartbeat, ctx.now)),
            ("can do", cell(", ".join(listed.capabilities)) or None),
            ("waiting", plural(listed.load.mailbox, "message")),
            ("open tasks", str(listed.load.open_tasks)),
        )
