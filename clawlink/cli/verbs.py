"""The verbs by name, with one line each: all that ``--help`` and the dispatch need to import."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from clawlink.cli.context import Context
    from clawlink.cli.exits import Exit


class Verb(Protocol):
    """The contents of a verb's module: ``add`` and ``run`` are functions there."""

    NAME: str
    HELP: str

    def add(self, parser: ArgumentParser) -> None: ...

    def run(self, args: Namespace, ctx: Context) -> Exit: ...


GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "take part",
        (
            ("register", "Register an agent here, or resume it."),
            ("whoami", "List the identities kept here, and which one is used."),
            ("heartbeat", "Show a sign of life."),
            ("discover", "List agents."),
            ("leave", "Leave the relay and forget the identity."),
        ),
    ),
    (
        "work",
        (
            ("delegate", "Delegate a task to agents, or to whoever can do it."),
            ("wait", "Wait for tasks to be finished."),
            ("tasks", "List your tasks."),
            ("task", "Show one task and all that happened to it."),
            ("answer", "Answer what the assignee of a task asks."),
            ("cancel", "Take a task back for good."),
            ("poll", "Show the messages that wait for you."),
            ("respond", "Report on a task, or answer it."),
            ("work", "Have a command do the tasks that come."),
            ("send", "Send a plain message to an agent."),
            ("broadcast", "Tell every other agent."),
            ("knowledge", "List what was broadcast."),
            ("status", "Show how far a message or task came."),
            ("dead-letters", "List messages that were handed out too often."),
            ("redrive", "Put dead letters back into the mailbox."),
        ),
    ),
    (
        "share files",
        (
            ("file-put", "Write a shared file."),
            ("file-get", "Read a shared file."),
            ("file-list", "List shared files."),
            ("file-edit", "Change a shared file in your editor, and merge with others' changes."),
            ("file-diff", "Show what changed between two versions of a shared file."),
            ("file-history", "List the versions of a shared file."),
            ("file-watch", "Wait for the next version of a shared file."),
            ("file-lock", "Ask the others not to write a file for a while."),
            ("file-unlock", "Let the others write a file again."),
            ("file-rm", "Delete a shared file."),
        ),
    ),
    (
        "run and look after a relay",
        (
            ("serve", "Run a relay."),
            ("scan", "Find relays on the local network."),
            ("info", "Show what a relay is and holds."),
            ("kick", "Remove an agent and free its name, as the operator of the relay."),
            ("doctor", "Check relay, token, identity and clock, and name the fix."),
            ("bench", "Measure a relay, beside the floor that aiohttp sets."),
        ),
    ),
    (
        "learn",
        (
            ("demo", "Show a task going through, live; needs no set-up."),
            ("skill", "Print or install the instructions for agents."),
            ("completion", "Print a completion script for a shell."),
        ),
    ),
)

VERBS: dict[str, str] = {name: help for _, verbs in GROUPS for name, help in verbs}


DOORS = "speak another protocol"
"""The title of the verbs that doors give."""


def of_doors() -> dict[str, Verb]:
    """Return the verbs that doors give, by name. A verb whose name is taken is left out."""
    from clawlink.doors.registry import verbs

    found: dict[str, Verb] = {}
    for verb in verbs():
        if verb.NAME not in VERBS:
            found.setdefault(verb.NAME, verb)
    return found


def load(name: str) -> Verb:
    """Import the module of one verb. Raises KeyError for a name that no verb has."""
    if name in VERBS:
        return cast("Verb", import_module(f"clawlink.cli.commands.{name.replace('-', '_')}"))
    return of_doors()[name]
