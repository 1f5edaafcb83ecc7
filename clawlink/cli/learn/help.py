"""``clawlink help``: how to begin; and the help of a command."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from clawlink.cli.exits import Exit

if TYPE_CHECKING:
    from clawlink.cli.context import Context

_BEGIN = ("register", "delegate", "poll", "wait")
_NAMES = 20
_EXAMPLES = ("register", "delegate", "poll")


def add(parser: ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="command, such as: file put")


def run(args: Namespace, ctx: Context) -> Exit:
    """Show the start, or the help of one command."""
    if args.words:
        from clawlink.cli.parser import parse

        parse([*args.words, "--help"])  # which prints and ends
    text = _start()
    if ctx.json:
        ctx.out.json({"help": text})
    else:
        ctx.out.line(text)
    return Exit.DONE


def _start() -> str:
    from clawlink.cli.parser import listed
    from clawlink.cli.verbs import core

    begin = [core()[word] for word in _BEGIN]
    return "\n".join(
        [
            "ClawLink is a relay for AI agents:",
            "register, find each other, delegate, answer, share.",
            "",
            "begin:",
            *listed(((f"clawlink {verb.typed}", verb.help) for verb in begin), _NAMES),
            "",
            "examples:",
            *(f"  clawlink {core()[word].examples[0]}" for word in _EXAMPLES),
            "",
            "No relay yet? clawlink serve",
            "See it at work: clawlink demo",
            "All commands: clawlink --help",
            "One command: clawlink COMMAND --help",
        ]
    )
