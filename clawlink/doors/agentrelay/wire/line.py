"""The line of AgentRelay, ``TYPE,ID,PTR,,DATA``: its short form, and its search in a text around it.

    REQ,e1,s/e1.json,,          the contents of e1 are there
    CMP,e1,,,SECRET             e1 was read, and this proves it

It may follow a prefix ``AgentRelay:`` in any case, stand within prose or quotes, or be told as a list.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import islice
from typing import NamedTuple

from clawlink.doors.agentrelay import names
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
    rf"(?<![\w,/\\-])([A-Z][A-Z0-9_-]*),({_FIELD}),((?:{names.ALIAS}/[^\s,]*|\"(?:[^\"]|\"\")*\")?),([^\s,\"]*),({_DATA})"
)
# At the beginning of a line of text, after a bullet or a quote, any fields do, and are then judged one by one.
# No run of spaces can be shared out between two parts of the pattern: that would take a time without bounds.
_SPACED = r'\s*(?:("(?:[^"]|"")*"|[^\s,"]+)\s*)?'
_ALONE = re.compile(
    rf"\s*(?:[-*\u2022>]\s+)?([`'\u201c]*)([A-Za-z][\w-]*)\s*,{_SPACED},{_SPACED},{_SPACED}(?:,\s*({_DATA}))?"
)
_ENDS = r"\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029"
_REST = re.compile(rf"[^{_ENDS}]*")
# A line of text with the three commas that a line needs at least.
_ROW = re.compile(rf"(?:^|(?<=[{_ENDS}]))[^{_ENDS},]*,[^{_ENDS},]*,[^{_ENDS},]*,[^{_ENDS}]*")
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
_BULLETS = r"[ \t_*\u2022-]*"
_NAME = "|".join(_NAMES).replace(" ", r"[ _\t]+")
_TOLD = rf"{_BULLETS}({_NAME}){_BULLETS}[:=]([^{_ENDS}]*)"
_PART = re.compile(_TOLD, re.IGNORECASE)
_LIST = re.compile(rf"(?:^|(?<=[{_ENDS}])){_TOLD}", re.IGNORECASE)
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
    line = build(type, event_id, names.pointer(event_id))
    short = build(type, event_id, names.ALIAS + "/")
    return short if len(short) < SHORT <= len(line) else line


def parse(text: str) -> Line:
    """Return the line in a text, its id and type checked. Raises BadRequest where there is none."""
    line = find(text)
    names.require_type(line.type)
    names.require_id(line.event_id)
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
    prefixes = [(found.end(), _begun(text[: found.start()])) for found in islice(_PREFIX.finditer(text), _MAX_PREFIXES)]
    rows = _Rows(text)
    for start, prose in [*prefixes, (0, False)]:
        line = rows.within(start, prose) or rows.told(start) or rows.alone(start)
        if line is not None:
            return line
    raise BadRequest(
        f"Invalid CSV format: there is no line of AgentRelay in {text.strip()[:60]!r}; "
        "it looks like REQ,e1,s/e1.json,,",
        field="message",
    )


def _begun(text: str) -> bool:
    """Return True if a text leaves off within a line, after more than a bullet."""
    return bool(text.rpartition("\n")[2].strip().removeprefix("- ").removeprefix("-"))


class _Rows:
    """The lines of a text that may tell a line of AgentRelay, each looked at once for all prefixes.

    A prefix begins a part of the text: the rest of its own line, and all lines behind it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._nowhere_from: int | None = None
        self._alone = [(row.start(), found) for row in _ROW.finditer(text) if (found := _ALONE.match(row[0]))]
        self._told: dict[str, list[tuple[int, str]]] = {"type": [], "id": [], "ptr": [], "data": []}
        for said in _LIST.finditer(text):
            self._told[_meant(said)].append((said.start(), said[2]))

    def within(self, start: int, prose: bool) -> Line | None:
        """Return the first line within prose. There is none behind a place if there was none behind one before it."""
        if self._nowhere_from is not None and start >= self._nowhere_from:
            return None
        found = _WITHIN.search(self._text, start)
        if found is None:
            self._nowhere_from = start
            return None
        before = self._text[start : found.start()]
        return _line(*(field or "" for field in found.groups()), prose=_begun(before) or (prose and "\n" not in before))

    def alone(self, start: int) -> Line | None:
        """Return the first line that begins a line of text."""
        found = _ALONE.match(_REST.match(self._text, start)[0])  # type: ignore[index]  # it matches everything
        if found is None:
            at = bisect_left(self._alone, start, key=lambda row: row[0])
            if at == len(self._alone):
                return None
            found = self._alone[at][1]
        quote, *fields = found.groups()
        return _line(*(field or "" for field in fields), prose=bool(quote))

    def told(self, start: int) -> Line | None:
        """Read the form of a list: ``- Message Type: REQ``, ``- Event ID: e1``, ``- File Pointer: s/e1.json``."""
        said: dict[str, str] = {}
        if (first := _PART.match(self._text, start)) is not None:
            said[_meant(first)] = first[2]
        for name, values in self._told.items():
            at = bisect_left(values, start, key=lambda value: value[0])
            if at < len(values):
                said.setdefault(name, values[at][1])
        if not {"type", "id"} <= said.keys():
            return None
        return Line(*(said.get(name, "").strip("`\"'* \t\r") for name in ("type", "id", "ptr", "data")))


def _meant(said: re.Match[str]) -> str:
    return _NAMES[" ".join(said[1].lower().replace("_", " ").split())]


def _line(type: str, event_id: str, ptr: str, reserved: str, data: str, *, prose: bool) -> Line:
    if prose and not data.startswith('"'):
        data = data.rstrip(_CLOSING)
    return Line(type, _bare(event_id), _bare(ptr), _bare(data), _bare(reserved))


def _bare(field: str) -> str:
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field


def _quoted(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if _NEEDS_QUOTES.search(field) else field
