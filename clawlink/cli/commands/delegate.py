"""``clawlink delegate``: ask another agent to do something, several agents, or whoever can."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, add_parent, add_priority, json_object, names, span

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.replies import Delegated, Pooled

NAME = "delegate"
HELP = "Delegate a task to agents, or to whoever can do it."

_ENDLESS = float("inf")


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--to",
        type=names,
        action="extend",
        metavar="A,B",
        help="who is to do it: names or ids; with several, each gets a task of its own",
    )
    parser.add_argument(
        "--capability",
        type=names,
        action="extend",
        metavar="C,D",
        help="whoever has this claims it first; all of them, if several are given",
    )
    parser.add_argument(
        "--to-any-of", type=names, action="extend", metavar="A,B", help="whichever of these agents claims it first"
    )
    parser.add_argument("--task", required=True, metavar="TEXT", help="what to do; - reads standard input")
    parser.add_argument(
        "--context", metavar="JSON", help="what they need to know, as a JSON object; - reads standard input"
    )
    parser.add_argument("--deadline", type=span, metavar="S", help="when it is of no use any more: in 60, 10m, 2h")
    add_parent(parser)
    parser.add_argument(
        "--wait",
        nargs="?",
        type=span,
        const=_ENDLESS,
        metavar="SECONDS",
        help="stay until it is finished, or so long; then as clawlink wait does",
    )
    parser.add_argument("--any", action="store_true", help="with --wait and several tasks: until one is completed")
    parser.add_argument(
        "--all",
        action="store_true",
        help="with --capability: a task of its own for every agent online that has it; with --wait: until all are done",
    )
    add_priority(parser)
    add_idempotency_key(parser)


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the tasks for their assignees, and say how to see what becomes of them."""
    from clawlink.cli.exits import UsageError, exit_of

    _require_sense(args)
    if args.task == "-" and args.context == "-":
        raise UsageError("--task and --context cannot both read standard input; give one of them as text")
    context = None if args.context is None else json_object(ctx.read(args.context), "--context")
    ask = {
        "task": ctx.read(args.task),
        "context": context,
        "priority": args.priority,
        "deadline": args.deadline,
        "parent_task": ctx.parent_task,
    }
    fan_out = not args.to and args.all
    to = _able(args, ctx) if fan_out else list(dict.fromkeys(args.to or ()))
    if not to:
        done = ctx.client.delegate(
            capability=_one_or_more(args.capability), to_any_of=args.to_any_of, key=args.idempotency_key, **ask
        )
        return _go_on(args, ctx, [done])
    if len(to) == 1 and not fan_out:
        return _go_on(args, ctx, [ctx.client.delegate(to[0], key=args.idempotency_key, **ask)])
    stored, failed = _to_each(ctx, to, args.idempotency_key, ask)
    for agent, error in failed.items():
        if stored:
            ctx.warn(f"not delegated to {agent}: {error.message}")
    if not stored:
        raise next(iter(failed.values()))
    code = _go_on(args, ctx, stored, several=True)
    return exit_of(next(iter(failed.values()))) if failed and code is Exit.DONE and not args.any else code


def _require_sense(args: Namespace) -> None:
    from clawlink.cli.exits import UsageError

    pooled = args.capability or args.to_any_of
    if not args.to and not pooled:
        raise UsageError(
            "say who is to do it: --to AGENT, --capability C for whoever can and comes first, or --to-any-of A,B"
        )
    if args.to and pooled:
        raise UsageError("give --to, or in its place --capability and --to-any-of, but not both")
    if args.all and args.to_any_of:
        raise UsageError("--all gives each agent a task of its own, --to-any-of one task to one of them; give one")
    if args.any and args.wait is None:
        raise UsageError("--any says until when to wait; add --wait")


def _able(args: Namespace, ctx: Context) -> list[str]:
    """Return the ids of all others online that have every capability asked for. Raises UnknownAgent."""
    from clawlink.domain.agent import fold
    from clawlink.errors import UnknownAgent

    wanted = {fold(capability) for capability in args.capability}
    found = [
        agent.agent_id
        for agent in ctx.client.discover(capability=args.capability[0]).agents
        if wanted <= {fold(capability) for capability in agent.capabilities} and agent.agent_id != ctx.me.agent_id
    ]
    if not found:
        raise UnknownAgent(
            f"no other agent online can {' and '.join(args.capability)}; leave out --all, and it waits for one",
            field="to_agent",
        )
    return found


def _to_each(
    ctx: Context, to: list[str], key: str | None, ask: dict[str, Any]
) -> tuple[list[Delegated], dict[str, ClawLinkError]]:
    """Delegate to each. What fails for one does not keep the others from theirs."""
    from clawlink.errors import ClawLinkError

    stored: list[Delegated] = []
    failed: dict[str, ClawLinkError] = {}
    for agent in to:
        try:
            stored.append(ctx.client.delegate(agent, key=None if key is None else _own_key(key, agent), **ask))
        except ClawLinkError as error:
            failed[agent] = error
    return stored, failed


def _own_key(key: str, agent: str) -> str:
    """Return the key of one of several tasks: each needs its own, and the same one at a repeat."""
    import hashlib

    return hashlib.sha256(f"{key}\n{agent}".encode()).hexdigest()


def _go_on(args: Namespace, ctx: Context, stored: list[Delegated], *, several: bool = False) -> Exit:
    """Show what was stored; then wait, if that is asked for. What is waited for stands alone on stdout."""
    waits = args.wait is not None
    out = ctx.err if waits else ctx.out
    if ctx.json:
        reply: Any = {"delegated": stored, "count": len(stored)} if several or waits else stored[0]
        out.json(reply, one_line=waits)
    else:
        for done in stored:
            _show(ctx, done, waits=waits)
        if len(stored) > 1 and not waits:
            ctx.out.line(f"All of them: {ctx.command('wait', *(done.message_id for done in stored))}")
    if not waits:
        return Exit.DONE
    out.flush()
    from clawlink.cli.watching import wait_for_tasks

    timeout = None if args.wait == _ENDLESS else args.wait
    return wait_for_tasks(ctx, [done.message_id for done in stored], first_only=args.any, timeout=timeout)


def _show(ctx: Context, done: Delegated, *, waits: bool) -> None:
    from clawlink.cli.commands._shared import show_recipient

    out = ctx.err if waits else ctx.out
    if done.pool is None:
        show_recipient(ctx, "Delegated to", done.recipient, out=out)
    else:
        out.line(_pooled(done.pool), style="bold")
    follow = None if waits else ctx.command("status", done.message_id)
    wait = None if waits else ctx.command("wait", done.message_id)
    out.facts(("task", done.message_id), ("follow", follow), ("wait", wait))


def _pooled(pool: Pooled) -> str:
    from clawlink.cli.render import cell, plural

    who = "whichever of those named" if pool.to_any_of else "whoever"
    who += f" can {' and '.join(pool.capability)} and" if pool.capability else ""
    if not pool.online:
        return cell(f"Stored for {who} claims it first: none of them is online now, so it waits until one comes.")
    return cell(f"Delegated to {who} claims it first; {plural(pool.online, 'agent')} online can.")


def _one_or_more(capabilities: list[str] | None) -> str | list[str] | None:
    return capabilities[0] if capabilities is not None and len(capabilities) == 1 else capabilities or None
