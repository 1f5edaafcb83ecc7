"""A file in JSON with a list of named entries, which the command line changes and the relay reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from clawlink import private
from clawlink.errors import BadRequest, UnknownAgent
from clawlink.protocol.invalid import bad_field

PathLike = str | os.PathLike[str]


class Named(Protocol):
    """An entry of the list. Names are compared without regard to case."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Named)


class ListFile(Generic[E]):
    """The form of such a file: an object with one field, the list. ``each`` checks an entry and raises BadRequest."""

    def __init__(
        self, field: str, kind: type[E], *, entry: str, most: int, each: Callable[[E], None], listed_by: str
    ) -> None:
        self._field = field
        form = msgspec.defstruct("File", [(field, list[kind], msgspec.field(default_factory=list))])  # type: ignore[valid-type]
        self._decode = msgspec.json.Decoder(form).decode
        self._entry = entry
        self._most = most
        self._each = each
        self._listed_by = listed_by

    def read(self, path: PathLike) -> list[E]:
        """Return the entries of a file, none if it is not there. Raises BadRequest if it is invalid, OSError."""
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            return []
        try:
            found: list[E] = getattr(self._decode(data), self._field)
            for one in found:
                self._each(one)
            if len({one.name.casefold() for one in found}) < len(found):
                raise BadRequest(f"two {self._entry}s have one name")
            self._require_room(found)
        except msgspec.ValidationError as error:
            raise about(path, bad_field(error)) from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise BadRequest(f"{os.fspath(path)}: it is not JSON in UTF-8: {error}") from None
        except BadRequest as error:
            raise about(path, error) from None
        return found

    def put(self, path: PathLike, new: E) -> None:
        """Write an entry, in place of the entry of its name if there is one. Raises BadRequest, OSError."""
        self._write(path, [*self._others(path, new.name), new])

    def remove(self, path: PathLike, name: str) -> None:
        """Take an entry out. Raises UnknownAgent if it is not there, BadRequest, OSError."""
        if self.find(path, name) is None:
            raise UnknownAgent(f"{os.fspath(path)} has no {self._entry} {name!r}; see: {self._listed_by}", field="name")
        self._write(path, self._others(path, name))

    def find(self, path: PathLike, name: str) -> E | None:
        """Return the entry of a name; None if there is none. Raises BadRequest, OSError."""
        return next((one for one in self.read(path) if one.name.casefold() == name.casefold()), None)

    def _others(self, path: PathLike, name: str) -> list[E]:
        return [one for one in self.read(path) if one.name.casefold() != name.casefold()]

    def _write(self, path: PathLike, entries: Sequence[E]) -> None:
        self._require_room(entries)
        target = Path(path)
        private.make_folder(target.parent, 0o755)
        private.write(target, msgspec.json.format(msgspec.json.encode({self._field: entries}), indent=2) + b"\n")

    def _require_room(self, entries: Sequence[E]) -> None:
        if len(entries) > self._most:
            raise BadRequest(f"a file has {self._most} {self._entry}s at most", limit=self._most, actual=len(entries))


class Watch:
    """Tells when a file has changed."""

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._seen: Any = None

    def changed(self) -> bool:
        """Return True if the file differs from the last look, also if it came or went. Raises OSError."""
        try:
            found = os.stat(self._path)
            seen: Any = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            seen = ()
        changed: bool = seen != self._seen
        self._seen = seen
        return changed


def about(where: PathLike, error: BadRequest) -> BadRequest:
    """Return an error that begins with the place that it is about."""
    return BadRequest(f"{os.fspath(where)}: {error.message}", field=error.field)
