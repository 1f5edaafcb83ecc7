"""All nouns and verbs: where a word of the command line leads."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from clawlink.cli.agent import NOUN as AGENT
from clawlink.cli.file import NOUN as FILE
from clawlink.cli.learn import NOUN as LEARN
from clawlink.cli.message import NOUN as MESSAGE
from clawlink.cli.plumbing import NOUN as PLUMBING
from clawlink.cli.relay import NOUN as RELAY
from clawlink.cli.task import NOUN as TASK
from clawlink.cli.topic import NOUN as TOPIC
from clawlink.cli.verb import Noun, Verb

# In the order of the help. The verbs of doors come after them: finding doors takes a while.
NOUNS = (AGENT, TASK, MESSAGE, TOPIC, FILE, RELAY, LEARN, PLUMBING)


def find(spelling: str) -> Verb | None:
    """Return the verb that these words mean: ``file put``, ``file-put``. Doors are asked last."""
    return core().get(spelling) or spellings().get(spelling)


def noun_named(word: str) -> Noun | None:
    """Return the noun of that name; None if the word is none."""
    return next((noun for noun in NOUNS if noun.name == word), None) if word else None


@cache
def core() -> dict[str, Verb]:
    """Return the verbs without those of doors, by all words that mean them."""
    return _spelled(verb for noun in NOUNS for verb in noun.owned())


@cache
def of_doors() -> Noun:
    """Return the verbs of doors, without verbs whose name is taken."""
    from clawlink.doors.registry import verbs

    found: dict[str, Verb] = {}
    for verb in verbs():
        if not set(verb.spellings) & (core().keys() | found.keys()) and noun_named(verb.name) is None:
            found[verb.name] = verb
    return Noun("", "Speak another protocol.", tuple(found.values()))


@cache
def spellings() -> dict[str, Verb]:
    """Return all verbs by all words that mean them."""
    return {**core(), **_spelled(of_doors().owned())}


def nouns() -> tuple[Noun, ...]:
    """Return all nouns and headings, in the order of the help."""
    return (*NOUNS, of_doors()) if of_doors().verbs else NOUNS


def verbs() -> tuple[Verb, ...]:
    """Return all verbs, in the order of the help."""
    return tuple(verb for noun in nouns() for verb in noun.owned())


def _spelled(verbs: Iterable[Verb]) -> dict[str, Verb]:
    return {spelling: verb for verb in verbs for spelling in verb.spellings}
