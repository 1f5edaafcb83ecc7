"""The actions of ``clawlink portal`` about files."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clawlink.cli.exits import Exit
from clawlink.cli.ids import MIN_PREFIX_LENGTH, chosen
from clawlink.cli.render import size
from clawlink.cli.shared import Absences
from clawlink.domain.terminal import cell
from clawlink.doors.portal.cli.output import done
from clawlink.doors.portal.client.files import get_file, send_file, until_settled
from clawlink.doors.portal.client.portal import Portal
from clawlink.errors import RelayUnreachable

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_FILE_SECONDS = 60.0
_ID_LENGTH = 43
_SHOWN_ID = 8
_HEAD = ("file", "name", "status", "size", "contact", "task")


def _send(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    patience = args.timeout if args.timeout is not None else _FILE_SECONDS
    sent = send_file(portal, args.words[0], Path(args.words[1]), key=args.idempotency_key)
    absences = Absences(ctx, time.monotonic() + patience)
    with contextlib.suppress(RelayUnreachable):  # the portal is away at the end of the time
        sent = until_settled(portal, sent, patience, through=absences.bear)
    detail = f": {cell(sent['detail'])}" if sent["detail"] else ""
    done(ctx, sent, f"{_file(sent)} is {sent['status']}{detail}.")
    if sent["status"] in ("queued", "transferring"):
        return Exit.PENDING
    return Exit.DONE if sent["status"] == "sent" else Exit.FAILED


def _list(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    found = portal.ask("GET", "/api/portal/files", **({"contact": args.words[0]} if args.words else {}))
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    if not found["files"]:
        ctx.out.line("There are no files; send one with: clawlink portal send-file CONTACT FILE")
        return Exit.DONE
    rows = [_row(one) for one in found["files"]]
    ctx.out.table(_HEAD, rows, whole="file", least=("task", "size", "contact"), begins=_SHOWN_ID)
    for one in found["files"]:
        if one["detail"]:
            id = cell(one["file_id"])[:_SHOWN_ID]
            ctx.out.line(f"{id}, {cell(one['filename'])}, is {cell(one['status'])}: {cell(one['detail'])}.")
    return Exit.DONE


def _row(file: Any) -> tuple[str, ...]:
    way = f"from {file['from_portal']}" if file["type"] == "received" else f"to {file['to_portal']}"
    task = cell(file["task_id"] or "-")
    return cell(file["file_id"]), cell(file["filename"]), cell(file["status"]), size(file["size"]), cell(way), task


def _get(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    folder = args.words[1] if len(args.words) > 1 else "."
    path = get_file(portal, _id(portal, args.words[0]), Path(folder))
    return done(ctx, {"path": str(path)}, f"Wrote {cell(str(path))}.")


def _remove(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    id = _id(portal, args.words[0])
    told = portal.ask("DELETE", f"/api/portal/files/{quote(id, safe='')}")
    return done(ctx, told, f"File {cell(id)} is deleted.")


def _id(portal: Portal, given: str) -> str:
    """Return the id of the file with this beginning, or the given text if there is none. Raises UsageError."""
    if not MIN_PREFIX_LENGTH <= len(given) < _ID_LENGTH:
        return given
    found = portal.ask("GET", "/api/portal/files")["files"]
    return chosen(given, {one["file_id"]: cell(one["filename"]) for one in found if one["file_id"].startswith(given)})


def _file(told: Any) -> str:
    return f"File {told['file_id']}, {cell(told['filename'])}, to {cell(told['to_portal'])}"


VERBS: Mapping[str, Callable[[Namespace, Any, Portal], Exit]] = {
    "send-file": _send,
    "files": _list,
    "get-file": _get,
    "remove-file": _remove,
}
