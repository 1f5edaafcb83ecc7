"""``clawlink topic history``: the kept broadcasts, for agents that join later."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import add_slot, completed_by
from clawlink.cli.exits import Exit
from clawlink.cli.values import count
from clawlink.domain.iso_time import read_iso

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.domain.message import KnowledgeBroadcast

_LIMIT = 20


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(
        parser, "TOPIC", "--topic", required=False, help="only on this topic, or on all topics of a pattern: build.*"
    )
    parser.add_argument("--tag", metavar="T", help="only with this tag")
    author = parser.add_argument("--author", metavar="AGENT", help="only from this agent: a name or an id")
    completed_by(author, "agents")
    parser.add_argument("--since", metavar="TIME", help="only since this time: 30m or 2h ago, or a time in ISO-8601")
    parser.add_argument(
        "--limit", type=count, default=_LIMIT, metavar="N", help=f"most entries to list (default {_LIMIT})"
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """List the newest first."""
    from clawlink.cli.messages import show_message
    from clawlink.cli.render import plural
    from clawlink.protocol.replies import KnowledgeList

    found, after = _find(args, ctx)
    if ctx.json:
        ctx.out.json(KnowledgeList(found, len(found), after))
        return Exit.DONE
    for told in found:
        show_message(ctx, told, told.message_id, {})
        ctx.out.line()
    more = "; there is more: --limit N shows more" if after is not None else ""
    ctx.out.line(f"{plural(len(found), 'broadcast')}{more}." if found else "No broadcast matches.")
    return Exit.DONE


def _find(args: Namespace, ctx: Context) -> tuple[list[KnowledgeBroadcast], str | None]:
    """Return up to ``limit`` broadcasts. A page may be short before the last."""
    from clawlink.domain.limits import MAX_LIST_LENGTH

    visitor = ctx.visitor
    author = None if args.author is None else _id_of(ctx, args.author)
    since = None if args.since is None else _moment(args.since, ctx.now)
    found: list[KnowledgeBroadcast] = []
    after: str | None = None
    while True:
        page = visitor.knowledge(
            topic=args.topic,
            tag=args.tag,
            author=author,
            since=since,
            limit=min(args.limit - len(found), MAX_LIST_LENGTH),
            after=after,
        )
        found += page.broadcasts
        after = page.next
        if after is None or len(found) >= args.limit:
            return found, after


def _id_of(ctx: Context, agent: str) -> str:
    """Return the id of the agent of that name. An agent that has left is known by its id only."""
    from clawlink.cli import ids

    named = [one.agent_id for one in ctx.visitor.discover(name=agent, status="all").agents]
    return named[0] if len(named) == 1 else ids.agent(ctx, agent)


def _moment(text: str, now: float) -> float | str:
    """Return an age as a time, and a time unchanged for the relay to read. Raises UsageError."""
    import argparse

    from clawlink.cli.exits import UsageError
    from clawlink.cli.values import span

    if text[-1:] in ("s", "m", "h", "d"):
        try:
            return round(now - span(text), 3)
        except argparse.ArgumentTypeError:
            pass
    else:
        try:
            read_iso(text)
        except ValueError:
            with contextlib.suppress(ValueError):
                return float(text)
        else:
            return text
    raise UsageError(
        f"--since takes how long ago, as 90s, 30m, 2h or 3d, or a time, as 2026-11-29T08:00:00Z, and not {text!r}"
    )
