"""The declaration of a verb: its words, its help, its examples, and the module that does the work."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from clawlink.cli.context import Context
    from clawlink.cli.exits import Exit


# The flags of every command that name a relay, an agent and a time.
OF_A_RELAY = ("--relay", "--token", "--as", "--ca", "--timeout")


class Command(Protocol):
    """The contents of a verb's module. It is imported only when the verb is asked for."""

    @staticmethod
    def add(parser: ArgumentParser) -> None: ...

    @staticmethod
    def run(args: Namespace, ctx: Context) -> Exit: ...


class Verb(NamedTuple):
    """A verb, declared once: parser, help, completion and the check of references/cli.md read this."""

    name: str
    help: str
    module: str
    # Each is a command line without "clawlink" before it.
    examples: tuple[str, ...]
    # Words that stand alone for the verb: `clawlink delegate` for `clawlink task delegate`.
    aliases: tuple[str, ...] = ()
    # Help and hints show the first alias in place of noun and name.
    frequent: bool = False
    # No suggestion for a typing mistake names a verb that deletes.
    deletes: bool = False
    # Flags of every command that do nothing here: help leaves them out, and they are taken.
    unused: tuple[str, ...] = ()
    # Filled in by the noun.
    noun: str = ""

    @property
    def typed(self) -> str:
        """The words as help shows them: ``file put``, ``delegate``."""
        return self.aliases[0] if self.frequent else f"{self.noun} {self.name}".strip()

    @property
    def spellings(self) -> tuple[str, ...]:
        """All words that mean this verb: ``file put``, ``file-put``."""
        return (f"{self.noun} {self.name}".strip(), *self.aliases)

    def load(self) -> Command:
        """Import the module."""
        return cast("Command", import_module(self.module))


class Noun(NamedTuple):
    """A noun with its verbs. Without a name it is only a heading: its verbs stand alone."""

    name: str
    help: str
    verbs: tuple[Verb, ...]
    # The verb that is meant where no verb of the noun follows: `clawlink task ID`.
    default: str = ""

    def owned(self) -> tuple[Verb, ...]:
        """Return the verbs, each with the noun."""
        return tuple(verb._replace(noun=self.name) for verb in self.verbs)
