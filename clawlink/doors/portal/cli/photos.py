"""The actions of ``clawlink portal`` about the photos of the front page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from clawlink.cli.exits import Exit
from clawlink.domain.terminal import cell
from clawlink.doors.portal.cli.output import done
from clawlink.doors.portal.client.portal import Portal

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def _photos(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    found = portal.ask("GET", "/api/photos/list")
    if ctx.json:
        ctx.out.json(found)
        return Exit.DONE
    for photo in found["photos"]:
        ctx.out.line(cell(unquote(photo["url"].rpartition("/")[2])))
    if not found["photos"]:
        ctx.out.line("The front page shows no photos; add one with: clawlink portal add-photo FILE")
    return Exit.DONE


def _add_photo(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    path = Path(args.words[0])
    told = portal.upload("/api/photos/upload", "photo", path.name, path.read_bytes())
    return done(ctx, told, f"The front page shows the photo {cell(told['url'].rpartition('/')[2])}.")


def _remove_photo(args: Namespace, ctx: Context, portal: Portal) -> Exit:
    told = portal.ask("DELETE", f"/api/photos/{quote(args.words[0], safe='')}")
    return done(ctx, told, f"The photo {cell(args.words[0])} is deleted.")


VERBS: Mapping[str, Callable[[Namespace, Any, Portal], Exit]] = {
    "photos": _photos,
    "add-photo": _add_photo,
    "remove-photo": _remove_photo,
}
