"""A disk after a loss of power: what an fsync covered is there, and of the rest nothing, some, or parts."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.torture.operations import CREATE, CUT, MKDIR, RENAME, SYNC, SYNC_FOLDER, UNLINK, WRITE, Operation

_SECTOR = 512


class _File:
    """The bytes of a file: those on the disk, and the operations since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[Operation] = []

    def sync(self) -> None:
        for operation in self.since:
            apply(self.synced, operation)
        self.since = []

    def after(self, dice: random.Random | None) -> bytes:
        """Return the bytes after a loss of power. ``dice`` decide about the operations since the last fsync."""
        data = bytearray(self.synced)
        if dice is not None:
            for operation in self.since:
                kept = dice.random()
                if kept < 0.4:
                    apply(data, operation)
                elif kept < 0.6 and operation.kind == WRITE:  # by half: some sectors of it
                    for start in range(0, len(operation.data), _SECTOR):
                        if dice.random() < 0.5:
                            part = operation.data[start : start + _SECTOR]
                            apply(data, operation._replace(data=part, offset=operation.offset + start))
        return bytes(data)


def apply(data: bytearray, operation: Operation) -> None:
    """Change the bytes of a file as an operation does."""
    end = operation.offset + len(operation.data)
    if operation.kind == CUT:
        end = operation.offset
        del data[end:]
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if operation.kind == WRITE:
        data[operation.offset : end] = operation.data


class _Name(NamedTuple):
    """A change of the names in a folder: a new one, one that goes, or both."""

    new: str | None
    gone: str | None
    file: _File | None


class Machine:
    """A machine with a disk, and with changes of it that are in its memory alone."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._names: dict[str, _File] = {}
        self._synced: dict[str, _File] = {}
        self._folders = {""}
        self._since: dict[str, list[_Name]] = {}
        for operation in operations:
            self._do(operation)

    def _do(self, operation: Operation) -> None:
        kind, path = operation.kind, operation.path
        if kind == CREATE:
            file = self._names[path] = _File()
            self._change(path, _Name(path, None, file))
        elif kind in (WRITE, CUT):
            self._names[path].since.append(operation)
        elif kind == SYNC:
            self._names[path].sync()
        elif kind == UNLINK:
            self._change(path, _Name(None, path, None))
            self._names.pop(path, None)
        elif kind == RENAME:
            file = self._names[operation.target] = self._names.pop(path)
            self._change(operation.target, _Name(operation.target, path, file))
        elif kind == MKDIR and path:
            self._change(path, _Name(path, None, None))
        elif kind == SYNC_FOLDER:
            for change in self._since.pop(path, ()):
                _rename(self._synced, self._folders, change)

    def _change(self, path: str, change: _Name) -> None:
        self._since.setdefault(os.path.dirname(path), []).append(change)

    def write(self, folder: Path, dice: random.Random | None) -> None:
        """Write what is there after a loss of power to a folder, which is new."""
        names, folders = dict(self._synced), set(self._folders)
        if dice is not None:
            for place in sorted(self._since):
                changes = self._since[place]
                for change in changes[: dice.randint(0, len(changes))]:  # a file system keeps their order
                    _rename(names, folders, change)
        folder.mkdir(mode=0o700, parents=True)
        for name in sorted(folders - {""}):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, file in names.items():
            if os.path.dirname(name) in folders:
                (folder / name).write_bytes(file.after(dice))


def _rename(names: dict[str, _File], folders: set[str], change: _Name) -> None:
    if change.gone is not None:
        names.pop(change.gone, None)
    if change.new is not None and change.file is not None:
        names[change.new] = change.file
    elif change.new is not None:
        folders.add(change.new)
