"""The actions of ``clawlink portal``: their words, and help for one of them alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from clawlink.cli.arguments import Parser


class Action(NamedTuple):
    """An action: the least and the greatest number of its words, their names, what it does, and an example.

    ``example`` follows the name of the action.
    """

    least: int
    most: int
    usage: str
    help: str
    example: str = ""


ACTIONS: Mapping[str, Action] = {
    "contacts": Action(0, 0, "", "List contacts."),
    "guests": Action(0, 0, "", "List all guest messages."),
    "list": Action(0, 0, "", "List the guest messages that wait for you."),
    "ask": Action(
        1, 2, "URL [TEXT|-]", "Add a contact, and ask at its portal to become one.", 'https://bob.example "I am Ann."'
    ),
    "approve": Action(1, 1, "ID", "Make the sender of a guest message a contact.", "3 --name ann"),
    "deny": Action(1, 1, "ID", "Turn a guest message down.", "3"),
    "read": Action(1, 1, "ID", "Note that you have read a guest message.", "3"),
    "remove": Action(1, 1, "CONTACT", "Remove a contact; its messages stay.", "bob"),
    "rename": Action(2, 2, "CONTACT NAME", "Name a contact; an empty NAME takes the name away.", 'bob "Bob B."'),
    "block": Action(1, 1, "CONTACT", "Take nothing from a contact, and send nothing to it.", "bob"),
    "unblock": Action(1, 1, "CONTACT", "End what block began.", "bob"),
    "pause": Action(1, 1, "CONTACT", "Have messages from and to a contact wait.", "bob"),
    "resume": Action(1, 1, "CONTACT", "End what pause began.", "bob"),
    "end": Action(2, 2, "CONTACT DATE|never", "Block a contact from a date on.", "bob 2027-01-31"),
    "pin": Action(2, 2, "CONTACT SHA256|none", "Trust one certificate of a contact alone.", "bob none"),
    "renew": Action(1, 1, "CONTACT", "Offer a contact a new shared key.", "bob"),
    "forget": Action(1, 1, "CONTACT", "Remove a contact, its messages, files and tasks.", "bob"),
    "send": Action(2, 2, "CONTACT TEXT|-", "Send a message to a contact.", 'bob "hello"'),
    "status": Action(1, 1, "MESSAGE", "Say how far a message came.", "12"),
    "history": Action(1, 1, "CONTACT", "Show the last messages from and to a contact.", "bob"),
    "send-file": Action(2, 2, "CONTACT FILE", "Send a file to a contact.", "bob report.pdf"),
    "files": Action(0, 1, "[CONTACT]", "List files from and to contacts.", "bob"),
    "get-file": Action(1, 2, "ID [FOLDER]", "Write a file of a contact into a folder.", "kEJb3 downloads"),
    "remove-file": Action(1, 1, "ID", "Delete a file.", "kEJb3"),
    "photos": Action(0, 0, "", "List the photos of the front page."),
    "add-photo": Action(1, 1, "FILE", "Show a photo on the front page.", "garden.jpg"),
    "remove-photo": Action(1, 1, "NAME", "Delete a photo of the front page.", "7aTz.jpg"),
    "tasks": Action(0, 1, "[TASK]", "List tasks from and to contacts, or show one.", "907c"),
    "delegate": Action(2, 2, "CONTACT TEXT|-", "Give a contact a task.", 'bob "count the sheep" --attach sheep.csv'),
    "answer": Action(
        2, 2, "TASK TEXT|-", "Report on a contact's task, or answer a question.", '907c "a hundred" --attach count.pdf'
    ),
    "cancel": Action(1, 1, "TASK", "Take a task back.", "907c"),
    "say": Action(0, 1, "TEXT|-", "Write to your agent.", '"how far are you?"'),
    "reply": Action(0, 1, "TEXT|-", "Answer the owner, as the agent.", '"all done"'),
    "chat": Action(
        0,
        0,
        "",
        "Follow the chat with your agent, and write in it. In a terminal, /file PATH sends a file, "
        "/save LINE [FOLDER] keeps one, and /quit ends.",
        "--after 40",
    ),
    "get-attachment": Action(1, 2, "LINE [FOLDER]", "Write the file of a line of the chat into a folder.", "41"),
    "keys": Action(0, 0, "", "List agent keys."),
    "make-key": Action(1, 1, "LABEL", "Make an agent key.", "laptop"),
    "revoke-key": Action(1, 1, "KEY", "End an agent key.", "ap2p_x7Ty"),
    "install-scripts": Action(1, 1, "DIR", "Write the scripts of Agent P2P.", "scripts"),
    "import": Action(
        1, 1, "PORTAL.DB", "Bring what a portal of Agent P2P has; without --data, say what would come.", "portal.db"
    ),
    "setup": Action(0, 0, "", "Show or write the files of a portal's server.", "--domain me.example"),
    "password": Action(
        0, 1, "[PASSWORD|-]", "Set the owner's password; needs --data or --store.", "--data /var/lib/clawlink"
    ),
    "bridge": Action(0, 0, "", "Wake OpenClaw for what comes.", "--install"),
    "skill": Action(0, 1, "[DIR]", "Show the instructions for your agent, or install them.", "~/.openclaw/skills"),
}
_DELETES = frozenset({"forget", "remove", "remove-file", "remove-photo", "revoke-key"})
"""No suggestion for a mistyped action is one of these."""
_AWAY = {"--at": {"install-scripts", "setup", "password", "skill"}}
_AWAY["--key"] = _AWAY["--at"] | {"import"}
"""The actions for which flags of the portal do nothing."""
_NAMES = 32


def known(text: str) -> str:
    """Return the name of an action. Raises ArgumentTypeError with the one that may be meant."""
    if text in ACTIONS:
        return text
    from difflib import get_close_matches

    close = [name for name in get_close_matches(text, ACTIONS, 1) if name not in _DELETES]
    meant = f"; did you mean: clawlink portal {close[0]}" if close else ""
    raise argparse.ArgumentTypeError(f"there is no action {text[:40]!r}{meant}")


def listed() -> str:
    """Return the actions with what they do, as the help of all shows them."""
    from clawlink.cli import parser

    lines = parser.listed(((f"{name} {one.usage}".strip(), one.help) for name, one in ACTIONS.items()), _NAMES)
    ends = ["CONTACT is a number, name or address.", "Flags of one action: clawlink portal ACTION --help"]
    return "\n".join(["actions:", *lines, "", *ends])


def narrow(parser: Parser, name: str) -> None:
    """Have the help be that of one action. Raises UsageError if there is none of this name."""
    try:
        action = ACTIONS[known(name)]
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    parser.usage = " ".join(f"clawlink portal {name} {action.usage}".split()) + " [flags]"
    parser.description = action.help
    parser.epilog = f"example:\n  clawlink portal {name} {action.example}".rstrip()
    for argument in (*parser.places(), *parser.flags().values()):
        of, _, help = (argument.help or "").partition(": ")
        actions = set(of.split(", "))
        if argument in parser.places() or any(name in _AWAY.get(flag, ()) for flag in argument.option_strings):
            argument.help = argparse.SUPPRESS
        elif actions <= ACTIONS.keys():
            argument.help = help if name in actions else argparse.SUPPRESS
