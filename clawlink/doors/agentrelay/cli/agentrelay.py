"""``clawlink agentrelay``: AgentRelay's own command line, over a local folder or over the relay."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from clawlink.cli.arguments import may_be_empty
from clawlink.cli.exits import Exit
from clawlink.cli.values import whole

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.doors.agentrelay.client.folder import Folder
    from clawlink.doors.agentrelay.client.remote import Remote

    Events: TypeAlias = Folder | Remote

_LAST = 20
_LOOK_SECONDS = 0.2


class _Words(NamedTuple):
    """The words that an action takes after its name: the least number, the greatest number, and their names."""

    least: int
    most: int
    usage: str


_ACTIONS = {
    "send": _Words(3, 5, "AGENT TYPE ID [CONTENT|-] [SECRET]"),
    "receive": _Words(1, 1, "MESSAGE|-"),
    "update": _Words(1, 3, "ID [JSON|-] [NEXT_ID]"),
    "cmp": _Words(1, 2, "ID [SECRET]"),
    "verify": _Words(1, 1, "MESSAGE|-"),
    "complete": _Words(1, 5, "ID [RESULT] [NEXT_AGENT] [NEXT_ID] [SECRET]"),
    "cleanup": _Words(0, 2, "[TTL_HOURS] [REGISTRY_TTL_HOURS]"),
    "log": _Words(0, 1, "[ID]"),
}
# The word of each action that is a text; with - it is read from standard input.
_TEXTS = {"send": 3, "receive": 0, "update": 1, "verify": 0}


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", choices=tuple(_ACTIONS), help="one of these actions")
    told = "; ".join(f"{name} {words.usage}" for name, words in _ACTIONS.items())
    told += ". CONTENT is a JSON object; in a folder it names who sends as sender_agent, unless --as does"
    may_be_empty(parser.add_argument("words", nargs="*", default=[], metavar="WORD", help=told))
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--via-relay", action="store_true", help="keep the events at the relay (default where an identity is kept here)"
    )
    place.add_argument(
        "--local",
        action="store_true",
        help="keep the events in a folder: $OPENCLAW_DATA_DIR, or ~/.openclaw/data (default without an identity)",
    )
    parser.add_argument(
        "--long", action="store_true", help="send: write the pointer in full, for a reader that is the original"
    )
    parser.add_argument("--follow", action="store_true", help="log: stay, and show new lines")
    parser.add_argument(
        "--last", type=whole, default=_LAST, metavar="N", help=f"log: how many lines to begin with (default {_LAST})"
    )


class _Place(NamedTuple):
    """The place of the events: the functions of the verbs, its name for a person, and for a program."""

    events: Events
    local: bool
    said: str
    name: str


def run(args: Namespace, ctx: Context) -> Exit:
    """Do it, where the events are kept."""
    from clawlink.cli.exits import UsageError
    from clawlink.errors import ClawLinkError, UnknownEvent

    words = _ACTIONS[args.action]
    if not words.least <= len(args.words) <= words.most:
        raise UsageError(f"give it as: clawlink agentrelay {args.action} {words.usage}")
    if args.action == "log":
        return _log(args, ctx)
    text = _TEXTS.get(args.action)
    if text is not None and len(args.words) > text:
        args.words[text] = ctx.read(args.words[text])
    place = None
    try:
        place = _place(args, ctx)
        code = _VERBS[args.action](args, ctx, place)
    except ClawLinkError as error:
        other = _other_place(args, ctx, place)
        if other is None:
            raise
        if not isinstance(error, UnknownEvent):  # the person decides which is meant
            error.message += f"; an event of this id is also kept {other.said}, where --local asks"
            raise
        place = other
        code = _VERBS[args.action](args, ctx, place)
    if not ctx.json:
        ctx.out.flush()
        ctx.err.line(f"clawlink: events are kept {place.said}")
    return code


def _place(args: Namespace, ctx: Context) -> _Place:
    from clawlink.domain.terminal import cell

    folder = _folder(ctx)
    if args.local or not (args.via_relay or ctx.identities.all()):
        return _local(ctx, folder)
    from clawlink.doors.agentrelay.client.remote import Remote

    relay = ctx.client.relay
    remote = Remote(ctx.client, folder.transactions)
    return _Place(remote, False, f"by the relay at {cell(relay)}, for {cell(ctx.me.name)}", relay)


def _local(ctx: Context, folder: Folder) -> _Place:
    from clawlink.domain.terminal import cell

    return _Place(folder, True, f"in {cell(str(folder.root))}", str(folder.root))


def _other_place(args: Namespace, ctx: Context, place: _Place | None) -> _Place | None:
    """Return the folder, if the relay was asked by default for an event that is kept there."""
    folder = _folder(ctx)
    id = _id_of(args)
    if id is None or args.via_relay or (place is not None and place.local) or not folder.knows(id):
        return None
    return _local(ctx, folder)


def _id_of(args: Namespace) -> str | None:
    """Return the event that an action is about; None where it is about none that is there."""
    from clawlink.doors.agentrelay.wire.line import parse
    from clawlink.errors import BadRequest

    if args.action in ("send", "cleanup"):
        return None
    if args.action in ("receive", "verify"):
        try:
            return parse(args.words[0]).event_id
        except BadRequest:
            return None
    word: str = args.words[0]
    return word


def _folder(ctx: Context) -> Folder:
    from clawlink.doors.agentrelay.client.folder import Folder, data_dir

    return Folder(data_dir(ctx.environ), tell=ctx.warn)


def _send(args: Namespace, ctx: Context, place: _Place) -> Exit:
    from clawlink.doors.agentrelay.wire.line import build

    to, type, id, text, secret = _filled(args.words, 5)
    content = _object(text, "CONTENT")
    if place.local and ctx.given.named is not None:
        content.setdefault("sender_agent", ctx.given.named)
    sent = place.events.send(to or "", type or "", id or "", content, secret)
    if args.long:
        sent["csv_message"] = build(type or "", id or "", sent["ptr"])
    _show(ctx, place, sent)
    if not (place.local or ctx.json):
        told = f"its receiver was told by message {sent['message_id']}" if sent["message_id"] else "nobody was told yet"
        ctx.err.line(f"clawlink: {told}")
    return Exit.DONE


def _receive(args: Namespace, ctx: Context, place: _Place) -> Exit:
    return _show(ctx, place, place.events.receive(args.words[0]))


def _update(args: Namespace, ctx: Context, place: _Place) -> Exit:
    from clawlink.doors.agentrelay.names import pointer

    id, text, next_id = _filled(args.words, 3)
    done = place.events.update(id or "", _object(text, "JSON"), next_id)
    answer = {"status": "ok", "file": done.file, "ptr": pointer(next_id or id or "")}
    _show(ctx, place, {**answer, "csv_message": done.csv_message} if ctx.json else answer)
    return _hand_on(ctx, next_id, done.csv_message)


def _cmp(args: Namespace, ctx: Context, place: _Place) -> Exit:
    id, secret = _filled(args.words, 2)
    message = place.events.cmp(id or "", secret)
    instruction = f"Call sessions_send with message='{message}'"
    return _show(ctx, place, {"status": "ok", "cmp_message": message, "instruction": instruction})


def _verify(args: Namespace, ctx: Context, place: _Place) -> Exit:
    found = place.events.verify(args.words[0])
    _show(ctx, place, found)
    return {"ok": Exit.DONE, "repeat": Exit.CONFLICT}.get(found["status"], Exit.FAILED)


def _complete(args: Namespace, ctx: Context, place: _Place) -> Exit:
    from clawlink.domain.terminal import cell
    from clawlink.doors.agentrelay.names import pointer

    id, result, next_agent, next_id, secret = _filled(args.words, 5)
    done = place.events.complete(id or "", result or "", next_agent or "", next_id, secret)
    target = next_id or id or ""
    if ctx.json:
        answer = {"status": "ok", "ptr": pointer(target), "cmp_message": done.cmp_message}
        return _show(ctx, place, {**answer, "csv_message": done.csv_message})
    ctx.out.line(f"\u2705 Created pointer for {cell(target)}")
    ctx.out.line(f"\u2705 CMP: {cell(done.cmp_message)}")
    return _hand_on(ctx, next_id, done.csv_message)


def _hand_on(ctx: Context, next_id: str | None, line: str) -> Exit:
    """Print the line of the next event, which no agent has got yet."""
    from clawlink.domain.terminal import cell

    if next_id and not ctx.json:
        ctx.out.flush()
        ctx.err.line(f"clawlink: for the next one to read it, send: AgentRelay: {cell(line)}")
    return Exit.DONE


def _clean_up(args: Namespace, ctx: Context, place: _Place) -> Exit:
    from clawlink.cli.exits import UsageError
    from clawlink.doors.agentrelay.rules import DEFAULT_REGISTRY_TTL_HOURS, DEFAULT_TTL_HOURS, MAX_TTL_HOURS

    given = dict(enumerate(args.words))
    try:
        ttl = int(given.get(0, DEFAULT_TTL_HOURS))
        registry_ttl = int(given.get(1, DEFAULT_REGISTRY_TTL_HOURS))
    except ValueError:
        ttl = registry_ttl = -1
    if not (0 <= ttl <= MAX_TTL_HOURS and 0 <= registry_ttl <= MAX_TTL_HOURS):
        raise UsageError(
            f"hours are whole numbers from 0 to {MAX_TTL_HOURS}, as in: clawlink agentrelay cleanup 24 168"
        )
    return _show(ctx, place, place.events.cleanup(ttl, registry_ttl))


_VERBS = {
    "send": _send,
    "receive": _receive,
    "update": _update,
    "cmp": _cmp,
    "verify": _verify,
    "complete": _complete,
    "cleanup": _clean_up,
}


def _filled(words: list[str], most: int) -> list[str | None]:
    """Return the words, with None for those that were left out or are empty."""
    return [word or None for word in words] + [None] * (most - len(words))


def _object(text: str | None, name: str) -> dict[str, Any]:
    from clawlink.cli.values import json_object

    return {} if text is None else json_object(text, name)


def _show(ctx: Context, place: _Place, answer: dict[str, Any]) -> Exit:
    """Print an answer as the original does; with --json on one line, with where the events are kept."""
    if ctx.json:
        ctx.out.json({**answer, "place": place.name})
        return Exit.DONE
    import msgspec

    from clawlink.cli.render import harmless_json

    ctx.out.raw(harmless_json(msgspec.json.format(msgspec.json.encode(answer), indent=2)) + b"\n")
    return Exit.DONE


def _log(args: Namespace, ctx: Context) -> Exit:
    """Show the actions of this machine, for both places of events."""
    import time

    transactions = _folder(ctx).transactions
    wanted = args.words[0] if args.words else None
    if args.follow:
        for one in transactions.follow(lambda: time.sleep(_LOOK_SECONDS), last=args.last, event_id=wanted):
            _show_entry(ctx, one)
            ctx.out.flush()
        return Exit.DONE
    for one in deque(transactions.read(wanted), maxlen=args.last):
        _show_entry(ctx, one)
    return Exit.DONE


def _show_entry(ctx: Context, one: dict[str, Any]) -> None:
    from clawlink.domain.terminal import cell

    if ctx.json:
        ctx.out.json(one, one_line=True)
        return
    said = {name: cell(str(value)) for name, value in one.items()}
    parties = f"{said.get('sender', '')} -> {said.get('receiver', '')}"
    columns = (said.get("timestamp", "")[:19], f"{said.get('status', ''):<10}", said.get("event_id", ""), parties)
    ctx.out.line("  ".join([*columns, said.get("hint", "")]))
