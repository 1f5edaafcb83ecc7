"""A hook with nothing new, by the program that wakes agents: it knows the mailbox, so no relay is asked.

It loads neither a client nor a parser of arguments. Whatever else there is to do is left to ``clawlink hook``.
"""

from __future__ import annotations

import os
import sys

from clawlink.client.hooks import port, quick_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_SECONDS = 0.1
_INPUT_SECONDS = 2.0
_MAX_INPUT_BYTES = 16 * 2**20
_EVENTS = ("UserPromptSubmit", "PostToolUse", "Stop")
_SESSION_FIELDS = {
    **dict.fromkeys(("claude", "codex", "gemini", "opencode", "openclaw"), "session_id"),
    "cursor": "conversation_id",
}


def done(argv: Sequence[str]) -> bool:
    """Return True if the hook of these arguments is done. Else standard input is as it was."""
    given = _given(argv)
    if given is None:
        return False
    event, host = given
    try:
        home = os.environ.get("CLAWLINK_HOME") or os.path.join(os.path.expanduser("~"), ".clawlink")
        there = port.find(home)
    except OSError:
        return False
    data = _input()
    if data is None:  # the host keeps it open, and nothing came of the hook
        return True
    if _has_nothing(there, event, host, data):
        return True
    import io

    sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    return False


def _has_nothing(there: port.Port, event: str, host: str, data: bytes) -> bool:
    """Return True if the hook of this input has nothing to do."""
    try:
        said: Any = quick_json.read(data)
        session = said[_SESSION_FIELDS[host]]
        if host != "cursor" and "cursor_version" in said:
            return True  # Cursor also runs the hooks of Claude Code
        question = {"ask": "hook", "host": host, "session": session, "event": event}
        with port.Conversation(there, question, _SECONDS) as asked:
            return asked.next(_SECONDS).get("nothing") is True
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _input() -> bytes | None:
    """Read standard input to its end; None if the host keeps it open for long. Windows cannot tell that."""
    import select
    import time

    until = time.monotonic() + _INPUT_SECONDS
    data = bytearray()
    while len(data) <= _MAX_INPUT_BYTES:
        if os.name == "posix" and not select.select([0], [], [], max(until - time.monotonic(), 0.0))[0]:
            return None
        piece = os.read(0, 65536)
        if not piece:
            break
        data += piece
    return bytes(data)


def _given(argv: Sequence[str]) -> tuple[str, str] | None:
    """Return event and host of a plain command; None for any other, which the parser reads."""
    words = list(argv)
    if len(words) not in (2, 4) or words[0] != "hook" or words[1] not in _EVENTS:
        return None
    if len(words) == 2:
        return words[1], "claude"
    return (words[1], words[3]) if words[2] == "--host" and words[3] in _SESSION_FIELDS else None
