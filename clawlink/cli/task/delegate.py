"""``clawlink delegate``: ask an agent, several agents, or the first agent that can, to do a task."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.arguments import add_slot, completed_by
from clawlink.cli.exits import Exit
from clawlink.cli.files import add_attach
from clawlink.cli.values import (
    add_idempotency_key,
    add_parent,
    add_priority,
    add_quiet,
    json_value,
    lifetime,
    names,
    span,
)

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.replies import Delegated, Pooled

_ENDLESS = float("inf")


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(
        parser,
        "AGENT",
        "--to",
        unless=("--capability", "--to-any-of"),
        required=False,
        kind="agents",
        type=names,
        action="extend",
        help="agents that are to do the task: names or ids, separated by commas; each gets a task of its own",
    )
    add_slot(parser, "TASK", "--task", help="the task; - reads standard input")
    parser.add_argument(
        "--capability",
        type=names,
        action="extend",
        metavar="C,D",
        help="the first agent with this capability gets the task; of several, with all of them",
    )
    any_of = parser.add_argument(
        "--to-any-of",
        type=names,
        action="extend",
        metavar="A,B",
        help="the first of these agents to claim the task gets it",
    )
    completed_by(any_of, "agents")
    parser.add_argument("--context", metavar="JSON", help="data for the task, as a JSON object; - reads standard input")
    add_attach(parser)
    parser.add_argument("--deadline", type=lifetime, metavar="S", help="time until the task expires: 60, 10m, 2h")
    add_parent(parser)
    parser.add_argument(
        "--wait",
        nargs="?",
        type=span,
        const=_ENDLESS,
        metavar="SECONDS",
        help="wait until the task is finished, at most this long; then go on as clawlink wait",
    )
    parser.add_argument("--any", action="store_true", help="with --wait and several tasks: wait until one is completed")
    parser.add_argument(
        "--all",
        action="store_true",
        help="with --capability: give each online agent that has it a task of its own",
    )
    add_priority(parser)
    add_idempotency_key(parser)
    add_quiet(parser, "each task; with --wait on standard error")


def run(args: Namespace, ctx: Context) -> Exit:
    """Store the tasks for their assignees, and print how to follow them."""
    from clawlink.cli import ids
    from clawlink.cli.exits import UsageError, exit_of
    from clawlink.cli.files import attached
    from clawlink.cli.shared import repeatable
    from clawlink.client.calls import repeat_key

    _require_sense(args)
    if args.task == "-" and args.context == "-":
        raise UsageError("--task and --context cannot both read standard input; give one of them as text")
    context = None if args.context is None else json_value(ctx.read(args.context), "--context")
    ask = {
        "task": _what(args, ctx),
        "context": context,
        "priority": args.priority,
        "deadline": args.deadline,
        "parent_task": ctx.parent_task,
    }
    to = _able(args, ctx) if args.all else _distinct([ids.agent(ctx, one) for one in args.to or []], ctx)
    any_of = None if args.to_any_of is None else [ids.agent(ctx, one) for one in args.to_any_of]
    key = repeat_key(args.idempotency_key)
    ask["attachments"] = attached(args, ctx)
    if not to:
        pool = _one_or_more(args.capability)
        with repeatable(key):
            done = ctx.client.delegate(capability=pool, to_any_of=any_of, key=key, **ask)
        return _go_on(args, ctx, [done])
    if len(to) == 1 and not args.all:
        with repeatable(key):
            done = ctx.client.delegate(to[0], key=key, **ask)
        return _go_on(args, ctx, [done])
    stored, failed = _to_each(ctx, to, key, ask)
    if not stored:
        raise _none_stored(ctx, failed)
    for agent, error in failed.items():
        ctx.warn(f"not delegated to {agent}: {error.message}")
    code = _go_on(args, ctx, stored, several=True)
    return exit_of(next(iter(failed.values()))) if failed and code is Exit.DONE and not args.any else code


def _distinct(named: list[str], ctx: Context) -> list[str]:
    """Return each agent once, whether it is given by its name in any form, or by its id."""
    from clawlink.domain.agent import fold

    if len(named) < 2:
        return named
    listed, _ = ctx.agents.listed()
    ids = {agent.agent_id for agent in listed}
    by_name: dict[str, set[str]] = {}
    for agent in listed:
        by_name.setdefault(fold(agent.name), set()).add(agent.agent_id)
    once: dict[str, str] = {}
    for one in named:
        held_by = by_name.get(fold(one), set())
        once.setdefault(one if one in ids else next(iter(held_by)) if len(held_by) == 1 else fold(one), one)
    return list(once.values())


def _require_sense(args: Namespace) -> None:
    from clawlink.cli.exits import UsageError
    from clawlink.domain.limits import MAX_POOL_CAPABILITIES

    pooled = args.capability or args.to_any_of
    if not args.to and not pooled:
        raise UsageError("name the recipient: AGENT, --capability C for the first agent that can, or --to-any-of A,B")
    if args.to and pooled:
        raise UsageError("give --to, or in its place --capability and --to-any-of, but not both")
    if args.all and args.to_any_of:
        raise UsageError("--all gives each agent a task of its own, --to-any-of one task to one of them; give one")
    if args.all and args.to:
        raise UsageError("--all is for all online agents that have a --capability; with --to, name them all: --to A,B")
    if not args.all and len(args.capability or ()) > MAX_POOL_CAPABILITIES:
        raise UsageError(
            f"--capability takes {MAX_POOL_CAPABILITIES} at most, which one agent must all have; "
            f"{len(args.capability)} are given"
        )
    if args.any and args.wait is None:
        raise UsageError("--any says until when to wait; add --wait")


def _what(args: Namespace, ctx: Context) -> str:
    """Return the text of the task. Raises UsageError if it is empty."""
    from clawlink.cli.exits import UsageError

    task = ctx.read(args.task)
    if not task.strip():
        raise UsageError(
            "nothing came on standard input, where --task - reads the task"
            if args.task == "-"
            else "--task is empty; give a text"
        )
    return task


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
        what = "capability" if len(args.capability) == 1 else "capabilities"
        raise UnknownAgent(
            f"no other agent online has the {what} {' and '.join(map(repr, args.capability))}; "
            "leave out --all, and it waits for one",
            field="to_agent",
        )
    return found


def _to_each(
    ctx: Context, to: list[str], key: str, ask: dict[str, Any]
) -> tuple[list[Delegated], dict[str, ClawLinkError]]:
    """Delegate to each agent. A failure for one does not stop the others."""
    from clawlink.cli.shared import repeatable
    from clawlink.errors import ClawLinkError

    stored: list[Delegated] = []
    failed: dict[str, ClawLinkError] = {}
    for agent in to:
        try:
            with repeatable(key):
                stored.append(ctx.client.delegate(agent, key=_own_key(key, agent), **ask))
        except ClawLinkError as error:
            failed[agent] = error
    return stored, failed


def _none_stored(ctx: Context, failed: dict[str, ClawLinkError]) -> ClawLinkError:
    """Return the error to raise if no agent got its task: that of the first.

    The errors of the others were printed before.
    """
    from clawlink.errors import UnknownAgent

    (_, first), *others = failed.items()
    if others and all(isinstance(e, UnknownAgent) and e.field == "to_agent" for e in failed.values()):
        names = ", ".join(map(repr, failed))
        return UnknownAgent(
            f"no agents with the ids or names {names} are registered here; list the agents with: clawlink discover",
            field="to_agent",
        )
    for agent, error in others:
        ctx.warn(f"not delegated to {agent}: {error.message}")
    return first


def _own_key(key: str, agent: str) -> str:
    """Return the idempotency key of one of several tasks: each needs its own, and the same at a repeat."""
    import hashlib

    return hashlib.sha256(f"{key}\n{agent}".encode()).hexdigest()


def _go_on(args: Namespace, ctx: Context, stored: list[Delegated], *, several: bool = False) -> Exit:
    """Show the stored tasks; with --wait then wait for them. Only the result goes to stdout."""
    waits = args.wait is not None
    out = ctx.err if waits else ctx.out
    if ctx.json:
        reply: Any = {"delegated": stored, "count": len(stored)} if several else stored[0]
        out.json(reply, one_line=waits)
    elif args.quiet:
        for done in stored:
            out.line(done.message_id)
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
    from clawlink.cli.shared import show_recipient

    out = ctx.err if waits else ctx.out
    if done.pool is None:
        show_recipient(ctx, "Delegated to", done.recipient, out=out)
    else:
        out.line(_pooled(done.pool), style="bold")
        for line in _meant(ctx, done, done.pool):
            out.line(line)
    follow = None if waits else ctx.command("task", done.message_id)
    wait = None if waits else ctx.command("wait", done.message_id)
    out.facts(("task", done.message_id), ("follow", follow), ("wait", wait))


def _meant(ctx: Context, done: Delegated, pool: Pooled) -> list[str]:
    """Return the capability that is meant, for each that no agent has and that looks like a known one."""
    from clawlink.domain.terminal import cell

    if pool.online or pool.to_any_of:
        return []
    alike = {skill: meant for skill in pool.capability if (meant := ctx.agents.skill_alike(skill)) is not None}
    lines = [cell(f'No agent here has "{skill}"; did you mean: {meant}?') for skill, meant in alike.items()]
    return [*lines, f"take it back: {ctx.command('cancel', done.message_id)}"] if lines else []


def _pooled(pool: Pooled) -> str:
    from clawlink.cli.render import plural
    from clawlink.domain.terminal import cell

    who = "the first of the named agents" if pool.to_any_of else "the first agent"
    if pool.capability:
        word = "capability" if len(pool.capability) == 1 else "capabilities"
        who += f" with the {word} " + " and ".join(f'"{skill}"' for skill in pool.capability)
    who += " that claims it"
    if not pool.online:
        return cell(f"Stored for {who}: none of them is online now, so it waits until one comes.")
    return cell(f"Delegated to {who}; {plural(pool.online, 'agent')} online can.")


def _one_or_more(capabilities: list[str] | None) -> str | list[str] | None:
    return capabilities[0] if capabilities is not None and len(capabilities) == 1 else capabilities or None
