"""From arguments to a namespace: options that go with every verb stand before or after it.

Only the module of the typed verb is imported, so this module names no verb and knows no flag of a verb.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import Any

from clawlink.cli.arguments import Parser, completed_by, parsed, sorted_words, suggestion
from clawlink.cli.exits import MEANING, UsageError
from clawlink.cli.verb import Noun, Verb
from clawlink.cli.verbs import find, noun_named, nouns, spellings, verbs
from clawlink.version import VERSION

PROG = "clawlink"
# The room for names in lists of verbs.
_NAMES = 22
# Arguments that name a file on this machine: there a name need not be UTF-8.
_PATHS = frozenset({"file", "output", "ca", "dir", "attach"})
_VALUED = frozenset({"--relay", "--token", "--as", "--ca", "--timeout"})
# The beginning of an id: nothing that looks like one is a mistyped verb.
_HEXADECIMAL = frozenset("0123456789abcdef")

_ENVIRONMENT = (
    ("CLAWLINK_RELAY", "the relay's address, as --relay"),
    ("CLAWLINK_TOKEN", "the relay's token, as --token"),
    ("CLAWLINK_AGENT", "which identity to use, as --as"),
    ("CLAWLINK_CA", "the certificate to trust, as --ca"),
    ("CLAWLINK_HOME", "where identities are kept (default ~/.clawlink)"),
    ("CLAWLINK_PARENT_TASK", "the task you work on, as --parent"),
    ("CLAWLINK_NO_MDNS", "yes: look for no relay on the local network"),
    ("NO_COLOR", "any text: no colours"),
)


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
    """Add the flags of every verb.

    Missing flags stay out of the namespace, so that flags before and after the verb add up.
    """
    group = parser.add_argument_group("with every command, before or after its name")
    absent = argparse.SUPPRESS
    group.add_argument(
        "--relay", metavar="URL", default=absent, help="the relay's address (default: where you registered)"
    )
    group.add_argument("--token", metavar="T", default=absent, help="the relay's token")
    identity = group.add_argument(
        "--as",
        metavar="NAME",
        dest="named",
        default=absent,
        help="identity to use, if several are kept: a name or an id",
    )
    completed_by(identity, "identities")
    group.add_argument("--ca", metavar="FILE", default=absent, help="certificate to trust for https, PEM")
    group.add_argument(
        "--timeout", metavar="S", type=_seconds, default=absent, help="seconds to wait for an answer (default 10)"
    )
    group.add_argument("--json", action="store_true", default=absent, help="print JSON, errors too")


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """Return the verb and its arguments. Raises UsageError; SystemExit after printing help or version."""
    words = list(argv) or ["help"]
    args = argparse.Namespace()
    before, word, after = _split(words)
    top = _top()
    _parse_before(top, before, args)
    if word is None:
        raise UsageError(
            f"name a command, for example: {PROG} register NAME; all commands: {PROG} --help{_taken(words)}"
        )
    verb, after = _verb(word, after, args)
    parser = parser_of(verb)
    parsed(parser, after, args)
    for option in ("relay", "token", "named", "ca", "timeout"):
        args.__dict__.setdefault(option, None)
    args.__dict__.setdefault("json", False)
    _require_text(args)
    return verb, args


def parser_of(verb: Verb) -> Parser:
    """Return the parser of one verb."""
    parser = Parser(prog=f"{PROG} {verb.typed}", description=verb.help)
    _fill(parser, verb)
    return parser


def everything(*, hyphened: bool = True) -> argparse.ArgumentParser:
    """Return one parser with all nouns, verbs and flags, for completion scripts.

    Without ``hyphened`` it has no ``file-put`` beside ``file put``.
    """
    top = _top()
    words = top.add_subparsers(dest="verb", metavar="COMMAND")
    for verb in verbs():
        for alias in verb.aliases if verb.noun else verb.spellings:
            if not hyphened and alias == f"{verb.noun}-{verb.name}":
                continue
            _fill(words.add_parser(alias, help=verb.help, description=verb.help), verb)
    for noun in nouns():
        if noun.name:
            parser = words.add_parser(noun.name, help=noun.help, description=noun.help)
            _add_everywhere(parser)
            under = parser.add_subparsers(dest="verb", metavar="VERB")
            for verb in noun.owned():
                _fill(under.add_parser(verb.name, help=verb.help, description=verb.help), verb)
    return top


def noun_parser(noun: Noun) -> Parser:
    """Return the parser of a noun that no verb follows: it only knows help."""
    default = f" {PROG} {noun.name} ID is: {PROG} {noun.name} {noun.default} ID." if noun.default else ""
    lines = listed((verb.name, verb.help) for verb in noun.verbs)
    parser = Parser(
        prog=f"{PROG} {noun.name}",
        usage=f"{PROG} {noun.name} VERB ...",
        description=f"{noun.help}{default}",
        epilog="\n".join(["verbs:", *lines, "", f"Flags and examples of a verb: {PROG} {noun.name} VERB --help"]),
    )
    _add_everywhere(parser)
    return parser


def _fill(parser: Parser, verb: Verb) -> None:
    """Add the arguments of a verb, and say how it is used."""
    # `serve` has a --token of its own, which replaces the common one.
    _add_everywhere(parser)
    parser.deletes = verb.deletes
    verb.load().add(parser)
    for flag in verb.unused:
        parser.flags()[flag].help = argparse.SUPPRESS
    parser.usage = parser.usage_line()
    others = [spelling for spelling in verb.spellings if spelling != verb.typed]
    lines = [] if parser.epilog is None else [parser.epilog, ""]
    lines += ["examples:" if len(verb.examples) > 1 else "example:"]
    lines += [f"  {PROG} {example}" for example in verb.examples]
    if others:
        lines += ["", "also: " + ", ".join(f"{PROG} {spelling}" for spelling in others)]
    parser.epilog = "\n".join(lines)


def _verb(word: str, after: list[str], args: argparse.Namespace) -> tuple[Verb, list[str]]:
    """Find the verb. Returns it with the words that are its own. Raises UsageError."""
    noun = noun_named(word)
    if noun is None:
        verb = None if " " in word else find(word)
        if verb is None:
            raise UsageError(_unknown(word, None))
        return verb, after
    before, second, rest = _split(after)
    if second is None:
        _parse_before(noun_parser(noun), before, args)
        names = ", ".join(verb.name for verb in noun.verbs)
        raise UsageError(f"name a verb, as {PROG} {noun.name} VERB; the verbs are {names}")
    verb = find(f"{noun.name} {second}")
    if verb is None:
        verb = find(f"{noun.name} {noun.default}")
        if verb is None or (not _HEXADECIMAL.issuperset(second) and _alike(second, [one.name for one in noun.verbs])):
            raise UsageError(_unknown(second, noun))
        return verb, after
    _parse_before(noun_parser(noun), before, args)
    return verb, rest


def _taken(words: list[str]) -> str:
    """Return a note of a command that was read as the value of a flag; "" if there is none."""
    if len(words) < 2 or words[-2] not in _VALUED or (noun_named(words[-1]) or find(words[-1])) is None:
        return ""
    return f" ({words[-1]!r} was taken as the value of {words[-2]})"


def _parse_before(parser: Parser, before: list[str], args: argparse.Namespace) -> None:
    for word in before:
        name = word.partition("=")[0]
        if word.startswith("--") and name not in parser.flags():
            close = suggestion(name, parser)
            meant = f"; did you mean: {close}" if close else "; the flags of a command stand behind its name"
            parser.error(f"unrecognized arguments: {word}{meant}")
        if word in _VALUED:
            break
    parser.parse_args(sorted_words(parser, before), args)


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
        usage=f"{PROG} COMMAND ... [--relay URL] [--token T] [--as NAME] [--json]",
        description="A relay for AI agents: register, find each other, delegate, answer, share.",
    )
    parser.ending = _epilog
    parser.add_argument("--version", action="version", version=f"{PROG} {VERSION}")
    _add_everywhere(parser)
    return parser


def listed(named: Iterable[tuple[str, str]], names: int = _NAMES) -> list[str]:
    """Return a line for each name and its help, wrapped at words.

    ``names`` is the width of the column of names, in characters.
    """
    import shutil
    from textwrap import wrap

    lines = [f"  {name:<{names}}{help}" for name, help in named]
    columns = max(shutil.get_terminal_size().columns, names + _NAMES)
    indent = " " * (names + 2)
    return [piece for line in lines for piece in wrap(line, columns, subsequent_indent=indent)]


def _epilog() -> str:
    lines = [f"Begin with: {PROG} help", ""]
    for noun in nouns():
        title = noun.help.rstrip(".")
        title = f"{noun.name}: {title[0].lower()}{title[1:]}" if noun.name else title
        lines += [title, *listed((verb.typed, verb.help) for verb in noun.owned()), ""]
    lines += ["exit codes:", *listed((str(code.value), meaning) for code, meaning in MEANING.items()), ""]
    lines += ["environment (a flag overrides it):", *listed(_ENVIRONMENT), ""]
    return "\n".join([*lines, f"Flags and examples of a command: {PROG} COMMAND --help"])


def _close(word: str, noun: Noun | None) -> str | None:
    """Return the words that look most like this one; None if they delete."""
    if noun is None:
        known = [spelling for spelling in spellings() if " " not in spelling] + [
            one.name for one in nouns() if one.name
        ]
        close = _alike(word, known)
    else:
        found = _alike(word, [verb.name for verb in noun.verbs])
        close = found and f"{noun.name} {found}"
    return None if close is None or (close in spellings() and spellings()[close].deletes) else close


def _alike(word: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches

    close = get_close_matches(word, known, 1)
    return close[0] if close else None


def _unknown(word: str, noun: Noun | None) -> str:
    close = _close(word, noun)
    given = word if noun is None else f"{noun.name} {word}"
    help = f"{PROG} --help" if noun is None else f"{PROG} {noun.name} --help"
    if given == "version":
        close = "--version"
    named = [] if noun is not None else [verb for verb in verbs() if verb.noun and verb.name == word]
    if named:  # its noun is missing
        close = f" or {PROG} ".join(verb.typed for verb in named if not verb.deletes)
    meant = f"; did you mean: {PROG} {close}" if close else f"; all commands: {help}"
    return f"there is no command {given!r}{meant}"


def _require_text(args: argparse.Namespace) -> None:
    """Read arguments as UTF-8 where the locale does not, as C. Refuse others: they could not be sent unchanged."""
    for name, given in vars(args).items():
        if name in _PATHS:
            continue
        if isinstance(given, list):
            setattr(args, name, [_text(name, one) for one in given])
        else:
            setattr(args, name, _text(name, given))


def _text(name: str, given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        given.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(given).decode("utf-8")
        except UnicodeError:
            raise UsageError(f"the value for {name} is not UTF-8 text; give it in UTF-8") from None
    return given
