"""``clawlink portal``: contacts, guests, messages and keys of the own portal."""

from __future__ import annotations

import contextlib
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from clawlink.cli.arguments import Parser, may_be_empty
from clawlink.cli.exits import Exit
from clawlink.cli.values import STATUSES, count, port, whole
from clawlink.doors.portal.cli.actions import ACTIONS, known, listed, narrow

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.doors.portal.client.portal import Portal

_SENT_SECONDS = 10.0
_LAST = 50
_MIN_KEY_LENGTH = len("ap2p_") + 4


_OFFERED = {"portal_url": "--url URL", "key": "--shared-key KEY"}
"""The flags of an approval for what the text does not offer, by the names in ``offers``."""
_APART: Mapping[str, str] = {
    "import": "clawlink.doors.portal.cli.import_database",
    "setup": "clawlink.doors.portal.cli.setup",
    "password": "clawlink.doors.portal.cli.password",
    "bridge": "clawlink.doors.portal.cli.bridge",
    "skill": "clawlink.doors.portal.cli.skill",
}
"""The modules of the actions that use no portal over HTTP."""
_EMPTY = {"rename": 1, "answer": 1, "say": 0, "reply": 0, "password": 0}
"""The word of an action that may be empty."""
_TEXTS = {"ask": 1, "send": 1, "answer": 1, "delegate": 1, "say": 0, "reply": 0, "password": 0}


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("action", metavar="ACTION", type=known, choices=tuple(ACTIONS), help="one of the actions below")
    may_be_empty(parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="what the action takes"))
    parser.epilog = listed()
    if isinstance(parser, Parser):
        parser.narrow = partial(narrow, parser)
    parser.add_argument(
        "--at",
        metavar="URL",
        help="the portal, or its relays with commas (default AGENTP2P_HUB_URL, or ~/.openclaw/gateway.env)",
    )
    parser.add_argument("--key", metavar="KEY", help="the owner key or an agent key (default AGENTP2P_API_KEY)")
    parser.add_argument("--url", metavar="URL", help="approve: the guest's portal, where its text is not clear")
    parser.add_argument("--shared-key", metavar="KEY", help="approve: the offered key, where the text is not clear")
    parser.add_argument("--name", metavar="NAME", help="ask, approve: how to call the contact's agent")
    parser.add_argument("--replace", action="store_true", help="approve: a contact that is there gets the new key")
    parser.add_argument("--yes", action="store_true", help="forget: do not ask")
    parser.add_argument(
        "--status",
        choices=STATUSES,
        default="completed",
        metavar="STATUS",
        help=f"answer: {', '.join(STATUSES)} (default completed)",
    )
    parser.add_argument("--in-reply-to", type=count, metavar="MESSAGE", help="send: the number of the message answered")
    parser.add_argument(
        "--attach", action="append", metavar="FILE", help="say, reply, delegate, answer: a file with it"
    )
    parser.add_argument("--after", type=whole, metavar="LINE", help="chat: show all lines after this one, not the last")
    parser.add_argument("--data", metavar="DIR", help="import, password: the folder of the portal, which does not run")
    parser.add_argument(
        "--store", action="store_true", help="import, password: the server of CLAWLINK_STORE in place of a folder"
    )
    parser.add_argument("--domain", metavar="NAME", help="setup: the name of the server on the internet")
    parser.add_argument("--proxy", choices=("nginx", "caddy"), default="nginx", help="setup: the proxy with TLS")
    parser.add_argument("--port", type=port, default=9077, metavar="PORT", help="setup: the port behind the proxy")
    parser.add_argument("--apply", action="store_true", help="setup: write the files; without it they are shown")
    parser.add_argument("--into", metavar="DIR", help="setup: the folder that stands for /")
    parser.add_argument("--folder", metavar="DIR", help="bridge: its state and log (default ~/.openclaw/agent-p2p)")
    parser.add_argument("--install", action="store_true", help="bridge: have the system start it with the account")
    parser.add_argument("--uninstall", action="store_true", help="bridge: have the system start it no more")
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="skill: English or Chinese")
    parser.add_argument("--owner-key", metavar="KEY", help="import: the old key that stays the owner key")
    parser.add_argument(
        "--agent-key", action="append", metavar="KEY", help="import: an old key that becomes an agent key"
    )
    parser.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="send, send-file, delegate, answer: with it a repeat is the same",
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Do it at the own portal."""
    from clawlink.cli.exits import UsageError
    from clawlink.doors.portal.client.portal import Portal, authority, place
    from clawlink.doors.portal.rules.texts import is_reserved_name
    from clawlink.errors import BadRequest

    words = ACTIONS[args.action]
    if not words.least <= len(args.words) <= words.most:
        raise UsageError(f"give it as: clawlink portal {args.action} {words.usage}".rstrip())
    if args.action == "answer" and not args.words[1].strip() and not args.attach:
        raise UsageError("TEXT is empty; give a text, or - for standard input, which may be empty")
    text = _TEXTS.get(args.action)
    if text is not None and len(args.words) > text:
        args.words[text] = ctx.read(args.words[text])
    if any(not word.strip() and _EMPTY.get(args.action) != at for at, word in enumerate(args.words)):
        raise UsageError(f"a word is empty; give it as: clawlink portal {args.action} {words.usage}")
    if args.name is not None and is_reserved_name(args.name):
        raise UsageError(f"--name {args.name[:40]!r} stands for the number or the address of a contact; choose another")
    if args.action == "install-scripts":
        return _install(args, ctx)
    if args.action in _APART:
        return cast("Exit", import_module(_APART[args.action]).run(args, ctx))
    try:
        own = place(ctx.environ, at=args.at, key=args.key)
    except BadRequest as error:
        raise UsageError(error.message if args.at or args.key else f"{error.message}, or give --at and --key") from None
    try:
        ca = authority(args.ca, ctx.environ)
    except BadRequest as error:
        raise UsageError(error.message) from None
    with Portal(own.url, own.key, ca=ca, timeout=30.0, source=own.source) as portal:
        return _VERBS[args.action](args, ctx, portal)


def _guests(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli.output import local

    found = portal.ask("GET", "/api/guest/messages")["messages"]
    if args.action == "list":
        found = [g for g in found if g["status"] == "pending"]
    if ctx.json:
        ctx.out.json({"guests": found})
        return Exit.DONE
    for g in found:
        waits = g["status"] == "pending"
        read = ", read" if waits and g["is_read"] else ""
        ctx.out.line(f"Guest message {g['id']}, {local(g['created_at'])}, {g['status']}{read}", style="bold")
        ctx.out.quote(g["content"], indent=2)
        if waits:
            for step in _steps(g):
                ctx.out.line(f"    {step}")
    if not found:
        ctx.out.line("No guest message waits." if args.action == "list" else "There are no guest messages.")
    return Exit.DONE


def _steps(guest: Any) -> list[str]:
    """Return what the owner may do about a guest message that waits, with the commands."""
    id, offers = guest["id"], guest.get("offers", {})
    given = [f" {flag}" for name, flag in _OFFERED.items() if not offers.get(name)]
    steps = [f"Approve it with: clawlink portal approve {id}{''.join(given)}"]
    if len(given) == len(_OFFERED):
        other = [f"Turn it down with: clawlink portal deny {id}"]
        if not guest["is_read"]:
            other.insert(0, f"Note that you have read it with: clawlink portal read {id}")
        steps = [*other, f"It offers no portal and no key. If you have both, {steps[0][0].lower()}{steps[0][1:]}"]
    return steps


def _ask(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    """Add a contact, and leave the offer of its key at its portal."""
    from clawlink.cli.exits import UsageError
    from clawlink.doors.portal.rules.urls import normalised, same
    from clawlink.errors import BadRequest, ClawLinkError

    try:
        url = normalised(args.words[0])
    except BadRequest as error:
        raise UsageError(error.message) from None
    before = any(same(c["portal_url"], url) for c in portal.contacts())
    portal.ask("POST", "/api/contacts", {"portal_url": url, "agent_name": args.name})
    contact = next(c for c in portal.contacts() if same(c["portal_url"], url))
    own = portal.ask("GET", "/api/portal/about")["url"]
    said = args.words[1] if len(args.words) > 1 else "I would like to become a contact."
    try:
        number = portal.leave(url, f"{said}\nMy portal: {own}\nKey for our messages: {contact['SHARED_KEY']}")
    except ClawLinkError as error:
        id = contact["id"]
        raise type(error)(
            f"{error.message}; contact {id} stays here: ask again, or take it away with: clawlink portal remove {id}",
            field=error.field,
            retry_after=error.retry_after,
        ) from None
    if ctx.json:
        ctx.out.json({"contact": contact["id"], "portal_url": url, "guest_message_id": number})
        return Exit.DONE
    id, owner = contact["id"], f"the owner of {_shown(url)}"
    if before:
        ctx.out.line(f"Contact {id} was here already, and {owner} has the offer as guest message {number}.")
    else:
        ctx.out.line(f"Contact {id} is added, and guest message {number} waits for {owner}.")
    ctx.out.line("Nobody tells you of the decision; a message that you send arrives once you are approved.")
    return Exit.DONE


def _decide(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    ask = {
        "decision": args.action,
        "portal_url": args.url,
        "key": args.shared_key,
        "agent_name": args.name,
        "replace": args.replace,
    }
    done = portal.ask("POST", f"/api/portal/guests/{_number(args.words[0], 'list')}", ask)
    if ctx.json:
        ctx.out.json(done)
        return Exit.DONE
    made = done["contact"]
    status = done["guest"]["status"]
    is_read = args.action == "read"
    stands = "read, and still waits" if is_read and status == "pending" else f"{'read, and ' * is_read}{status}"
    ctx.out.line(f"Guest message {done['guest']['id']} is {stands}.")
    if made is not None:
        ctx.out.line(f"Contact {made['id']} is {_shown(made['portal_url'])}.")
    return Exit.DONE


def _remove(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    number = _contact(portal, args.words[0])["id"]
    portal.ask("DELETE", f"/api/contacts/{number}")
    return _done(ctx, {"removed": number}, f"Contact {number} is removed; its messages stay.")


def _send(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.cli.shared import Absences
    from clawlink.errors import RelayUnreachable

    patience = args.timeout if args.timeout is not None else _SENT_SECONDS
    sent = portal.send(args.words[0], args.words[1], key=args.idempotency_key, in_reply_to=args.in_reply_to)
    absences = Absences(ctx, time.monotonic() + patience)
    with contextlib.suppress(RelayUnreachable):  # the portal is away at the end of the time
        sent = portal.until_sent(sent, patience, through=absences.bear)
    return _tell(ctx, sent, then="; see later with: clawlink portal status {id}")


def _status(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    return _tell(ctx, portal.status(_number(args.words[0], "history CONTACT")))


def _tell(ctx: Context, sent: Any, *, then: str = "") -> Exit:
    """Show how far a message came, and of an open one what to do ``then``."""
    from clawlink.doors.portal.client.portal import OPEN

    if ctx.json:
        ctx.out.json(sent)
    else:
        said = {"queued": "is stored here, and not yet sent", "sending": "is being sent, and no answer came yet"}
        detail = f": {_shown(sent['detail'])}" if sent["detail"] else ""
        state = said.get(sent["state"], f"is {sent['state']}")
        way = "from" if sent["type"] == "received" else "to"
        later = then.format(id=sent["id"]) if sent["state"] in OPEN else ""
        ctx.out.line(f"Message {sent['id']} {way} {_shown(sent['to'])} {state}{detail}{later}.")
    if sent["state"] in OPEN:
        return Exit.PENDING
    return Exit.FAILED if sent["state"] in ("refused", "expired", "unknown") else Exit.DONE


def _history(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli.output import local

    url = args.words[0]
    if "://" not in url:
        url = _contact(portal, url)["portal_url"]
    found = portal.ask("GET", "/api/messages/history", contact_portal=url, limit=_LAST)
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    for m in reversed(found["messages"]):
        way = "from" if m["type"] == "received" else "to"
        why = f": {_shown(m['detail'])}" if m.get("detail") else ""  # an older portal does not tell
        head = f"Message {m['id']} {way} {_shown(url)}, {local(m['created_at'])}, {m['state']}{why}"
        ctx.out.line(head, style="bold")
        ctx.out.quote(m["content"], indent=2)
    if not found["messages"]:
        ctx.out.line(f"No message has gone to or come from {_shown(url)}; send one with: clawlink portal send")
    if found["total"] > len(found["messages"]):
        ctx.out.line(f"{found['total'] - len(found['messages'])} older messages are not shown.")
    return Exit.DONE


def _contact(portal: Portal, named: str) -> Any:
    """Return the contact with this number, name or address. Raises NotFound, AmbiguousName."""
    from clawlink.doors.portal.cli.contacts import path_of

    return portal.ask("GET", path_of(named))["contact"]


def _contact_actions(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli import contacts

    return contacts.VERBS[args.action](args, ctx, portal)


def _files(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli import files

    return files.VERBS[args.action](args, ctx, portal)


def _photos(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli import photos

    return photos.VERBS[args.action](args, ctx, portal)


def _tasks(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli import tasks

    return tasks.VERBS[args.action](args, ctx, portal)


def _chat(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli import chat

    return chat.VERBS[args.action](args, ctx, portal)


def _keys(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    from clawlink.doors.portal.cli.output import local

    found = portal.ask("GET", "/api/key/list")
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    owner = found.get("owner_key") or {}
    keys = [(owner["key_id"], "(the owner key)", local(owner["created_at"]))] if owner.get("key_id") else []
    keys += [(_shown(key["key_id"]), _shown(key["agent_name"]), local(key["created_at"])) for key in found["api_keys"]]
    if keys:
        ctx.out.table(("key", "label", "made"), keys, whole="key")
    if not found["api_keys"]:
        ctx.out.line("There are no agent keys; make one with: clawlink portal make-key LABEL")
    return Exit.DONE


def _make_key(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    made = portal.ask("POST", "/api/key/create", {"agent_name": args.words[0]})
    return _done(ctx, made, f"The agent key, shown this once: {made['api_key']}")


def _revoke_key(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    named = _key_named(portal, args.words[0])
    done = portal.ask("POST", "/api/key/revoke", None, api_key=named)
    return _done(ctx, done, "The agent key is revoked.")


def _key_named(portal: Portal, given: str) -> str:
    """Return the listed form of the key with this beginning, or the given text if none has it. Raises UsageError."""
    from clawlink.cli.exits import UsageError

    if len(given) < _MIN_KEY_LENGTH:
        return given
    shown = {str(key["key_id"]) for key in portal.ask("GET", "/api/key/list")["api_keys"]}
    found = sorted(one for one in shown if one.startswith(given))
    if len(found) > 1:
        raise UsageError(f"{len(found)} agent keys begin with {given!r}: {_shown(', '.join(found))}; give more of one")
    return found[0] if found else given


def _install(args: Namespace, ctx: Context) -> Exit:
    from pathlib import Path

    from clawlink.cli.exits import LocalFailure
    from clawlink.doors.portal.client.scripts import install

    try:
        written = [str(path) for path in install(Path(args.words[0]))]
    except FileExistsError as error:
        if error.errno is not None:  # the folder itself is a file
            raise
        raise LocalFailure(str(error)) from None
    return _done(ctx, {"written": written}, f"Wrote {_shown(', '.join(written))}.")


def _done(ctx: Context, told: Any, said: str) -> Exit:
    from clawlink.doors.portal.cli.output import done

    return done(ctx, told, said)


def _number(text: str, listed_by: str) -> int:
    from clawlink.cli.exits import UsageError
    from clawlink.doors.portal.rules.texts import as_number

    number = as_number(text)
    if number is None:
        raise UsageError(f"a number is needed, not {text[:40]!r}; see: clawlink portal {listed_by}")
    return number


def _shown(text: str) -> str:
    from clawlink.domain.terminal import cell

    return cell(text)


_VERBS: Mapping[str, Callable[[Namespace, Context, Portal], Exit]] = {
    "guests": _guests,
    "list": _guests,
    "ask": _ask,
    "approve": _decide,
    "deny": _decide,
    "read": _decide,
    "remove": _remove,
    **dict.fromkeys(
        ("contacts", "rename", "block", "unblock", "pause", "resume", "end", "pin", "renew", "forget"), _contact_actions
    ),
    "send": _send,
    "status": _status,
    "history": _history,
    **dict.fromkeys(("send-file", "files", "get-file", "remove-file"), _files),
    **dict.fromkeys(("photos", "add-photo", "remove-photo"), _photos),
    **dict.fromkeys(("tasks", "delegate", "answer", "cancel"), _tasks),
    **dict.fromkeys(("say", "reply", "chat", "get-attachment"), _chat),
    "keys": _keys,
    "make-key": _make_key,
    "revoke-key": _revoke_key,
}
