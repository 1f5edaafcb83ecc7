"""``clawlink file put``: write a shared file, byte for byte."""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clawlink.cli.arguments import add_slot, completed_by, may_be_empty
from clawlink.cli.exits import Exit
from clawlink.cli.values import add_idempotency_key, any_names, kept_span, whole

if TYPE_CHECKING:
    from clawlink.cli.context import Context


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    add_slot(
        parser,
        "KEY",
        "--key",
        required=False,
        skipped_if_alone=True,
        kind="keys_or_paths",
        help="the file's key; may contain / (default: the name of PATH)",
    )
    add_slot(parser, "PATH", "--file", help="the file to share, or a folder (as a tar); - reads standard input")
    parser.add_argument(
        "--type", metavar="T", help="type of the file, any word (default: text or binary, by the content)"
    )
    parser.add_argument("--content-type", metavar="MIME", help="media type (default: by the suffix and the content)")
    parser.add_argument(
        "--if-version",
        type=whole,
        metavar="N",
        help="write only if the file is still at version N; 0: only if it is new",
    )
    parser.add_argument(
        "--ttl", type=kept_span, metavar="S", help="time until the file ends: 60, 10m, 2h (default: never)"
    )
    parser.add_argument("--burn", action="store_true", help="let one reader read the file, once; then it is gone")
    readers = parser.add_argument(
        "--readers",
        type=any_names,
        action="extend",
        metavar="A,B",
        help="let only these agents and you see the file: names or ids; your own name: you alone; "
        "'*': everyone (default: unchanged; a new file is for everyone)",
    )
    completed_by(readers, "agents")
    may_be_empty(readers)  # its own sentence names the three uses
    parser.add_argument("--force", action="store_true", help="write although another agent holds the lock")
    add_idempotency_key(parser, "--idempotency-key")


@contextlib.contextmanager
def _telling_how_to_go_on(args: Namespace, ctx: Context) -> Iterator[None]:
    """Print how to go on with an upload that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        if args.idempotency_key is not None and args.file != "-":
            ctx.warn("interrupted; the same command goes on where this one stopped")
        elif not ctx.answered:
            ctx.warn("interrupted before a relay answered; begin again")
        else:
            ctx.warn(
                "interrupted; nothing was written, and what had arrived is removed; begin again, "
                "with --idempotency-key KEY if it may take several goes"
            )
        raise


def _name_of(path: str) -> str:
    """Return the key of a file that is given without one. Raises UsageError."""
    from clawlink.cli.exits import UsageError

    usage = "give it as: clawlink file put KEY PATH"
    if path == "-":
        raise UsageError(f"standard input has no name for a key; {usage}")
    if not os.path.exists(path):  # it may be a key, and the path is forgotten
        raise UsageError(f"there is no file {path!r} here; to share a file under this key, {usage}")
    name = os.path.basename(os.path.abspath(path))
    try:
        name = os.fsencode(name).decode()
    except UnicodeDecodeError:
        name = ""
    if not name:  # a root folder has none
        raise UsageError(f"{path!r} has no name that can be a key; {usage}")
    return name


def run(args: Namespace, ctx: Context) -> Exit:
    """Write it for everyone on the relay, or for its readers."""
    from clawlink.cli import ids
    from clawlink.cli.exits import UsageError
    from clawlink.cli.files import bar, readers_line, source, tell_broken_off, tell_left_out
    from clawlink.cli.render import size
    from clawlink.client.files.safe_paths import safe_name
    from clawlink.domain.terminal import cell

    key = _name_of(args.file) if args.key is None else args.key
    client = ctx.client
    if args.readers == []:
        raise UsageError("--readers is empty; name agents, yourself for you alone, or '*' for everyone")
    readers = None if args.readers is None else [ids.agent(ctx, one) for one in args.readers]
    what = ctx.stdin if args.file == "-" else source(args.file)
    with bar(ctx, key) as moved, _telling_how_to_go_on(args, ctx):
        done = client.upload(
            key,
            what,
            content_type=args.content_type,
            file_type=args.type,
            if_version=args.if_version,
            ttl=args.ttl,
            burn=args.burn,
            force=args.force,
            readers=readers,
            key=args.idempotency_key,
            on_progress=moved,
            on_away=lambda error: tell_broken_off(ctx, error),
        )
    tell_left_out(ctx, what)
    if ctx.json:
        ctx.out.json(done)
    else:
        ctx.out.line(f"Saved {cell(done.file_key)}, version {done.version}, {size(done.size)}.", style="bold")
        folder = {} if what is args.file or args.file == "-" else {"output": f"{safe_name(done.file_key)}/"}
        read = ctx.command("file-get", key=done.file_key, **folder)
        ctx.out.facts(("readers", readers_line(ctx, None, done.readers)), ("read", read))
    return Exit.DONE
