"""The actions of ``clawlink portal`` about contacts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clawlink.cli.exits import Exit, UsageError
from clawlink.cli.render import epoch
from clawlink.domain.terminal import cell
from clawlink.doors.portal.cli.output import as_instant, done, local
from clawlink.doors.portal.client.portal import Portal
from clawlink.doors.portal.rules.texts import fingerprint
from clawlink.errors import BadRequest

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_HEAD = ("contact", "name", "address", "unread", "terms")


def _contacts(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    found = portal.contacts()
    if ctx.json:
        ctx.out.json({"contacts": [{name: c[name] for name in c if name != "SHARED_KEY"} for c in found]})
        return Exit.DONE
    if not found:
        ctx.out.line("There are no contacts; ask for one with: clawlink portal ask URL")
        return Exit.DONE
    ctx.out.table(_HEAD, [_row(c, ctx.now) for c in found], whole="contact", least=("unread",))
    return Exit.DONE


def _row(contact: Any, now: float) -> tuple[str, ...]:
    terms = [word for word in ("blocked", "paused") if contact[word]]
    if contact["until"]:
        terms.append(f"{'ended' if _has_ended(contact, now) else 'until'} {local(contact['until'])}")
    name = contact["name"] or "-"
    unread = str(contact["unread_count"])
    return str(contact["id"]), cell(name), cell(contact["portal_url"]), unread, ", ".join(terms) or "-"


_TERMS: Mapping[str, tuple[dict[str, Any], str]] = {
    "block": ({"blocked": True}, "is blocked: what it sends is refused, and so are messages that wait for it here"),
    "unblock": ({"blocked": False}, "is unblocked"),
    "pause": ({"paused": True}, "is paused: what it sends waits at its portal, and what you send waits here"),
    "resume": ({"paused": False}, "goes on"),
}


def _terms(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    action, value = args.action, args.words[-1]
    if action in _TERMS:
        terms, said = _TERMS[action]
    elif action == "rename":
        terms, said = {"display_name": value}, f"is called {value}" if value else "has no name of yours any more"
    else:
        terms, said = _named(action, "" if value.strip().lower() in ("never", "none") else value.strip())
    told = portal.ask("POST", path_of(args.words[0]), terms)
    contact = told["contact"]
    held = _held(contact, ctx.now)
    if action == "end" and _has_ended(contact, ctx.now):
        said = f"has ended: {value} is over, so it is as if blocked; take the end away with: {held['has ended']}"
    elif held and action in ("unblock", "resume", "end"):
        said = "is not paused" if action == "resume" else said
        said += "".join(f", but {state}; end that with: {command}" for state, command in held.items())
    return done(ctx, told, f"Contact {contact['id']}, {cell(contact['portal_url'])}, {cell(said)}.")


def _has_ended(contact: Any, now: float) -> bool:
    """Return True if the date from which on the contact is as if blocked has come."""
    at = epoch(contact["until"]) if contact["until"] else None
    return at is not None and at <= now


def _held(contact: Any, now: float) -> dict[str, str]:
    """Return why nothing goes to the contact now, each with the command that ends it."""
    id = contact["id"]
    states = (
        (contact["blocked"], "is blocked", f"clawlink portal unblock {id}"),
        (_has_ended(contact, now), "has ended", f"clawlink portal end {id} never"),
        (contact["paused"], "is paused", f"clawlink portal resume {id}"),
    )
    return {state: command for holds, state, command in states if holds}


def _named(action: str, value: str) -> tuple[dict[str, Any], str]:
    """Return the term that a date or a certificate sets, and what it does; empty for none. Raises UsageError."""
    if action == "end":
        return {"until": as_instant(value) if value else ""}, f"ends {value}" if value else "has no end"
    try:
        pin = fingerprint(value)
    except BadRequest as error:
        raise UsageError(f"{error.message}; or none") from None
    return {"pin": pin or ""}, "needs this very certificate" if pin else "needs a trusted certificate"


def _renew(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    told = portal.ask("POST", path_of(args.words[0]) + "/key")
    said = {
        "renewed": "has the new key, and the old one counts no more",
        "asked": "has a guest message with the new key; until its owner approves it, both keys count",
        "pending": "has not taken the new key: it did not answer, or refused; give the command again to offer the same",
    }[told["state"]]
    why = f" ({cell(told['detail'])})" if told.get("detail") else ""
    done(ctx, told, f"Contact {told['contact']}, {cell(told['portal_url'])}, {said}{why}.")
    return Exit.PENDING if told["state"] == "pending" else Exit.DONE


def _forget(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    if not args.yes and ctx.may_ask and not ctx.agreed(f"Delete {cell(args.words[0])}, its messages, files and tasks?"):
        return Exit.FAILED
    told = portal.ask("DELETE", path_of(args.words[0]))
    said = f"{told['messages']} messages, {told['guests']} guest messages and {told['files']} files"
    return done(ctx, told, f"The contact {cell(told['forgotten'])} is forgotten, with {said}.")


def path_of(named: str) -> str:
    return f"/api/portal/contacts/{quote(named, safe='')}"


VERBS: Mapping[str, Callable[[Namespace, Any, Portal], Exit]] = {
    "contacts": _contacts,
    **dict.fromkeys((*_TERMS, "rename", "end", "pin"), _terms),
    "renew": _renew,
    "forget": _forget,
}
