"""``clawlink file diff``: the changes between two versions of a shared file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.arguments import completed_by
from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clawlink.cli.context import Context
    from clawlink.client.files.file_facts import Blob
    from clawlink.client.sync import Client

_MOST_BYTES = 16 * 1024 * 1024
_STYLES = (("+++", "bold"), ("---", "bold"), ("@@", "cyan"), ("+", "green"), ("-", "red"))


def add(parser: ArgumentParser) -> None:
    """Add the flags."""
    words = parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY [A [B]]",
        help="the file's key, and from version A to version B (default: from the one before; to the newest)",
    )
    key = parser.add_argument("--key", metavar="KEY", help="the file's key, as a flag")
    for action in (words, key):
        completed_by(action, "keys")


def run(args: Namespace, ctx: Context) -> Exit:
    """Print the changes as ``diff -u`` does: exact to a pipe, harmless and in colours to a terminal."""
    from clawlink.cli.files import reader
    from clawlink.domain.terminal import cell

    key, versions = _asked(args)
    args.key = key  # which errors name
    client = reader(ctx)
    first, second = _chosen(client, key, versions)
    before, after = _content(client, key, first), _content(client, key, second)
    texts = _texts(before, after)
    lines = ["".join(line) for line in _diff(ctx, key, before, after, texts)] if texts is not None else None
    if ctx.json:
        same = before.content == after.content
        diff = None if lines is None else "".join(lines)
        ctx.out.json(
            {"file_key": key, "from": first, "to": second, "same": same, "binary": texts is None, "diff": diff}
        )
    elif before.content == after.content:
        ctx.out.line(f"Versions {first} and {second} of {cell(key)} are the same.")
    elif lines is None:
        ctx.out.line(f"Versions {first} and {second} of {cell(key)} differ, and are not both text.")
    elif ctx.out.terminal:
        _show(ctx, lines)
    else:
        ctx.out.raw("".join(lines).encode())
    return Exit.DONE


def _asked(args: Namespace) -> tuple[str, list[int]]:
    """Return the key and the versions that were given. Raises UsageError."""
    from argparse import ArgumentTypeError

    from clawlink.cli.exits import UsageError
    from clawlink.cli.values import count

    words = [*([] if args.key is None else [args.key]), *args.words]
    if not 1 <= len(words) <= 3:
        raise UsageError("say which file, and at most two versions of it: clawlink file diff KEY [A [B]]")
    try:
        return words[0], [count(word) for word in words[1:]]
    except ArgumentTypeError as error:
        raise UsageError(f"versions are numbers, as clawlink file history lists them: {error}") from None


def _chosen(client: Client, key: str, given: list[int]) -> tuple[int, int]:
    """Return the two versions to compare. Raises UnknownFile if there is none before the newest."""
    from clawlink.errors import UnknownFile

    if len(given) == 2:
        return given[0], given[1]
    history = client.file_history(key)
    if given:
        return given[0], history.version
    if len(history.versions) < 2:
        raise UnknownFile(
            f"no version of {key!r} before version {history.version} is kept, so there is nothing to compare",
            field="version",
        )
    return history.versions[1].version, history.version


def _content(client: Client, key: str, version: int) -> Blob:
    from clawlink.cli.exits import UsageError
    from clawlink.cli.render import size

    facts = client.stat_blob(key, version=version)
    if facts.burn_after_read:
        raise UsageError("the file is gone once it is read, so it is not read for a comparison")
    if facts.size > _MOST_BYTES:
        raise UsageError(
            f"version {version} has {size(facts.size)}, and {size(_MOST_BYTES)} are compared at most; "
            "get both with clawlink file get --version N --output PATH"
        )
    return client.get_blob(key, version=version)


def _texts(before: Blob, after: Blob) -> tuple[str, str] | None:
    if b"\x00" in before.content or b"\x00" in after.content:
        return None
    try:
        return before.content.decode(), after.content.decode()
    except UnicodeDecodeError:
        return None


def _diff(ctx: Context, key: str, before: Blob, after: Blob, texts: tuple[str, str]) -> Iterable[str]:
    from difflib import unified_diff

    from clawlink.client.files.merge import split
    from clawlink.domain.terminal import cell

    # A key may hold a character that ends the line.
    one, other = (
        f"{cell(key)} (version {b.facts.version}, {ctx.agents.named(b.facts.last_editor)})" for b in (before, after)
    )
    for line in unified_diff(split(texts[0]), split(texts[1]), one, other):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _show(ctx: Context, lines: Iterable[str]) -> None:
    from clawlink.domain.terminal import cell

    for line in lines:
        text = line.rstrip("\n")
        style = next((style for sign, style in _STYLES if text.startswith(sign)), None)
        ctx.out.line("\t".join(cell(part) for part in text.split("\t")), style=style)
