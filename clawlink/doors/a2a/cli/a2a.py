"""``clawlink a2a``: the clients of A2A that a relay lets in, its remote agents of A2A, and cards."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_REMOTE, _KEY = "a2a-agents.json", "a2a-key.pem"
_FILES = {"client": "a2a-clients.json", "add": _REMOTE, "list": _REMOTE, "remove": _REMOTE, "key": _KEY}
_MAX_CARD_BYTES = 1024 * 1024
_USAGE = {
    "key": "clawlink a2a key",
    "add": "clawlink a2a add URL",
    "list": "clawlink a2a list",
    "remove": "clawlink a2a remove NAME",
    "client add": "clawlink a2a client add NAME",
    "client list": "clawlink a2a client list",
    "client remove": "clawlink a2a client remove NAME",
}


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", choices=(*_FILES, "card"), help="one of these actions")
    parser.add_argument(
        "words",
        nargs="*",
        default=[],  # without it argparse calls the words required
        metavar="WORD",
        help="client: add NAME, list, or remove NAME; add: the URL of a remote agent; remove: its name here; "
        "card: the id or name of an agent, or nothing for the relay's own",
    )
    known = ", ".join(dict.fromkeys(_FILES.values()))
    parser.add_argument("--file", metavar="FILE", help=f"the file (default {known})")
    parser.add_argument("--credential", metavar="C", help="add: what the remote agent asks for; - reads standard input")
    parser.add_argument("--signed", action="store_true", help="add: take no card without a signature that fits")
    parser.add_argument("--replace", action="store_true", help="client add, add: take the place of one of that name")
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
    args.file = args.file or _FILES[args.action]
    words = [args.action, *args.words]
    what = " ".join(words[: 2 if args.action == "client" else 1])
    if what not in _USAGE or len(words) != len(_USAGE[what].split()) - 2:
        raise UsageError("give it as: " + _USAGE.get(what, "; ".join(_USAGE.values())))
    try:
        return _VERBS[what](args, ctx)
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
        ("relay", _read_by("--a2a-clients", args.file)),
    )
    return Exit.DONE


def _list(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.clients import CLIENTS

    clients = CLIENTS.read(args.file)
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
    from clawlink.doors.a2a.wire.clients import CLIENTS

    name = args.words[1]
    CLIENTS.remove(args.file, name)
    if ctx.json:
        ctx.out.json({"name": name, "file": args.file, "removed": True})
    else:
        ctx.out.line(f"Removed client {cell(name)} from {cell(args.file)}; its credential counts no longer.")
    return Exit.DONE


def _add_agent(args: Namespace, ctx: Context) -> Exit:
    import msgspec

    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.remotes import add_remote, card_url, remote_of

    credential = None if args.credential is None else ctx.read(args.credential)
    url = args.words[0]
    card = _fetched(card_url(url), credential, ctx)
    remote = remote_of(card, url, name=args.named, credential=credential)
    signed_by = _signer(card, card_url(url), ctx, required=args.signed)
    remote = msgspec.structs.replace(remote, signed_by=signed_by)
    add_remote(args.file, remote, replace=args.replace)
    if ctx.json:
        ctx.out.json(
            {"name": remote.name, "url": url, "file": args.file, "capabilities": remote.capabilities}
            | {"signed_by": signed_by}
        )
        return Exit.DONE
    ctx.out.line(f"Added remote agent {cell(remote.name)} to {cell(args.file)}.", style="bold")
    ctx.out.facts(
        ("called at", cell(remote.interface)),
        ("signed by", signed_by or "no key that was checked"),
        ("capabilities", cell(", ".join(remote.capabilities)) or None),
        ("relay", _read_by("--a2a-agents", args.file)),
    )
    return Exit.DONE


def _read_by(flag: str, file: str) -> str:
    """Return the command of the relay that reads the file, and when a running relay reads it."""
    import os
    import shlex

    from clawlink.domain.terminal import cell

    path = cell(shlex.quote(os.path.abspath(file)))
    return f"clawlink serve --a2a {flag} {path}   (a relay that runs with this flag reads it again by itself)"


def _fetched(url: str, credential: str | None, ctx: Context) -> bytes:
    """Return a card. Raises RelayUnreachable, BadRequest."""
    import requests

    from clawlink.errors import BadRequest, NotAuthenticated, RelayUnreachable

    headers = {"Accept": "application/json"} | ({} if credential is None else {"Authorization": f"Bearer {credential}"})
    try:
        with requests.get(url, headers=headers, timeout=ctx.timeout, stream=True) as got:
            body: bytes = got.raw.read(_MAX_CARD_BYTES + 1, decode_content=True)
            status = got.status_code
    except (requests.RequestException, OSError) as error:
        raise RelayUnreachable(f"the card at {url} cannot be had: {type(error).__name__}") from None
    if status == 401:
        then = "give --credential" if credential is None else "it does not take this --credential"
        raise NotAuthenticated(f"{url} answered with HTTP 401 instead of a card; {then}", field="credential")
    if status != 200:
        raise BadRequest(f"{url} answered with HTTP {status} instead of a card", field="url")
    if len(body) > _MAX_CARD_BYTES:
        raise BadRequest(f"the card at {url} has more than {_MAX_CARD_BYTES} bytes", field="url")
    return body


def _signer(card: bytes, url: str, ctx: Context, *, required: bool) -> str | None:
    """Return the thumbprint of the key that signed a card, None if none did. Raises BadRequest for a false signature.

    The key is at the card's own origin: a key from elsewhere would prove nothing about that origin.
    """
    from urllib.parse import urlsplit

    import msgspec

    from clawlink.doors.a2a.wire import signatures
    from clawlink.errors import BadRequest

    read = msgspec.json.decode(card)
    origin = urlsplit(url)[:2]
    found = [one for one in signatures.claims(read) if urlsplit(one.jku)[:2] == origin]
    if found and (required or signatures.available()):
        return signatures.verify(read, found[0], _fetched(found[0].jku, None, ctx))
    if required:
        raise BadRequest(f"the card at {url} has no signature by a key of its own host", field="signatures")
    return None


def _make_key(args: Namespace, ctx: Context) -> Exit:
    from pathlib import Path

    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.signatures import make_key

    key = make_key(Path(args.file))
    if ctx.json:
        ctx.out.json({"file": args.file, "kid": key.kid})
        return Exit.DONE
    ctx.out.line(f"Made a key in {cell(args.file)}.", style="bold")
    ctx.out.facts(
        ("thumbprint", key.kid),
        ("relay", f"clawlink serve --a2a --a2a-key {cell(args.file)}"),
    )
    return Exit.DONE


def _list_agents(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.remotes import REMOTES

    remotes = REMOTES.read(args.file)
    if ctx.json:
        shown = [{"name": one.name, "url": one.url, "capabilities": one.capabilities} for one in remotes]
        ctx.out.json({"agents": shown, "count": len(shown)})
    elif not remotes:
        ctx.out.line(f"{cell(args.file)} has no remote agents; add one: clawlink a2a add URL")
    else:
        rows = [(cell(one.name), cell(one.url), cell(", ".join(one.capabilities))) for one in remotes]
        ctx.out.table(("agent", "url", "capabilities"), rows)
    return Exit.DONE


def _remove_agent(args: Namespace, ctx: Context) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.a2a.wire.remotes import REMOTES

    name = args.words[0]
    REMOTES.remove(args.file, name)
    if ctx.json:
        ctx.out.json({"name": name, "file": args.file, "removed": True})
    else:
        ctx.out.line(f"Removed remote agent {cell(name)} from {cell(args.file)}; it leaves the relay.")
    return Exit.DONE


_VERBS = {
    "client add": _add,
    "client list": _list,
    "client remove": _remove,
    "key": _make_key,
    "add": _add_agent,
    "list": _list_agents,
    "remove": _remove_agent,
}


def _card(args: Namespace, ctx: Context) -> Exit:
    import msgspec

    from clawlink.client.calls import Call
    from clawlink.doors.a2a import cards
    from clawlink.doors.a2a.wire.routing import PROTOCOL_VERSION
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
            card = read(f"{path}/extendedAgentCard?A2A-Version={PROTOCOL_VERSION}")
    except UnknownRoute:
        raise ClawLinkError("this relay does not serve A2A; its operator starts it with --a2a") from None
    ctx.out.json(card)
    return Exit.DONE
