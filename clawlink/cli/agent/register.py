"""``clawlink register``: register an agent here, or resume it, and keep its identity."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import add_slot, may_be_empty
from clawlink.cli.exits import Exit
from clawlink.cli.values import add_caps, add_quiet, any_names

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from clawlink.cli.context import Context
    from clawlink.client.identity import Saved
    from clawlink.protocol.replies import Registered

_SHOWN_NAME = 40
_SECRETS = frozenset({"agent_key", "relay_key"})


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(parser, "NAME", "--name", kind="identities", help="the agent's name, used by other agents to address it")
    add_caps(parser)
    parser.add_argument("--description", metavar="TEXT", help="one sentence about the agent; an empty one is none")
    topics = parser.add_argument(
        "--subscribe",
        type=any_names,
        metavar="A,B.*",
        help="topics of the broadcasts to get, separated by commas; build.* takes all topics below build, * all "
        "topics, and an empty value none",
    )
    may_be_empty(topics)
    parser.add_argument(
        "--notices",
        action=BooleanOptionalAction,
        default=None,
        help="get notices of agents that join or leave, and of changed files",
    )
    parser.add_argument(
        "--no-claim", action="store_true", help="make no agent key: everybody may act as this agent, as in 1.0.x"
    )
    add_quiet(parser, "the agent")


def run(args: Namespace, ctx: Context) -> Exit:
    """Register; the identity of that name on that relay is resumed, with its mailbox."""
    from msgspec.structs import asdict

    from clawlink.cli.render import named, quoted
    from clawlink.domain.terminal import cell

    done, me, path, before = _registered(args, ctx)
    _warn_of_spaces(args, ctx)
    if ctx.json:
        reply = {name: value for name, value in asdict(done).items() if name not in _SECRETS}
        ctx.out.json({**reply, "claimed": me.agent_key is not None, "relay": me.relay, "identity_file": str(path)})
        return Exit.DONE
    if args.quiet:
        ctx.out.line(cell(me.agent_id))
        return Exit.DONE
    ctx.acting_as = me
    verb = "Resumed" if done.resumed else "Registered"
    renamed = before is not None and before.agent_id == me.agent_id and before.name != me.name
    once = f", which was called {quoted(before.name, _SHOWN_NAME)}" if before is not None and renamed else ""
    ctx.out.line(f"{verb} {named(me.name, me.agent_id)} on {me.relay}{once}.", style="bold")
    ctx.out.facts(
        ("can do", cell(", ".join(done.agent.capabilities)) or ("nothing" if args.caps == [] else None)),
        ("hears of", None if me.subscriptions is None else cell(", ".join(me.subscriptions)) or "nothing"),
        ("notices", None if me.notices is None else "on" if me.notices else "off"),
        ("identity", cell(str(path))),
        ("next", f"{ctx.command('discover')}   or   {ctx.command('poll', wait=True)}"),
    )
    return Exit.DONE


def _warn_of_spaces(args: Namespace, ctx: Context) -> None:
    """Tell how a list is written where a space may stand for a comma."""
    for flag, given in (("--caps", args.caps), ("--subscribe", args.subscribe)):
        spaced = next((one for one in given or () if " " in one), None)
        if spaced is not None:
            apart = shlex.quote(",".join(spaced.split()))
            ctx.warn(f"{spaced!r} is one name; if several are meant, separate them by commas: {flag} {apart}")


def _registered(args: Namespace, ctx: Context) -> tuple[Registered, Saved, Path, Saved | None]:
    """Register, and keep the identity. Return the relay's reply, the identity, its file, and the identity before."""
    import contextlib
    import socket

    from clawlink.cli.reregistration import known_elsewhere, relay_id_of
    from clawlink.cli.settings import registering
    from clawlink.client.identity import Saved
    from clawlink.client.proof import forget_moved
    from clawlink.errors import ClawLinkError

    # The id of a kept identity stands for its name, which a keyboard may not be able to type.
    name = next((one.name for one in ctx.identities.all() if one.agent_id == args.name), args.name)
    # The file is made first: a claimed name is lost if its key cannot be kept.
    with ctx.identities.place(name) as place:
        where = known_elsewhere(ctx, ctx.located(registering(ctx.given, name, ctx.identities)), name)
        before = where.saved

        def kept(given: Any, field: str) -> Any:
            """Return what is said now, or was said before: a relay that was restarted has to be told it again."""
            return getattr(before, field, None) if given is None else given

        subscriptions, notices = kept(args.subscribe, "subscriptions"), kept(args.notices, "notices")
        client = ctx.connect(where)
        done = client.register(
            name,
            capabilities=kept(args.caps, "capabilities"),
            description=kept(args.description, "description"),
            machine=socket.gethostname()[:128],
            subscriptions=subscriptions,
            claim=not args.no_claim,
            notices=notices,
            key=place.key(where.relay) if before is None and not args.no_claim else None,
        )
        me = Saved(
            name=done.agent.name,
            agent_id=done.agent.agent_id,
            relay=where.relay,
            token=where.token,
            agent_key=client.agent_key,
            ca=where.ca,
            capabilities=list(done.agent.capabilities),
            description=done.agent.description,
            subscriptions=subscriptions,
            notices=notices,
            relay_id=relay_id_of(client) if client.relay_key else None,
            relay_key=client.relay_key,
        )
        try:
            path = place.keep(me)
            forget_moved(ctx.identities, before, me.relay)
        except OSError:
            if before is None:
                with contextlib.suppress(ClawLinkError):
                    client.leave()
            raise
    return done, me, path, before
