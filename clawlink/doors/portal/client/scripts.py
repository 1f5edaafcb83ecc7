"""The scripts of Agent P2P, for skills and prompts that call them, over the own portal.

They take the flags of all releases. Their exit code is 0 only if the other portal has the message.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clawlink import private
from clawlink.domain.terminal import cell
from clawlink.doors.portal.client import functions
from clawlink.doors.portal.client.files import OPEN_FILE
from clawlink.doors.portal.client.portal import OPEN, Portal, authority, place
from clawlink.doors.portal.client.start_script import start as start
from clawlink.doors.portal.rules.urls import shown
from clawlink.errors import ClawLinkError

MARK = "clawlink.doors.portal.client.scripts"
_DONE, _FAILED, _PENDING = 0, 1, 6
_SCRIPTS = {
    "send.py": (
        "Send a message: send.py TEXT --to-contact ID | --to-portal URL | --to-owner; send.py --list.",
        ("from clawlink.portal import send_message", "from {module} import send"),
        "send",
    ),
    "send_file.py": (
        "Send or read a file: send_file.py -f FILE -t ID; send_file.py -d FILE_ID -o FOLDER.",
        ("from clawlink.portal import get_file, send_file", "from {module} import files"),
        "files",
    ),
    "client.py": (
        "Send a message: client.py ID TEXT.",
        (
            "from clawlink.portal import get_contacts",
            "from {module} import AgentP2PClient, client, send_to_contact as send_message",
        ),
        "client",
    ),
    "start.py": (
        "Start and stop the bridge beside OpenClaw: start.py start|stop|restart|status.",
        ("from {module} import start",),
        "start",
    ),
}
"""The scripts: what they say of themselves, what they import, and the function that they run."""
_TEXT = '''#!{python}
"""{doc}"""

import os
import subprocess
import sys

PYTHON = {python!r}  # ClawLink is installed for this one
try:
    {imports}
except ModuleNotFoundError as error:
    if __name__ != "__main__" or sys.executable == PYTHON or not os.path.exists(PYTHON):
        raise ImportError(
            f"{{sys.executable}} has no ClawLink; use {{PYTHON}}, or run 'clawlink portal install-scripts DIR' again"
        ) from error
    sys.exit(subprocess.call([PYTHON, *sys.argv]))

if __name__ == "__main__":
    sys.exit({function}(sys.argv[1:]))
'''
"""A script. Prompts run it as ``python3 send.py``, whatever Python that is."""


def install(folder: Path) -> list[Path]:
    """Write the scripts into a folder, and return their paths. A file that is not ours is never overwritten.

    Raises FileExistsError, OSError.
    """
    private.make_folder(folder, 0o755)
    written = []
    for name in _SCRIPTS:
        path = folder / name
        if path.exists() and MARK not in path.read_text("utf-8", errors="replace"):
            raise FileExistsError(f"{path} is there already, and ClawLink did not write it; move it away first")
    for name, (doc, imports, function) in _SCRIPTS.items():
        path = folder / name
        lines = "\n    ".join(imports).format(module=MARK)
        private.write(path, _TEXT.format(python=sys.executable, doc=doc, imports=lines, function=function).encode())
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
    parser.add_argument("-f", "--file", metavar="FILE", help="send this file to the contact, as in 0.8")
    parser.add_argument("--list", "--contacts", action="store_true", help="list contacts")
    args = parser.parse_args(argv)
    if args.list:
        return _tried(_list)
    text = args.message if args.content is None else args.content
    if (text is None and args.file is None) or not (args.to_owner or args.contact):
        print("give a text and one of --to-contact, --to-portal and --to-owner; see --help", file=sys.stderr)
        return _FAILED
    if args.to_owner and args.file is not None:
        print("a file goes to a contact; name it by --to-contact", file=sys.stderr)
        return _FAILED
    if args.to_owner:
        return _tried(lambda: _told(functions.send_message(text, to="owner")))
    code = _DONE if text is None else _tried(lambda: _told(functions.send_message(text, to_contact_id=args.contact)))
    if args.file is None or code not in (_DONE, _PENDING):
        return code
    return _tried(lambda: _told(functions.send_file(args.file, args.contact))) or code


def files(argv: Sequence[str]) -> int:
    """Run ``send_file.py`` with these words, and return its exit code."""
    parser = argparse.ArgumentParser(prog="send_file.py", description="Send or read a file through your portal.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-f", "--file", metavar="FILE", help="send this file")
    what.add_argument("-d", "--download", metavar="ID", help="read the file with this id")
    parser.add_argument("-t", "--to", metavar="ID", help="a contact: number, name or address")
    parser.add_argument("-o", "--output", metavar="FOLDER", default=".", help="where the file goes (default .)")
    args = parser.parse_args(_joined(argv))
    if args.download is not None:
        return _tried(lambda: _got(functions.get_file(args.download, args.output)))
    if args.to is None:
        print("give the contact with --to", file=sys.stderr)
        return _FAILED
    return _tried(lambda: _told(functions.send_file(args.file, args.to)))


def _joined(argv: Sequence[str]) -> list[str]:
    """Return words with an id that begins with ``-`` joined to its flag: ids of old portals may."""
    words = list(argv)
    for at, word in enumerate(words[:-1]):
        if word in ("-d", "--download"):
            words[at : at + 2] = [f"--download={words[at + 1]}"]
            break
    return words


def _got(path: Path) -> int:
    print(f"文件已保存: {cell(str(path))}")
    return _DONE


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
        with Portal(own.url, own.key, ca=authority()) as portal:
            told = portal.ask("GET", "/api/messages/history", contact_portal=url, limit=limit)
        found: list[dict[str, Any]] = told["messages"]
        return found


def _list() -> int:
    for contact in functions.get_contacts():
        name = contact["name"] or shown(contact["portal_url"])
        print(f"{contact['id']}: {cell(name)} ({cell(contact['portal_url'])})")
    return _DONE


def _told(sent: dict[str, Any]) -> int:
    state = sent.get("state") or sent.get("status", "stored")
    shown = f"File {sent['file_id']}" if "file_id" in sent else f"Message {sent.get('id')}"
    if state in ("sent", "acknowledged", "answered", "stored"):
        print("文件发送完成" if "file_id" in sent else "消息发送完成")
        return _DONE
    detail = f": {cell(sent['detail'])}" if sent.get("detail") else ""
    if state in (*OPEN, *OPEN_FILE):
        print(f"{shown} waits in your portal, which tries again{detail}", file=sys.stderr)
        return _PENDING
    print(f"{shown} is {state}{detail}", file=sys.stderr)
    return _FAILED


def _tried(work: Any) -> int:
    try:
        code: int = work()
    except ClawLinkError as error:
        print(f"{cell(error.message)}", file=sys.stderr)
        return _FAILED
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        print(cell(f"{where}{error.strerror or error}"), file=sys.stderr)
        return _FAILED
    return code
