"""Acting as the operator of a relay: with the admin token, which this account has where its own relay runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from clawlink.cli.context import Context
    from clawlink.cli.settings import Where


def add_admin_token(parser: ArgumentParser) -> None:
    """Add the flag for the operator's token."""
    parser.add_argument("--admin-token", metavar="T", help="the relay's admin token (or CLAWLINK_ADMIN_TOKEN)")


def as_operator(args: Namespace, ctx: Context) -> tuple[Where, Where]:
    """Return where the relay is, for everyone and for the operator."""
    from clawlink.cli.settings import visiting

    where = ctx.located(visiting(ctx.given, ctx.identities)._replace(saved=None))
    given = args.admin_token or ctx.environ.get("CLAWLINK_ADMIN_TOKEN")
    operating = where._replace(token=given or _kept(where, ctx) or where.token)
    if args.admin_token:
        _refuse_wrong(operating, ctx)
    return where, operating


def _refuse_wrong(operating: Where, ctx: Context) -> None:
    """Refuse a wrong admin token where the relay takes all peers of this machine as its operator.

    Everywhere else the relay refuses it. Raises NotAuthenticated.
    """
    from clawlink.client.proxy import on_this_machine
    from clawlink.errors import ClawLinkError, NotAuthenticated

    client = ctx.connect(operating)
    try:
        if not on_this_machine(urlsplit(client.relay).hostname or "") or client.session().right != "local":
            return
    except (ClawLinkError, ValueError):  # the command itself meets the error
        return
    raise NotAuthenticated(
        f"this is not the admin token of {client.relay}, where everybody on this machine is the operator: leave "
        "--admin-token out",
        field="admin_token",
    )


def _kept(where: Where, ctx: Context) -> str | None:
    """Return the admin token kept by this account's relay, if the relay that answers proves to be that one."""
    from clawlink.config import DEFAULT_PORT, data_folder_of, folder_of

    try:
        port = urlsplit(where.relay.partition(",")[0]).port or DEFAULT_PORT
        folders = [data_folder_of(port, ctx.environ), folder_of(port, ctx.environ)]
    except (ValueError, RuntimeError):
        return None
    found = (_proven(folder, where, ctx) for folder in folders if folder is not None)
    return next((token for token in found if token is not None), None)


def _proven(folder: Path, where: Where, ctx: Context) -> str | None:
    """Return the admin token in a folder, if the relay that answers proves that it knows the secret there."""
    import secrets

    from clawlink.client.proof import is_same_relay
    from clawlink.config import ADMIN_TOKEN, SECRET
    from clawlink.errors import ClawLinkError
    from clawlink.protocol.proof import key_id, relay_key

    try:
        token, secret = ((folder / name).read_text("ascii").strip() for name in (ADMIN_TOKEN, SECRET))
        key = secrets.token_urlsafe()
        known_by = relay_key(secret.encode(), key_id(key))
        same = is_same_relay(where.relay, agent_key=key, relay_key=known_by, ca=where.ca, timeout=ctx.timeout)
    except (OSError, ValueError, RuntimeError, ClawLinkError):
        return None
    return token if same else None
