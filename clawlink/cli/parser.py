"""From arguments to a namespace: options that go with every verb stand before or after it.

Only the module of the verb asked for is imported, so this module names no verb and knows no flag of one.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import NoReturn

from clawlink.cli.exits import MEANING, UsageError
from clawlink.cli.verbs import DOORS, GROUPS, VERBS, Verb, load, of_doors
from clawlink.version import VERSION

PROG = "clawlink"
# Arguments that name a file on this machine: there a name need not be UTF-8.
_PATHS = frozenset({"file", "output", "ca", "dir", "attach"})
_VALUED = frozenset({"--relay", "--token", "--as", "--ca", "--timeout"})

_ENVIRONMENT = (
    ("CLAWLINK_RELAY", "the relay's address, as --relay"),
    ("CLAWLINK_TOKEN", "the relay's token, as --token"),
    ("CLAWLINK_AGENT", "which identity to use, as --as"),
    ("CLAWLINK_CA", "the certificate to trust, as --ca"),
    ("CLAWLINK_HOME", "where identities are kept (default ~/.clawlink)"),
    ("CLAWLINK_PARENT_TASK", "the task you work on, as --parent"),
    ("CLAWLINK_NO_MDNS", "yes: look for no relay on the local network"),
)


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are told in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see: {self.prog} --help")

    def joined(self, words: Sequence[str]) -> str:
        """Say how to write the first word that was taken for a flag because it begins with a dash; empty: none was."""
        known = self._option_string_actions
        for before, word in zip(["", *words], words):  # noqa: B905 - the last word has none behind it
            if word == "--":
                break
            if not word.startswith("-") or word == "-" or word.partition("=")[0] in known:
                continue
            if before in known and known[before].nargs != 0:
                flags = [before]
            elif "--key" in known and known["--key"].dest == "key" and not word.startswith("--"):
                flags = [flag for flag in ("--file", "--key") if flag in known]
            else:
                continue
            typed = " or ".join(shlex.quote(f"{flag}={word}") for flag in flags)
            return f"; if {word!r} is a value, join it to its flag: {typed}"
        return ""


def _seconds(text: str) -> float:
    from clawlink.config import MAX_TIMEOUT_SECONDS

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MAX_TIMEOUT_SECONDS:
        raise argparse.ArgumentTypeError(
            f"a number of seconds above 0 and up to {MAX_TIMEOUT_SECONDS:.0f} is needed, not {text!r}"
        )
    return value


def _add_everywhere(parser: argparse.ArgumentParser) -> None:
    """Add what goes with every verb. Left out of the namespace where not given, so that before and after add up."""
    group = parser.add_argument_group("with every command, before or after its name")
    absent = argparse.SUPPRESS
    group.add_argument(
        "--relay", metavar="URL", default=absent, help="the relay's address (default: where you registered)"
    )
    group.add_argument("--token", metavar="T", default=absent, help="the relay's token")
    group.add_argument("--as", metavar="NAME", dest="named", default=absent, help="which of several identities to use")
    group.add_argument("--ca", metavar="FILE", default=absent, help="certificate to trust for https, PEM")
    group.add_argument(
        "--timeout", metavar="S", type=_seconds, default=absent, help="seconds to wait for an answer (default 10)"
    )
    group.add_argument("--json", action="store_true", default=absent, help="print JSON, errors too")


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """Return the verb's module and its arguments. Raises UsageError; SystemExit after printing help or version."""
    before, name, after = _split(argv)
    top = _top()
    args = top.parse_args(before)
    if name is None:
        raise UsageError(f"say what to do, for example: {PROG} register --name NAME; all commands: {PROG} --help")
    try:
        verb = load(name)
    except KeyError:
        raise UsageError(_unknown(name)) from None
    # `serve` has a --token of its own, which takes the place of the one that goes with every verb.
    parser = Parser(prog=f"{PROG} {name}", description=verb.HELP, allow_abbrev=False, conflict_handler="resolve")
    _add_everywhere(parser)
    verb.add(parser)
    try:
        parser.parse_args(after, args)
    except UsageError as error:
        raise UsageError(error.message + parser.joined(after)) from None
    for option in ("relay", "token", "named", "ca", "timeout"):
        args.__dict__.setdefault(option, None)
    args.__dict__.setdefault("json", False)
    _require_text(args)
    return verb, args


def everything() -> argparse.ArgumentParser:
    """Return one parser with all verbs and their flags, for completion scripts."""
    top = _top()
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND")
    for verb in (*map(load, VERBS), *of_doors().values()):
        parser = verbs.add_parser(verb.NAME, help=verb.HELP, conflict_handler="resolve")
        _add_everywhere(parser)
        verb.add(parser)
    return top


def _split(argv: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Find the verb: the first argument that is neither an option nor the value of one."""
    at = 0
    while at < len(argv):
        if argv[at] in _VALUED:
            at += 2
        elif argv[at].startswith("-"):
            at += 1
        else:
            return list(argv[:at]), argv[at], list(argv[at + 1 :])
    return list(argv), None, []


def _top() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} [--relay URL] [--token T] [--as NAME] [--json] COMMAND ...",
        description="A relay for AI agents: register, find each other, delegate, answer, share.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {VERSION}")
    _add_everywhere(parser)
    return parser


def _epilog() -> str:
    lines = []
    doors = (DOORS, tuple((verb.NAME, verb.HELP) for verb in of_doors().values()))
    for title, verbs in (*GROUPS, doors) if doors[1] else GROUPS:
        lines += [f"{title}:", *(f"  {name:<14}{help}" for name, help in verbs), ""]
    lines += ["exit codes:", *(f"  {code.value:<14}{meaning}" for code, meaning in MEANING.items()), ""]
    lines += ["environment (a flag goes first):", *(f"  {name:<22}{help}" for name, help in _ENVIRONMENT), ""]
    return "\n".join([*lines, f"Flags of a command: {PROG} COMMAND --help"])


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, [*VERBS, *of_doors()], 1)
    meant = f"; did you mean: {PROG} {close[0]}" if close else f"; all commands: {PROG} --help"
    return f"there is no command {name!r}{meant}"


def _require_text(args: argparse.Namespace) -> None:
    """Refuse arguments that are not UTF-8: they could not be sent as they are."""
    for name, given in vars(args).items():
        for text in given if isinstance(given, list) else [given]:
            if isinstance(text, str) and name not in _PATHS:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    raise UsageError(f"the value for {name} is not UTF-8 text; give it in UTF-8") from None
