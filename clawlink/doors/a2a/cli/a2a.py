"""``clawlink a2a``: which clients of A2A a relay lets in, and the cards that they see."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_FILE = "a2a-clients.json"
_USAGE = {
    "client add": "clawlink a2a client add NAME",
    "client list": "clawlink a2a client list",
    "client remove": "clawlink a2a client remove NAME",
}


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", choices=("client", "card"), help="which clients are let in, or a card")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="client: add NAME, list, or remove NAME; card: the id or name of an agent, or nothing for the relay's own",
    )
    parser.add_argument("--file", default=_FILE, metavar="FILE", help=f"client: the file (default {_FILE})")
    parser.add_argument(
        "--replace", action="store_true", help="client add: give a client of this name a new credential"
    )
    parser.add_argument("--pool", action="store_true", help="card: the word is a capability, and the card its pool's")
    parser.add_argument("--extended", action="store_true", help="card: show when the agent was last seen, too")


def run(args: Namespace, ctx: Context) -> Exit:
    """Do it."""
    from clawlink.cli.exits import UsageError
    from clawlink.errors import BadRequest

    if args.action == "card":
        if len(args.words) > 1 or (not args.words and (args.pool or args.extended)):
            raise UsageError("name one agent: clawlink a2a card AGENT")
        return _card(args, ctx)
    what = f"client {args.words[0]}" if args.words else ""
    if what not in _USAGE or len(args.words) != len(_USAGE[what].split()) - 3:
        raise UsageError("give it as: " + _USAGE.get(what, "; ".join(_USAGE.values())))
    try:
        return {"client add": _add, "client list": _list, "client remove": _remove}[what](args, ctx)
    except BadRequest as error:
        raise UsageError(error.message, field=error.field) from None


def _add(args: Namespace, ctx: Context) -> Exit:
    from datetime import datetime, timezone

    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.clients import add_client

    name = args.words[1]
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    credential = add_client(args.file, name, at=at, replace=args.replace)
    if ctx.json:
        ctx.out.json({"name": name, "file": args.file, "credential": credential})
        return Exit.DONE
    ctx.out.line(f"Added client {cell(name)} to {cell(args.file)}.", style="bold")
    ctx.out.facts(
        ("credential", credential),
        ("client", "sends it as 'Authorization: Bearer ...'; it is shown this once"),
        ("relay", f"clawlink serve --a2a --a2a-clients {cell(args.file)}   (a relay that runs reads it by itself)"),
    )
    return Exit.DONE


def _list(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.clients import read_clients

    clients = read_clients(args.file)
    if ctx.json:
        shown = [{"name": client.name, "added_at": client.added_at} for client in clients]
        ctx.out.json({"clients": shown, "count": len(shown)})
    elif not clients:
        ctx.out.line(f"{cell(args.file)} has no clients; add one: clawlink a2a client add NAME")
    else:
        ctx.out.table(("client", "added"), [(cell(one.name), cell(one.added_at)) for one in clients])
    return Exit.DONE


def _remove(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.clients import remove_client

    name = args.words[1]
    remove_client(args.file, name)
    if ctx.json:
        ctx.out.json({"name": name, "file": args.file, "removed": True})
    else:
        ctx.out.line(f"Removed client {cell(name)} from {cell(args.file)}; its credential counts no longer.")
    return Exit.DONE


def _card(args: Namespace, ctx: Context) -> Exit:
    import msgspec

    from clawlink.client.calls import Call
    from clawlink.doors.a2a import cards
    from clawlink.errors import ClawLinkError, UnknownRoute
    from clawlink.protocol.endpoint import Endpoint

    named = args.words[0] if args.words else None
    path = "" if named is None else cards.pool_path(named) if args.pool else cards.path_of(named)
    get = Endpoint("a2a_card", "GET", cards.CARD_PATH, "", None, text=True)

    def read(url: str) -> Any:
        return ctx.visitor.perform(Call(get, url, msgspec.json.Decoder().decode, None, True))

    try:
        card = read(path + cards.CARD_PATH)
        if args.extended:
            card = read(f"{path}/extendedAgentCard?A2A-Version={cards.PROTOCOL_VERSION}")
    except UnknownRoute:
        raise ClawLinkError("this relay does not serve A2A; its operator starts it with --a2a") from None
    ctx.out.json(card)
    return Exit.DONE
