"""The scripts of Agent P2P, for skills and prompts that call them: ``send.py`` and ``client.py``, over the own portal.

They take the flags of all releases. Their exit code is 0 only if the other portal has the message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clawlink import private
from clawlink.domain.terminal import cell
from clawlink.doors.portal.client import functions
from clawlink.doors.portal.client.portal import OPEN, Portal, place
from clawlink.errors import ClawLinkError

MARK = "clawlink.doors.portal.client.scripts"
_DONE, _FAILED, _PENDING = 0, 1, 6
_SCRIPTS = {
    "send.py": '''#!{python}
"""Send a message: send.py TEXT --to-contact ID | --to-portal URL | --to-owner; send.py --list."""

import sys

from clawlink.portal import send_message
from {module} import send

__all__ = ["send_message"]

if __name__ == "__main__":
    sys.exit(send(sys.argv[1:]))
''',
    "client.py": '''#!{python}
"""Send a message: client.py ID TEXT."""

import sys

from clawlink.portal import get_contacts
from {module} import AgentP2PClient, client, send_to_contact as send_message

__all__ = ["AgentP2PClient", "get_contacts", "send_message"]

if __name__ == "__main__":
    sys.exit(client(sys.argv[1:]))
''',
}


def install(folder: Path) -> list[Path]:
    """Write the scripts into a folder, and return their paths. A file that is not ours is never overwritten.

    Raises FileExistsError, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in _SCRIPTS:
        path = folder / name
        if path.exists() and MARK not in path.read_text("utf-8", errors="replace"):
            raise FileExistsError(f"{path} is there already, and ClawLink did not write it; move it away first")
    for name, text in _SCRIPTS.items():
        path = folder / name
        private.write(path, text.format(python=sys.executable, module=MARK).encode())
        path.chmod(0o755)
        written.append(path)
    return written


def send(argv: Sequence[str]) -> int:
    """Run ``send.py`` with these words, and return its exit code."""
    parser = argparse.ArgumentParser(prog="send.py", description="Send a message through your portal.")
    parser.add_argument("content", nargs="?", metavar="TEXT")
    parser.add_argument("-m", "--message", metavar="TEXT", help="the text, as in 0.8")
    to = parser.add_mutually_exclusive_group()
    to.add_argument(
        "--to-contact", "-t", "--to", dest="contact", metavar="ID", help="a contact: number, name or address"
    )
    to.add_argument("--to-user", dest="contact", metavar="ID", help="the same")
    to.add_argument("--to-portal", dest="contact", metavar="URL", help="a contact by its address")
    to.add_argument("--to-owner", action="store_true", help="answer the owner")
    parser.add_argument("--list", "--contacts", action="store_true", help="list contacts")
    args = parser.parse_args(argv)
    if args.list:
        return _tried(_list)
    text = args.message if args.content is None else args.content
    if text is None or not (args.to_owner or args.contact):
        parser.error("give a text and one of --to-contact, --to-portal and --to-owner")
    if args.to_owner:
        return _tried(lambda: _told(functions.send_message(text, to="owner")))
    return _tried(lambda: _told(functions.send_message(text, to_contact_id=args.contact)))


def client(argv: Sequence[str]) -> int:
    """Run ``client.py`` with these words, and return its exit code."""
    parser = argparse.ArgumentParser(prog="client.py", description="Send a message through your portal.")
    parser.add_argument("contact", metavar="ID", help="a contact: number, name or address")
    parser.add_argument("content", metavar="TEXT")
    args = parser.parse_args(argv)
    return _tried(lambda: _told(send_to_contact(args.contact, args.content)))


def send_to_contact(contact_id: int | str, content: str) -> dict[str, Any]:
    """Send a message, with the arguments in the order of ``client.py``."""
    return functions.send_message(content, to_contact_id=contact_id)


class AgentP2PClient:
    """The class of ``client.py``."""

    def get_messages(self, url: str, limit: int = 50) -> list[dict[str, Any]]:
        """Return the last messages with the portal of this address, the newest first."""
        own = place()
        with Portal(own.url, own.key) as portal:
            told = portal.ask("GET", "/api/messages/history", contact_portal=url, limit=limit)
        found: list[dict[str, Any]] = told["messages"]
        return found


def _list() -> int:
    for contact in functions.get_contacts():
        name = contact["display_name"] or contact["agent_name"] or "-"
        print(f"{contact['id']}: {cell(name)} ({cell(contact['portal_url'])})")
    return _DONE


def _told(sent: dict[str, Any]) -> int:
    state = sent.get("state", "stored")
    if state in ("sent", "acknowledged", "answered", "stored"):
        print("消息发送完成")
        return _DONE
    detail = f": {cell(sent['detail'])}" if sent.get("detail") else ""
    if state in OPEN:
        print(f"Message {sent['id']} waits in your portal, which tries again{detail}", file=sys.stderr)
        return _PENDING
    print(f"Message {sent['id']} is {state}{detail}", file=sys.stderr)
    return _FAILED


def _tried(work: Any) -> int:
    try:
        code: int = work()
    except ClawLinkError as error:
        print(f"{cell(error.message)}", file=sys.stderr)
        return _FAILED
    return code
