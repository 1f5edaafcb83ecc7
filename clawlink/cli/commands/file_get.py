"""``clawlink file-get``: read a shared file, byte for byte."""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.client.calls import File

NAME = "file-get"
HELP = "Read a shared file."


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--key", required=True, help="the file's key")
    parser.add_argument("--output", metavar="PATH", help="write it there instead of to standard output")


def run(args: Namespace, ctx: Context) -> Exit:
    """Write the content to a file, or to standard output."""
    from clawlink.cli.render import cell, size

    file = ctx.visitor.get_file(args.key)
    to_file = args.output is not None and args.output != "-"
    if to_file:
        _write(args.output, file.content)
    if ctx.json:
        ctx.out.json(_facts(file, args.output if to_file else None))
    elif to_file:
        ctx.out.line(f"Wrote {cell(args.output)}: version {file.version}, {size(len(file.content))}.")
    elif ctx.out.terminal:
        _show(ctx, file)
    else:
        ctx.out.raw(file.content)
    return Exit.DONE


def _show(ctx: Context, file: File) -> None:
    """Show it to a person: not even a file of somebody else's gets to act on the terminal."""
    from clawlink.cli.exits import UsageError

    try:
        text = file.content.decode()
    except UnicodeDecodeError:
        raise UsageError("the file is not text; say where to write it: --output PATH") from None
    ctx.out.quote(text.removesuffix("\n"), indent=0)


def _facts(file: File, output: str | None) -> dict[str, object]:
    import base64

    facts: dict[str, object] = {
        "file_key": file.file_key,
        "file_type": file.file_type,
        "last_editor": file.last_editor,
        "version": file.version,
        "updated_at": file.updated_at,
        "size": len(file.content),
    }
    if output is not None:
        return {**facts, "output": output}
    try:
        return {**facts, "content": file.content.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {**facts, "content": base64.b64encode(file.content).decode(), "encoding": "base64"}


def _write(path: str, content: bytes) -> None:
    """Write the file whole or not at all. Through a link it is the link's target that is written."""
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):  # a device or pipe: nothing to put in its place
        with open(target, "wb") as device:
            device.write(content)
        return
    temporary = f"{target}.{os.getpid()}.new"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
