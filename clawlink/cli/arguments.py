"""Arguments by place or by flag, and the order of the words for argparse.

argparse reports a missing flag before a mistyped one, and loses words between flags. So the words are sorted first: a
word in a place becomes its flag, and an unknown flag is reported at once.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from clawlink.cli.exits import UsageError

# The suggestion for a mistyped flag is never one of these: they lose or overwrite data.
_NEVER_SUGGESTED = frozenset({"--force", "--burn", "--replace", "--offline"})
_EVERYWHERE = frozenset({"--relay", "--token", "--as", "--ca", "--timeout", "--json", "--help"})
# Flags are alike from here on; less would take --task for --as.
_ALIKE = 0.7
# Letters at the beginning of a flag that are enough to suggest it.
_LEAST_BEGUN = 3
_NARROWEST = 40
# Stands for a value that is --, which argparse takes away. No argument can have this character.
_DASHES = "\0--"
_NUMBER = re.compile(r"-\d+|-\d*\.\d+")


class Slot(NamedTuple):
    """A place of the command line, and the flag that means the same."""

    metavar: str
    flag: str
    dest: str
    required: bool
    # Flags that leave this place empty: with such a flag the next word is for the next place.
    unless: tuple[str, ...]
    # A single word is for the next place.
    skipped_if_alone: bool = False


class Parser(argparse.ArgumentParser):
    """A parser with slots, with one sentence for each mistake."""

    def __init__(self, **kwargs: Any) -> None:
        ours = {
            "allow_abbrev": False,
            "conflict_handler": "resolve",
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(**{**ours, **kwargs})
        self.slots: list[Slot] = []
        self.deletes = False
        # The end of the help where it takes a while to make: only help asks for it.
        self.ending: Callable[[], str] | None = None
        # Takes the first word that has a place, before any flag is read: what help says may depend on it.
        self.narrow: Callable[[str], None] | None = None

    def format_help(self) -> str:
        if self.ending is not None:
            self.epilog = self.ending()
        self.description = self.description and _filled("", self.description)
        self.usage = self.usage and _filled("usage: ", self.usage)
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or the version. Raises OSError if that fails, which argparse ignores."""
        from clawlink.client.files.whole import flush_all

        stream = file or sys.stderr
        if message and stream is not None:
            stream.write(message)
            flush_all(stream)

    def error(self, message: str) -> NoReturn:
        message = message.replace(repr(_DASHES)[1:-1], "--")
        start, required, missing = message.partition("arguments are required: ")
        if required:  # argparse names one without a metavar by its attribute, and the help by its choices
            names = {action.dest: _shown(action) for action in self._get_positional_actions()}
            message = start + required + ", ".join(names.get(name, name) for name in missing.split(", "))
        for action in self._get_positional_actions():
            if action.metavar is None:  # nobody knows the attribute, and the message lists the choices
                message = message.removeprefix(f"argument {action.dest}: ")
        raise UsageError(f"{message}; see: {self.prog} --help")

    def flags(self) -> dict[str, argparse.Action]:
        """Return the action of each flag."""
        return self._option_string_actions

    def places(self) -> list[argparse.Action]:
        """Return the arguments that have a place and no flag."""
        slots = {_place(slot.flag) for slot in self.slots}
        return [action for action in self._get_positional_actions() if action.dest not in slots]

    def usage_line(self) -> str:
        """Return the words of the command in short: ``clawlink send AGENT TEXT [flags]``."""
        words = [self.prog]
        words += [slot.metavar if slot.required and not slot.unless else f"[{slot.metavar}]" for slot in self.slots]
        for action in self.places():
            name = _shown(action)
            words.append({"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name))
        grouped = []
        for group in self._mutually_exclusive_groups:
            if group.required:
                grouped += group._group_actions
                words.append(f"({' | '.join(map(_with_value, group._group_actions))})")
        words += [
            _with_value(action) for action in self._get_optional_actions() if action.required and action not in grouped
        ]
        return " ".join([*words, "[flags]"]).replace("%", "%%")


def add_slot(
    parser: argparse.ArgumentParser,
    metavar: str,
    flag: str,
    *,
    help: str,
    required: bool = True,
    unless: tuple[str, ...] = (),
    skipped_if_alone: bool = False,
    kind: str | None = None,
    **kwargs: Any,
) -> None:
    """Add an argument with a place and a flag. ``kind`` names its completion at a prompt."""
    for action in (
        parser.add_argument(
            _place(flag), nargs="?", metavar=metavar, default=argparse.SUPPRESS, help=help.replace("%", "%%")
        ),
        parser.add_argument(flag, metavar=metavar, help="the same, as a flag", **kwargs),
    ):
        if kind is not None:
            completed_by(action, kind)
    if isinstance(parser, Parser):
        parser.slots.append(Slot(metavar, flag, action.dest, required, unless, skipped_if_alone))


def completed_by(action: argparse.Action, kind: str) -> None:
    """Set the completion of an argument at a prompt: one of ``completing.KINDS``. Paths need none."""
    action.kind = kind  # type: ignore[attr-defined]


def parsed(parser: Parser, words: Sequence[str], args: argparse.Namespace) -> None:
    """Parse the words of one verb into the namespace. Raises UsageError."""
    parser.parse_args(_marked(sorted_words(parser, words)), args)
    for name, given in vars(args).items():
        if isinstance(given, list):
            setattr(args, name, ["--" if one == _DASHES else one for one in given])
        elif given == _DASHES:
            setattr(args, name, "--")
    for slot in parser.slots:
        if slot.required and getattr(args, slot.dest, None) is None:
            parser.error(f"the following arguments are required: {slot.metavar} or {slot.flag}{_read_as(parser, args)}")


def _read_as(parser: Parser, args: argparse.Namespace) -> str:
    """Return a note of what the words with a place were taken for; "" if there are none."""
    given = [(getattr(args, slot.dest, None), slot.metavar) for slot in parser.slots]
    words = [(value[0] if isinstance(value, list) and value else value, name) for value, name in given]
    taken = [f"{word!r} was taken as {name}" for word, name in words if isinstance(word, str)]
    return f" ({', '.join(taken)})" if taken else ""


def sorted_words(parser: Parser, words: Sequence[str]) -> list[str]:
    """Return the words in an order for argparse: flags with their values first, then words with a place.

    Raises UsageError, also for an empty value.
    """
    try:
        found = _sorted(parser, words, guess=True)
    except _Misread:
        found = _sorted(parser, words, guess=False)
    _refuse_empty(parser, found)
    return found


def may_be_empty(action: argparse.Action) -> None:
    """Let an argument be empty, where that has a meaning, or the command has its own sentence. A TEXT always may."""
    action.may_be_empty = True  # type: ignore[attr-defined]


def _refuse_empty(parser: Parser, words: Sequence[str]) -> None:
    """Refuse each empty value of sorted words, as an unset variable gives. Raises UsageError."""
    known, places = parser.flags(), parser.places()
    at = words.index("--") if "--" in words else len(words)
    for word in words[:at]:
        name, joined, value = word.partition("=")
        if joined and name in known:
            _require(parser, known[name], value)
    for index, word in enumerate(words[at + 1 :]):
        _require(parser, places[min(index, len(places) - 1)], word)


def _require(parser: Parser, action: argparse.Action, value: str) -> None:
    of_a_file = getattr(action, "kind", "").startswith("keys")  # a key may be white space
    if (value if of_a_file else value.strip()) or action.metavar == "TEXT" or getattr(action, "may_be_empty", False):
        return
    if callable(action.type):
        with contextlib.suppress(ValueError, TypeError, argparse.ArgumentTypeError):
            action.type(value)  # some types have a UsageError with a better next step
    slot = next((slot for slot in parser.slots if slot.flag in action.option_strings), None)
    name = "/".join(action.option_strings) or _shown(action)
    give = f"one of {', '.join(map(str, action.choices))}" if action.choices else "a value"
    needed = action.required if slot is None else slot.required
    parser.error(
        f"{name if slot is None else f'{slot.metavar} or {name}'} is empty; give {give}{_example(action)}"
        f"{'' if needed else ', or leave it out'}"
    )


class _Misread(Exception):
    """A word that was not taken for the value of the flag before it has no place."""


def _sorted(parser: Parser, words: Sequence[str], *, guess: bool) -> list[str]:
    """Sort the words. With ``guess``, a word that cannot be the optional value before it has its own place."""
    flags: list[str] = []
    filled = _Filled(parser)
    guessed = False
    plain: list[str] = []
    known = parser.flags()
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            plain += words[at:]
            break
        if not _is_flag(word, known):
            plain.append(word)
            filled.words.append((word, frozenset(filled.flags)))
            continue
        name, joined, value = word.partition("=")
        action = known.get(word)
        if action is not None:
            joined = ""
        elif joined and name in known:
            action = known[name]
        elif _is_cluster(word, known):
            flags.append(word)
            continue
        else:
            parser.error(f"unrecognized arguments: {word}{_meant(parser, name, word, filled)}")
        rest = words[at:]
        if joined:
            filled.flags.setdefault(name, []).append(value)
            flags.append(word)
        elif action.nargs == 0:
            flags.append(word)
        elif action.nargs == "?":
            if rest and not _is_flag(rest[0], known):
                if not guess or _can_be(action, rest[0]):
                    flags.append(f"{word}={rest[0]}")
                    at += 1
                    continue
                guessed = True
            flags.append(word)
        elif rest and not _is_flag(rest[0], known):
            filled.flags.setdefault(word, []).append(rest[0])
            flags += [f"{word}={rest[0]}"] if word.startswith("--") else [word, rest[0]]
            at += 1
        else:
            flag = "/".join(action.option_strings)
            parser.error(f"argument {flag}: expected one argument{_example(action)}{_join(word, rest, known)}")
    for word in plain[len(filled.words) :]:
        filled.words.append((word, frozenset(filled.flags)))
    if parser.slots:
        try:
            return flags + filled.as_flags()
        except UsageError:
            if not guessed:
                raise
            raise _Misread from None
    if plain and not parser.places():
        if guessed:
            raise _Misread
        parser.error(f"unrecognized arguments: {' '.join(plain)}")
    if plain and parser.narrow is not None:
        parser.narrow(plain[0])
    return [*flags, "--", *plain] if plain else flags


class _Filled:
    """The slots of a command line: words in their order, and the flags that mean the same."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        # Each word, with the flags that stand before it.
        self.words: list[tuple[str, frozenset[str]]] = []
        self.flags: dict[str, list[str]] = {}

    def as_flags(self) -> list[str]:
        """Return a flag for each word. Raises UsageError if a word and a flag say different things."""
        slots = self._parser.slots
        left = list(slots)
        if len(self.words) == 1 and slots[0].skipped_if_alone and slots[1].flag not in self.flags:
            del left[0]
        found: list[tuple[Slot, str]] = []
        for word, before in self.words:
            while left and (left[0].flag in before or any(flag in self.flags for flag in left[0].unless)):
                del left[0]
            if not left:
                break
            found.append((left.pop(0), word))
        if len(self.words) > len(slots):
            extra = " ".join(word for word, _ in self.words[len(slots) :])
            self._parser.error(f"unrecognized arguments: {extra}; {self._room_for_more()}")
        if len(found) < len(self.words) or self._contradiction(found):
            # A word then repeats the value of a flag, or contradicts it.
            found = [(slot, word) for slot, (word, _) in zip(slots, self.words, strict=False)]
        contradiction = self._contradiction(found)
        if contradiction is not None:
            slot, word = contradiction
            flag = self.flags[slot.flag][-1]
            self._parser.error(
                f"{slot.metavar} {word!r} and {slot.flag} {flag!r} are given, and are different; give one"
            )
        return [f"{slot.flag}={word}" for slot, word in found if slot.flag not in self.flags]

    def _room_for_more(self) -> str:
        """Say where the words belong that have no slot."""
        slots = self._parser.slots
        first = self.words[0][0]
        takes_text = slots[-1].metavar == "TEXT" or slots[-1].flag == "--task"
        if takes_text and not any(" " in word for word, _ in self.words):
            return "a text of several words stands in quotes"
        if "--topic" in self._parser.flags() and " " not in first:
            return f"a topic is --topic {shlex.quote(first)}"
        return f"it takes {' '.join(slot.metavar for slot in slots)} and no further words"

    def _contradiction(self, found: list[tuple[Slot, str]]) -> tuple[Slot, str] | None:
        """Return the first word that says something else than the flag of its slot."""
        return next(((slot, word) for slot, word in found if set(self.flags.get(slot.flag, [word])) != {word}), None)


def _marked(words: list[str]) -> list[str]:
    """Put a mark in place of each value that is two dashes."""
    at = words.index("--") if "--" in words else len(words)
    flags = [word[:-2] + _DASHES if word.endswith("=--") else word for word in words[:at]]
    return flags + words[at : at + 1] + [_DASHES if word == "--" else word for word in words[at + 1 :]]


def _filled(before: str, text: str) -> str:
    """Wrap a text at words to the width of the terminal. ``before`` stands before its first line."""
    import shutil
    from textwrap import fill

    columns = max(shutil.get_terminal_size().columns, _NARROWEST)
    room = " " * len(before)
    words = " ".join(text.split())
    filled = fill(words, columns, initial_indent=room, subsequent_indent=room, break_on_hyphens=False)
    return filled[len(before) :]


def _place(flag: str) -> str:
    return f"{flag.strip('-').replace('-', '_')}_place"


def _is_flag(word: str, known: dict[str, argparse.Action]) -> bool:
    """Return True if argparse takes the word for a flag. A text with spaces is none, nor is a negative number."""
    if not word.startswith("-") or word == "-":
        return False
    if word in known or word == "--" or word.partition("=")[0] in known:
        return True
    return " " not in word and _NUMBER.fullmatch(word) is None


def _is_cluster(word: str, known: dict[str, argparse.Action]) -> bool:
    """Return True for short flags in one word, as ``-qh``."""
    letters = [f"-{letter}" for letter in word[1:]]
    return not word.startswith("--") and all(one in known and known[one].nargs == 0 for one in letters)


def _can_be(action: argparse.Action, word: str) -> bool:
    """Return True if the word can be the value of the flag."""
    if action.choices is not None:
        return word in action.choices
    if callable(action.type):
        try:
            action.type(word)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            return False
    return True


def _join(flag: str, rest: Sequence[str], known: dict[str, argparse.Action]) -> str:
    """Say how to write a value that begins with a dash."""
    if not rest or rest[0] == "--" or rest[0].partition("=")[0] in known:
        return ""
    return _as_value(rest[0], [flag])


def _example(action: argparse.Action) -> str:
    """Return the example at the end of the flag's help, as a text to type."""
    if not action.option_strings:
        return ""
    _, found, example = (action.help or "").rpartition(", as ")
    return f", as {action.option_strings[-1]} {example}" if found and " " not in example else ""


def _as_value(word: str, flags: Sequence[str]) -> str:
    typed = " or ".join(shlex.quote(f"{flag}={word}") for flag in flags)
    return f"; if {word!r} is a value, join it to its flag: {typed}"


def _meant(parser: Parser, name: str, word: str, filled: _Filled) -> str:
    """Suggest a flag that may be meant, or how to write a word that is no flag."""
    close = suggestion(name, parser)
    if close is not None:
        return f"; did you mean: {close}"
    if name.startswith("--") or len(word) < 2:
        return ""
    at = len(filled.words)
    open_slots = [slot.flag for slot in parser.slots if slot.flag not in filled.flags][at:]
    if open_slots:
        return _as_value(word, open_slots)
    return f"; if {word!r} is a value, put two dashes before it: -- {shlex.quote(word)}" if parser.places() else ""


def suggestion(name: str, parser: Parser) -> str | None:
    """Return the flag that is most like this one; None if that one loses something."""
    from difflib import get_close_matches

    if not name.startswith("--") and len(name) < 4:
        return None
    flags = [flag[2:] for flag in parser.flags() if flag.startswith("--")]
    typed = name.lstrip("-")
    begun = [flag for flag in flags if len(typed) >= _LEAST_BEGUN and flag.startswith(typed)]
    close = [f"--{flag}" for flag in (begun if len(begun) == 1 else get_close_matches(typed, flags, 1, _ALIKE))]
    if not close or close[0] in _NEVER_SUGGESTED or (parser.deletes and close[0] not in _EVERYWHERE):
        return None
    return close[0]


def _shown(action: argparse.Action) -> str:
    if action.metavar is not None:
        return str(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _with_value(action: argparse.Action) -> str:
    flag = action.option_strings[0]
    return flag if action.nargs == 0 else f"{flag} {action.metavar or action.dest.upper()}"
