"""registry.json: the records of all events, as ``{"events": {id: {...}}}``.

It has one event a line, so that a change costs little for any number of events. Any program that reads JSON reads it.
The reader takes any form of JSON, and the whole parts of a torn file.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from clawlink.doors.agentrelay import names
from clawlink.doors.agentrelay.client.disk import read_plain
from clawlink.errors import BadRequest
from clawlink.private import Replacement, replace

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode
_WRONG = (msgspec.DecodeError, UnicodeError, RecursionError)
_EVENTS = "events"
TORN = "registry.torn.json"
_HEAD, _TAIL = b'{\n  "events": {\n', b"\n  }\n}\n"


class Registry:
    """The registry as it was read. If ``torn``, it holds only the whole parts.

    ``senseless`` are the events with unreadable or empty records, which are not taken over.

    It is kept as text, so that one event is found and replaced without a look at the others. A ``trusted`` file was
    written here and not touched since.
    """

    def __init__(self, path: Path, *, trusted: bool = False) -> None:
        self._path = path
        self.torn = False
        self.senseless: list[str] = []
        self._text = _HEAD + _TAIL
        raw = read_plain(path)
        if raw is None:
            return
        if trusted and raw.endswith(_TAIL):
            self._text = raw
        else:
            self._read(raw)

    def _read(self, raw: bytes) -> None:
        others: dict[str, msgspec.Raw] = {}
        try:
            others = _decode(raw)
            events = _decode(others.pop(_EVENTS, msgspec.Raw(b"{}")))
            more = b"".join(
                b"  %b: %b,\n" % (_encode(name), _one_line(value, msgspec.json.decode(value)))
                for name, value in others.items()
            )
        except _WRONG:
            self.torn = True
            more = b""
            events = _salvaged(raw)
        lines: dict[str, bytes] = {}
        for id, record in events.items():
            line = _record(record)
            if line is None:
                self.senseless.append(id)
            else:
                lines[id] = line
        self._compose(lines, b"{\n" + more + _HEAD[2:])

    def _compose(self, events: Mapping[str, bytes], head: bytes) -> None:
        self._text = head + b",\n".join(_line(id, record) for id, record in events.items()) + _TAIL

    def _find(self, id: str) -> tuple[int, int]:
        """Return where the line of an event begins and ends; two times -1 if there is none."""
        at = self._text.find(b"\n%b" % _line(id, b"")) + 1
        return (at, self._text.index(b"\n", at)) if at else (-1, -1)

    def __contains__(self, id: str) -> bool:
        return self._find(id)[0] >= 0

    def whole(self) -> dict[str, Any]:
        """Return all of it, decoded: the events, and the other fields beside them."""
        return _decode_event(self._text)

    def raw(self) -> dict[str, msgspec.Raw]:
        """Return all events, not decoded."""
        return _decode(_decode(self._text)[_EVENTS])

    def get(self, id: str) -> dict[str, Any]:
        """Return the record of an event; an empty one if it is not known or not readable."""
        begin, end = self._find(id)
        if begin < 0:
            return {}
        line = self._text[begin + len(_line(id, b"")) : end].rstrip(b",")
        try:
            return _decode_event(line)
        except _WRONG:
            return {}

    def alike(self, id: str) -> list[str]:
        """Return the ids that are this one, but for case perhaps."""
        if not (id.isascii() and self._text.isascii()):
            folded = names.fold(id)
            return [other for other in self.raw() if names.fold(other) == folded]
        pattern = b'\n    "(' + re.escape(id.encode()) + b')": '
        return [found.decode() for found in re.findall(pattern, self._text, re.IGNORECASE)]

    def put(self, id: str, record: dict[str, Any]) -> None:
        """Write the record of an event."""
        begin, end = self._find(id)
        line = _line(id, _encode(record))
        if begin >= 0:
            comma = b"," if self._text[end - 1 : end] == b"," else b""
            self._text = b"".join((self._text[:begin], line, comma, self._text[end:]))
        else:
            body = self._text[: -len(_TAIL)]
            self._text = b"".join((body, b"" if body.endswith(b"{\n") else b",\n", line, _TAIL))

    def change(self, changed: Mapping[str, dict[str, Any]], dropped: Collection[str]) -> None:
        """Write the records of many events, and forget others."""
        events = {id: bytes(raw) for id, raw in self.raw().items() if id not in dropped}
        events |= {id: _encode(record) for id, record in changed.items()}
        self._compose(events, self._text[: self._text.index(_HEAD[2:]) + len(_HEAD[2:])])

    def written(self) -> Replacement:
        """Write the new file beside its place, and return it."""
        return Replacement(self._path.parent, self._text)

    def write(self) -> None:
        """Put the file on disk; the torn one is kept beside it."""
        with self.written() as new:
            if self.torn:
                replace(self._path, self._path.with_name(TORN))
            new.put(self._path)
        self.torn = False


def _line(id: str, record: bytes) -> bytes:
    return b"    %b: %b" % (_encode(id), record)


def _one_line(raw: msgspec.Raw, value: object) -> bytes:
    data = bytes(raw)
    return _encode(value) if b"\n" in data else data


def _record(raw: msgspec.Raw) -> bytes | None:
    """Return a record on one line; None if it cannot be read or says nothing."""
    try:
        record = _decode_event(raw)
    except _WRONG:
        return None
    return _one_line(raw, record) if record else None


def _salvaged(raw: bytes) -> dict[str, msgspec.Raw]:
    """Return the events that are whole, up to where the file is torn or other things follow."""
    text = raw.decode("utf-8", "surrogateescape")
    begin = text.find("{", text.find(f'"{_EVENTS}"'))
    if f'"{_EVENTS}"' not in text or begin < 0:
        return {}
    decoder = json.JSONDecoder()
    events: dict[str, msgspec.Raw] = {}
    at = begin + 1
    try:
        while True:
            at = _skip(text, at, " \t\r\n,")
            id, at = decoder.raw_decode(text, at)
            at = _skip(text, at, " \t\r\n:")
            event, at = decoder.raw_decode(text, at)
            if not isinstance(id, str) or not isinstance(event, dict):
                return events
            with contextlib.suppress(UnicodeError):  # text that UTF-8 cannot carry is no whole part
                _encode(id)
                events[id] = msgspec.Raw(_encode(event))
    except (ValueError, IndexError, RecursionError, UnicodeError):
        return events


def _skip(text: str, at: int, signs: str) -> int:
    while at < len(text) and text[at] in signs:
        at += 1
    return at


def read_event(path: Path) -> dict[str, Any] | None:
    """Return the contents of an event's file; None if there is none. Raises BadRequest for a torn file."""
    raw = read_plain(path)
    if raw is None:
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path.name} is torn or no JSON ({error}), so its contents cannot be read") from None
    if not isinstance(data, dict) or not isinstance(data.get("meta"), dict):
        raise BadRequest(f"{path.name} is no event: it has no meta")
    return data


def encode_event(data: dict[str, Any]) -> bytes:
    """Return an event as its file has it. Raises BadRequest for contents that are no JSON."""
    try:
        return json.dumps(data, ensure_ascii=False, indent=2).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the contents are not JSON in UTF-8: {error}", field="content") from None
