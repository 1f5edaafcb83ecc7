"""``clawlink file get``: read a shared file, byte for byte, or extract it as a tar."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from clawlink.cli.exits import Exit
from clawlink.cli.files import add_file_key
from clawlink.cli.values import count, sha256

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.files import Progress
    from clawlink.client.files.file_facts import FileFacts
    from clawlink.client.sync import Client

# Larger contents go to a file: they are too long for a terminal and for a JSON object.
_MOST_SHOWN_BYTES = 1024 * 1024


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_file_key(parser)
    parser.add_argument("--version", type=count, metavar="N", help="version to read (default: the newest)")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="write here instead of to standard output; DIR/ is a folder for the file, or for a tar's contents",
    )
    parser.add_argument(
        "--extract",
        action="store_true",
        help="extract the file as a tar into the folder --output (default: KEY)",
    )
    parser.add_argument("--force", action="store_true", help="with --extract: replace existing files")
    parser.add_argument(
        "--sha256", type=sha256, metavar="HEX", help="get the file only if it has this SHA-256; else write nothing"
    )


def run(args: Namespace, ctx: Context) -> Exit:
    """Write the content to a file or a folder, or to standard output."""
    from clawlink.cli.exits import UsageError
    from clawlink.cli.files import reader

    key = args.key
    if args.extract and args.output == "-":
        raise UsageError("--extract needs a folder; name it with --output DIR")
    if args.force and not args.extract:
        raise UsageError("--force goes with --extract; a file is replaced anyway")
    client = reader(ctx)
    if args.extract or (args.output is not None and args.output != "-"):
        return _keep(args, ctx, client, key)
    if ctx.json or ctx.out.terminal:
        return _show(args, ctx, client, key)
    _fetch(args, ctx, client, key, _Out(ctx))
    return Exit.DONE


def _keep(args: Namespace, ctx: Context, client: Client, key: str) -> Exit:
    """Write it to a file, or extract it into a folder, and say so."""
    from clawlink.cli.render import plural, size
    from clawlink.client.files.safe_paths import safe_name
    from clawlink.domain.terminal import cell

    output = args.output or safe_name(key)
    folder = args.extract or output.endswith(("/", os.sep)) or os.path.isdir(output)
    if folder and (args.extract or _is_tar(args, client, key)):
        facts, files = _extract(args, ctx, client, key, output)
        told = f"Extracted {plural(files, 'file')} of version {facts.version} into {cell(output)}."
        more: dict[str, object] = {"files": files}
    else:
        if folder:
            os.makedirs(output, exist_ok=True)
            output = os.path.join(output, safe_name(key))
        facts = _fetch(args, ctx, client, key, output)
        told = f"Wrote {cell(output)}: version {facts.version}, {size(facts.size)}."
        more = {}
    if ctx.json:
        ctx.out.json({**_facts(facts), "output": output, **more})
    else:
        ctx.out.line(told)
    return Exit.DONE


def _is_tar(args: Namespace, client: Client, key: str) -> bool:
    from clawlink.client.files.folders import TAR

    return client.stat_blob(key, version=args.version).content_type.partition(";")[0].strip().lower() == TAR


def _extract(args: Namespace, ctx: Context, client: Client, key: str, folder: str) -> tuple[FileFacts, int]:
    """Fetch all of a tar before writing anything of it. Without --extract the folder must be new or empty."""
    from clawlink.cli.exits import UsageError
    from clawlink.cli.files import tell_not_extracted
    from clawlink.client.files.folders import Unpacking

    if not args.extract and os.path.isdir(folder) and os.listdir(folder):
        raise UsageError(
            f"{folder} is not empty, and {key!r} is a tar; name a new folder, or add --extract to put its files there"
        )
    archive = Unpacking(folder, replace=args.force)
    facts = _fetch(args, ctx, client, key, archive)
    tell_not_extracted(ctx, archive.skipped)
    return facts, archive.unpacked.files


def _fetch(args: Namespace, ctx: Context, client: Client, key: str, target: Any) -> FileFacts:
    from clawlink.cli.files import bar, tell_broken_off

    with bar(ctx, key) as moved:
        progress: Progress | None = moved
        return client.download(
            key,
            target,
            version=args.version,
            sha256=args.sha256,
            on_progress=progress,
            on_away=lambda error: tell_broken_off(ctx, error),
        )


def _naming_it() -> AbstractContextManager[None]:
    from clawlink.client.files.atomic_files import naming

    return naming("standard output")


class _Out:
    """Standard output, for bytes that are written as they come."""

    def __init__(self, ctx: Context) -> None:
        self._out = ctx.out

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        with _naming_it():
            self._out.raw(data)

    def flush(self) -> None:
        """Hand them over to the system."""
        with _naming_it():
            self._out.flush()


def _show(args: Namespace, ctx: Context, client: Client, key: str) -> Exit:
    """Show the file as JSON, or to a person, so that a foreign file cannot act on the terminal."""
    import io

    from clawlink.cli.exits import UsageError
    from clawlink.cli.render import size

    facts = client.stat_blob(key, version=args.version)
    if facts.size > _MOST_SHOWN_BYTES and not ctx.json:
        raise UsageError(f"the file has {size(facts.size)}; say where to write it: --output PATH")
    held = io.BytesIO()
    if ctx.json:
        facts = _fetch(args, ctx, client, key, held)
        ctx.out.json({**_facts(facts), **_content(held.getvalue())})
        return Exit.DONE
    if facts.file_type == "binary":
        raise UsageError("the file is not text; say where to write it: --output PATH")
    facts = _fetch(args, ctx, client, key, held)
    try:
        text = held.getvalue().decode()
    except UnicodeDecodeError:
        raise UsageError("the file is not text; say where to write it: --output PATH") from None
    ctx.out.quote(text.removesuffix("\n"), indent=0)
    return Exit.DONE


def _facts(facts: FileFacts) -> dict[str, object]:
    return {
        "file_key": facts.file_key,
        "file_type": facts.file_type,
        "content_type": facts.content_type,
        "last_editor": facts.last_editor,
        "version": facts.version,
        "updated_at": facts.updated_at,
        "size": facts.size,
        "sha256": facts.sha256,
        "owner": facts.owner,
        "readers": facts.readers,
    }


def _content(content: bytes) -> dict[str, str]:
    import base64

    try:
        return {"content": content.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"content": base64.b64encode(content).decode(), "encoding": "base64"}
