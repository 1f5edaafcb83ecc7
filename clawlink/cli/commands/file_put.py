"""``clawlink file-put``: write a shared file, byte for byte."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, whole

if TYPE_CHECKING:
    from clawlink.cli.context import Context

NAME = "file-put"
HELP = "Write a shared file."


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--key", required=True, help="the file's key: how others ask for it; may contain /")
    parser.add_argument("--file", required=True, metavar="PATH", help="the file to share; - reads standard input")
    parser.add_argument("--type", metavar="T", help="what it is (default text, or binary)")
    parser.add_argument(
        "--if-version", type=whole, metavar="N", help="write only if it is at version N still; 0: only if it is new"
    )
    add_idempotency_key(parser, "--idempotency-key")


def run(args: Namespace, ctx: Context) -> Exit:
    """Write it for everyone on the relay."""
    from clawlink.cli.render import cell, size

    client = ctx.client
    content = ctx.read_bytes() if args.file == "-" else _read(args.file)
    done = client.put_file(
        args.key,
        content,
        file_type=args.type or _type_of(content),
        if_version=args.if_version,
        key=args.idempotency_key,
    )
    if ctx.json:
        ctx.out.json(done)
    else:
        ctx.out.line(f"Saved {cell(done.file_key)}, version {done.version}, {size(len(content))}.", style="bold")
        ctx.out.facts(("read", ctx.command("file-get", key=done.file_key)))
    return Exit.DONE


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _type_of(content: bytes) -> str:
    try:
        content.decode()
    except UnicodeDecodeError:
        return "binary"
    return "text"
