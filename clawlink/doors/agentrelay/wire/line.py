"""The line of AgentRelay, ``TYPE,ID,PTR,,DATA``: its short form, and its search in a text around it.

    REQ,e1,s/e1.json,,          the contents of e1 are there
    CMP,e1,,,SECRET             e1 was read, and this proves it

It may follow a prefix ``AgentRelay:`` in any case, stand within prose or quotes, or be told as a list.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import NamedTuple

from clawlink.doors.agentrelay import rules
from clawlink.errors import BadRequest

SHORT = 30
"""A line is shorter than this, for ids of up to 16 characters and secrets of 6."""

MAX_TEXT = 16 * 1024
_MAX_PREFIXES = 8
_PREFIX = re.compile(r"agent[ _-]?relay\s*:", re.IGNORECASE)
_FIELD = r'(?:"(?:[^"]|"")*"|[^\s,"]*)'
_DATA = r'(?:"(?:[^"]|"")*"|\S*)'
# Within prose a line must look like one all through: a comma alone does not make it.
_WITHIN = re.compile(
    rf"(?<![\w,/\\-])([A-Z][A-Z0-9_-]*),({_FIELD}),((?:{rules.ALIAS}/[^\s,]*|\"(?:[^\"]|\"\")*\")?),([^\s,\"]*),({_DATA})"
)
# At the beginning of a line of text, after a bullet or a quote, any fields do, and are then judged one by one.
# No run of spaces can be shared out between two parts of the pattern: that would take a time without bounds.
_SPACED = r'\s*(?:("(?:[^"]|"")*"|[^\s,"]+)\s*)?'
_ALONE = re.compile(
    rf"\s*(?:[-*\u2022>]\s+)?([`'\u201c]*)([A-Za-z][\w-]*)\s*,{_SPACED},{_SPACED},{_SPACED}(?:,\s*({_DATA}))?"
)
_SAYS = re.compile("[:=]")
_BULLETS = " \t-*\u2022"
_NAMES = {
    "type": "type",
    "message type": "type",
    "id": "id",
    "event id": "id",
    "event": "id",
    "pointer": "ptr",
    "file pointer": "ptr",
    "ptr": "ptr",
    "file": "ptr",
    "data": "data",
    "secret": "data",
    "secret code": "data",
}
_CLOSING = ".,;:!?)]}'\u201d`*"
_NEEDS_QUOTES = re.compile(r'[\s",]')


class Line(NamedTuple):
    """The fields of a line. ``ptr`` is as it was written; nothing is checked against an event yet."""

    type: str
    event_id: str
    ptr: str
    data: str
    reserved: str = ""

    def __str__(self) -> str:
        return build(self.type, self.event_id, self.ptr, self.data)


def build(type: str, event_id: str, ptr: str, data: str = "") -> str:
    """Return a line of these fields, with quotes where a field needs them.

    Raises BadRequest for a field that is no text.
    """
    for name, field in (("type", type), ("event_id", event_id), ("ptr", ptr), ("data", data)):
        if not isinstance(field, str):
            raise BadRequest(f"{name} must be a text, and is {field!r:.40}", field=name)
    return ",".join([_quoted(type), _quoted(event_id), _quoted(ptr), "", _quoted(data)])


def announce(type: str, event_id: str) -> str:
    """Return the line that tells of an event. Where only that keeps it short, its pointer is written as ``s/``."""
    line = build(type, event_id, rules.pointer(event_id))
    short = build(type, event_id, rules.ALIAS + "/")
    return short if len(short) < SHORT <= len(line) else line


def parse(text: str) -> Line:
    """Return the line in a text, its id and type checked. Raises BadRequest where there is none."""
    line = find(text)
    rules.require_type(line.type)
    rules.require_id(line.event_id)
    return line


def find(text: str) -> Line:
    """Return the line in a text as it was written. Raises BadRequest where there is none."""
    if not isinstance(text, str):
        raise BadRequest(f"a message of AgentRelay must be a text, and is {text!r:.40}", field="message")
    if not text.strip():
        raise BadRequest("Empty AgentRelay message", field="message")
    if len(text) > MAX_TEXT:
        raise BadRequest(
            f"a message of AgentRelay may have {MAX_TEXT} characters, and this one has {len(text)}; "
            "its contents belong into the event",
            field="message",
            limit=MAX_TEXT,
            actual=len(text),
        )
    parts = [
        (text[found.end() :], _begun(text[: found.start()])) for found in islice(_PREFIX.finditer(text), _MAX_PREFIXES)
    ]
    for part, prose in [*parts, (text, False)]:
        line = _within(part, prose) or _told(part) or _alone(part)
        if line is not None:
            return line
    raise BadRequest(
        f"Invalid CSV format: there is no line of AgentRelay in {text.strip()[:60]!r}; "
        "it looks like REQ,e1,s/e1.json,,",
        field="message",
    )


def _begun(text: str) -> bool:
    """Tell whether a text leaves off within a line, after more than a bullet."""
    return bool(text.rpartition("\n")[2].strip().removeprefix("- ").removeprefix("-"))


def _within(text: str, prose: bool) -> Line | None:
    found = _WITHIN.search(text)
    if found is None:
        return None
    before = text[: found.start()]
    return _line(*(field or "" for field in found.groups()), prose=_begun(before) or (prose and "\n" not in before))


def _alone(text: str) -> Line | None:
    for part in text.splitlines():
        found = _ALONE.match(part)
        if found is not None:
            quote, *fields = found.groups()
            return _line(*(field or "" for field in fields), prose=bool(quote))
    return None


def _told(text: str) -> Line | None:
    """Read the form of a list: ``- Message Type: REQ``, ``- Event ID: e1``, ``- File Pointer: s/e1.json``."""
    said: dict[str, str] = {}
    for one in text.split("\n"):
        told, *value = _SAYS.split(one, maxsplit=1)
        name = _NAMES.get(" ".join(told.strip(_BULLETS).lower().replace("_", " ").split()))
        if name is not None and value:
            said.setdefault(name, value[0].strip("`\"'* \t\r"))
    if not {"type", "id"} <= set(said):
        return None
    return Line(said["type"], said["id"], said.get("ptr", ""), said.get("data", ""))


def _line(type: str, event_id: str, ptr: str, reserved: str, data: str, *, prose: bool) -> Line:
    if prose and not data.startswith('"'):
        data = data.rstrip(_CLOSING)
    return Line(type, _bare(event_id), _bare(ptr), _bare(data), _bare(reserved))


def _bare(field: str) -> str:
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if _NEEDS_QUOTES.search(field) else field
