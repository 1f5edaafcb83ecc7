"""``clawlink agent kick``: remove an agent and free its name, as the operator of the relay."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import completed_by
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.settings import Where


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    completed_by(parser.add_argument("agent", metavar="AGENT", help="id or name of the agent"), "agents")
    parser.add_argument("--admin-token", metavar="T", help="the relay's admin token (or CLAWLINK_ADMIN_TOKEN)")


def run(args: Namespace, ctx: Context) -> Exit:
    """Tell the relay; where it runs on this account, its admin token is at hand."""
    from clawlink.cli import ids
    from clawlink.cli.render import plural, quoted
    from clawlink.cli.settings import visiting
    from clawlink.errors import NotAuthenticated

    where = ctx.located(visiting(ctx.given, ctx.identities)._replace(saved=None))
    token = args.admin_token or ctx.environ.get("CLAWLINK_ADMIN_TOKEN") or _kept(where, ctx) or where.token
    agent = args.agent
    if ids.is_prefix(agent):
        ctx.connect(where)  # the list of agents takes the token of everyone, which the operator may not have
        with contextlib.suppress(NotAuthenticated):
            agent = ids.agent(ctx, agent)
    gone = ctx.connect(where._replace(token=token)).kick(agent)
    if ctx.json:
        ctx.out.json(
            {"status": gone.status, "agent_id": gone.agent_id, "dropped": gone.dropped, "waiting": gone.waiting}
        )
        return Exit.DONE
    waits = f", {plural(gone.waiting, 'task waits', 'tasks wait')} for it to come back" if gone.waiting else ""
    unread = plural(gone.dropped, "unread message")
    who = quoted(args.agent, 40)
    ctx.out.line(f"{who} is removed from {where.relay}, and the name is free; {unread} dropped{waits}.")
    return Exit.DONE


def _kept(where: Where, ctx: Context) -> str | None:
    """Return the admin token kept by this account's relay, if the relay that answers proves to be that one."""
    import secrets
    from urllib.parse import urlsplit

    from clawlink.client.proof import is_same_relay
    from clawlink.config import ADMIN_TOKEN, DEFAULT_PORT, SECRET, folder_of
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.proof import key_id, relay_key

    try:
        folder = folder_of(urlsplit(where.relay.partition(",")[0]).port or DEFAULT_PORT, ctx.environ)
        token, secret = ((folder / name).read_text("ascii").strip() for name in (ADMIN_TOKEN, SECRET))
        key = secrets.token_urlsafe()
        known_by = relay_key(secret.encode(), key_id(key))
        same = is_same_relay(where.relay, agent_key=key, relay_key=known_by, ca=where.ca, timeout=ctx.timeout)
    except (OSError, ValueError, RuntimeError, ClawLinkError):
        return None
    return token if same else None
