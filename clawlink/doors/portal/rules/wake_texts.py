"""The texts of the bridge for OpenClaw, one for each frame, to the letter as Agent P2P has them. Pure.

Words of others go to an isolated turn, which wraps them as external. Only the owner's words and our own go to the
main session, which trusts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_TEXT_BYTES = 200 * 1024
"""The most bytes of a text in JSON: OpenClaw takes 256 KiB for a request."""
MORE = "clawlink portal tasks"
"""The command that shows the whole of a notice: a long one is about a task."""

_FILE_NOTICE = re.compile(r"\[Agent P2P\] 文件传输完成\n文件ID: [\w-]{1,64}\n文件已准备好下载")


class Turn(NamedTuple):
    """A text for OpenClaw. ``external`` texts are a peer's, and ``line`` names those that keep their order."""

    text: str
    external: bool
    line: str


def turn_of(frame: Mapping[str, Any]) -> Turn | None:
    """Return the text for a frame; None for a frame that says nothing to the agent."""
    kind, content = frame.get("type"), _text(frame.get("content"))
    if kind == "new_message":
        sender = _text(frame.get("from"))
        name = _text(frame.get("from_name"))
        if name and "http" not in name:
            head = f"[Agent P2P] 新消息来自 {name}(Agent): "
        else:
            head = f"[Agent P2P] 新消息来自 {sender.partition('://')[2] or sender}: "
        return Turn(shortened(head, content, f"clawlink portal history {sender}"), True, f"contact {sender}")
    if kind == "new_guest_message":
        number = frame.get("message_id")
        answers = (
            f"\n\n回复以下指令处理:\n- 同意添加: 同意 {number}\n- 拒绝添加: 拒绝 {number}\n- 仅标记已读: 已读 {number}"
        )
        text = shortened("[Agent P2P] 新留言: ", content, "clawlink portal guests")
        return Turn(text + answers, True, f"guest {number}")
    if kind == "owner_message":
        text = shortened("[主人消息] ", content, "clawlink portal chat")
        return Turn(f"{text}\n[chat-{frame.get('message_id')}]", False, "owner")
    if kind == "file_transfer":
        return Turn(content, _FILE_NOTICE.fullmatch(content) is None, "files")
    if kind == "notice":
        return Turn(shortened("[Agent P2P] 系统通知: ", content, MORE), True, "notices")
    return None


def shortened(head: str, content: str, rest: str) -> str:
    """Return a text that fits into a request. A cut one says where the whole is."""
    if _size(head + content) <= MOST_TEXT_BYTES:
        return head + content
    low, high = 0, min(len(content), MOST_TEXT_BYTES)
    while low < high:
        middle = (low + high + 1) // 2
        if _size(head + content[:middle]) <= MOST_TEXT_BYTES:
            low = middle
        else:
            high = middle - 1
    return head + content[:low] + cut_note(rest)


def cut_note(rest: str) -> str:
    """Return the line below a text that was cut. ``rest`` is the command that shows the whole."""
    return f"\n[… cut here; the whole text: {rest}]"


def merged(text: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """Put values into the text of a ``gateway.env``. Return it, and the names that have another value there already.

    A line that is there stays as it is, whatever its value.
    """
    there = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            there[name.strip()] = value.strip()
    missing = {name: value for name, value in values.items() if name not in there}
    if text and not text.endswith("\n") and missing:
        text += "\n"
    text += "".join(f"{name}={value}\n" for name, value in missing.items())
    return text, [name for name, value in values.items() if there.get(name, value) != value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(text: str) -> int:
    return len(json.dumps(text))
