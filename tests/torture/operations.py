"""The operations on the disk of this process, below one folder: those of SQLite, and those of the relay itself.

A ``Watch`` is told of each before it happens. It may let it fail, or end the process. SQLite is watched at the boundary
to its operating system (``sqlite3_vfs`` and ``sqlite3_io_methods``), where a call is one system call: ``pwrite``,
``ftruncate``, ``fdatasync``, ``unlink``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p, cast
from pathlib import Path
from typing import Any, NamedTuple

from clawlink.store.bodies import OnDisk

# Files that hold nothing.
IGNORED = ("lock", "probe", "reserve")
CREATE, WRITE, CUT, SYNC, UNLINK, RENAME, MKDIR, SYNC_FOLDER = (
    "create", "write", "cut", "sync", "unlink", "rename", "mkdir", "sync_folder",
)  # fmt: skip
# The results of SQLite's calls for a disk that has no room, and for one that fails.
SQLITE_FULL, IOERR_WRITE, IOERR_FSYNC = 13, 10 | 3 << 8, 10 | 4 << 8


class Operation(NamedTuple):
    """A change of the disk. Paths are below the folder; ``target`` is the new name."""

    kind: str
    path: str
    data: bytes = b""
    offset: int = 0
    target: str = ""


class Refused(Exception):
    """An operation of SQLite fails with this result."""

    def __init__(self, result: int) -> None:
        super().__init__(result)
        self.result = result


Watch = Callable[[Operation], None]
"""Is told of an operation. It raises OSError or ``Refused`` to let it fail."""


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("name_size", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
    )


class _Methods(ctypes.Structure):
    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    )


_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_LOG_FLAGS = 0x00000800 | 0x00080000  # a journal, and a write-ahead log
# SQLite may call these for as long as a file is open.
_kept: list[Any] = []


def _library() -> Any:
    """Return the SQLite that Python uses."""
    import _sqlite3

    return ctypes.CDLL(_sqlite3.__file__)


def can_watch() -> bool:
    """Return True on Linux, if the SQLite of this Python lets its operations be watched."""
    try:
        return os.path.isdir("/proc/self/fd") and bool(_library().sqlite3_vfs_find)
    except (AttributeError, OSError, ImportError):
        return False


class Watched:
    """Watches a folder while the context lasts. One at a time."""

    def __init__(self, folder: Path, watch: Watch) -> None:
        self._folder = str(folder)
        self._watch = watch
        self._lock = threading.RLock()  # operations have one order
        self._files: dict[int, tuple[str, bool]] = {}
        self._methods: dict[int, _Methods] = {}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Watched:
        self._watch_sqlite()
        self._watch_python()
        return self

    def __exit__(self, *_: object) -> None:
        for undo in reversed(self._undo):
            undo()

    def _below(self, path: Any) -> str | None:
        """Return a path below the folder; None for any other."""
        text = os.fsdecode(path)
        if not text.startswith(self._folder + os.sep):
            return "" if text == self._folder else None
        below = text[len(self._folder) + 1 :]
        return None if below in IGNORED or below.endswith("-shm") else below

    # -- SQLite ------------------------------------------------------------------------------------------------------

    def _watch_sqlite(self) -> None:
        library = _library()
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        vfs = library.sqlite3_vfs_find(None).contents
        old_open, old_delete = vfs.open, vfs.delete
        real_open, real_delete = cast(old_open, _OPEN), cast(old_delete, _DELETE)

        def opened(self_: int, name: int, file: int, flags: int, out: Any) -> int:
            path = self._below(ctypes.string_at(name)) if name else None
            with self._lock:
                is_new = path is not None and not os.path.exists(os.path.join(self._folder, path))
                result: int = real_open(self_, name, file, flags, out)
                if result == 0 and path is not None:
                    if is_new:
                        self._watch(Operation(CREATE, path))
                    self._files[file] = (path, is_new and bool(flags & _LOG_FLAGS))
                    self._watch_methods(file)
                return result

        def deleted(self_: int, name: bytes, sync: int) -> int:
            path = self._below(name)
            with self._lock:
                if path is not None:
                    self._watch(Operation(UNLINK, path))
                result: int = real_delete(self_, name, sync)
                if path is not None and sync:
                    self._watch(Operation(SYNC_FOLDER, os.path.dirname(path)))
                return result

        keep = (_OPEN(opened), _DELETE(deleted))
        vfs.open, vfs.delete = cast(keep[0], c_void_p).value, cast(keep[1], c_void_p).value

        def undo() -> None:
            vfs.open, vfs.delete = old_open, old_delete

        _kept.append(keep)
        self._undo.append(undo)

    def _watch_methods(self, file: int) -> None:
        """Have the calls for an open file come by here."""
        place = c_void_p.from_address(file)
        real = place.value or 0
        if real not in self._methods:
            self._methods[real] = self._wrapped(_Methods.from_address(real))
        place.value = ctypes.addressof(self._methods[real])

    def _wrapped(self, real: _Methods) -> _Methods:
        write, truncate, sync = cast(real.write, _WRITE), cast(real.truncate, _TRUNCATE), cast(real.sync, _SYNC)

        def do(file: int, operation: Callable[[str], Operation], call: Callable[[], int]) -> int:
            path = self._files[file][0]
            with self._lock:
                try:
                    self._watch(operation(path))
                except Refused as refused:
                    return refused.result
                return call()

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            return do(
                file,
                lambda path: Operation(WRITE, path, ctypes.string_at(data, size), offset),
                lambda: write(file, data, size, offset),
            )

        def on_truncate(file: int, size: int) -> int:
            return do(file, lambda path: Operation(CUT, path, offset=size), lambda: truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            result = do(file, lambda path: Operation(SYNC, path), lambda: sync(file, flags))
            path, names_too = self._files[file]
            if result == 0 and names_too:  # SQLite puts the name of a new log on the disk with its first bytes
                self._files[file] = (path, False)
                with self._lock:
                    self._watch(Operation(SYNC_FOLDER, os.path.dirname(path)))
            return result

        keep = [_WRITE(on_write), _TRUNCATE(on_truncate), _SYNC(on_sync)]
        _kept.append(keep)
        methods = _Methods()
        size = ctypes.sizeof(_Methods) if real.version >= 3 else ctypes.sizeof(_Methods) - 2 * ctypes.sizeof(c_void_p)
        ctypes.memmove(ctypes.addressof(methods), ctypes.addressof(real), size)
        methods.write, methods.truncate, methods.sync = (cast(one, c_void_p).value for one in keep)
        _kept.append(methods)
        return methods

    # -- Python ------------------------------------------------------------------------------------------------------

    def _watch_python(self) -> None:
        watch, below, lock = self._watch, self._below, self._lock
        real = {name: getattr(os, name) for name in ("open", "fsync", "unlink", "mkdir", "rename", "replace")}

        def opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            name = below(path)
            with lock:
                if name is not None and flags & os.O_CREAT and not os.path.exists(path):
                    watch(Operation(CREATE, name))
                handle: int = real["open"](path, flags, mode, **options)
                return handle

        def synced(handle: int) -> None:
            name = below(os.readlink(f"/proc/self/fd/{handle}"))
            with lock:
                if name is not None:
                    is_folder = os.path.isdir(os.path.join(self._folder, name))
                    watch(Operation(SYNC_FOLDER if is_folder else SYNC, name))
                real["fsync"](handle)

        def one_name(kind: str, call: str) -> Callable[..., None]:
            def done(path: Any, *more: Any, **options: Any) -> None:
                name = below(path)
                with lock:
                    if name is not None and (os.path.exists(path) == (kind == UNLINK)):
                        watch(Operation(kind, name))
                    real[call](path, *more, **options)

            return done

        def renamed(call: str) -> Callable[..., None]:
            def done(path: Any, target: Any, **options: Any) -> None:
                name, new = below(path), below(target)
                with lock:
                    if name is not None and new is not None and os.path.exists(path):
                        watch(Operation(RENAME, name, target=new))
                    real[call](path, target, **options)

            return done

        patches: dict[str, Any] = {
            "open": opened, "fsync": synced, "unlink": one_name(UNLINK, "unlink"),
            "mkdir": one_name(MKDIR, "mkdir"), "rename": renamed("rename"), "replace": renamed("replace"),
        }  # fmt: skip
        for name, patch in patches.items():
            setattr(os, name, patch)
            self._undo.append(lambda name=name: setattr(os, name, real[name]))  # type: ignore[misc]
        paths: Any = getattr(pathlib, "_NormalAccessor", None)  # Python 3.10 keeps these calls there, too
        for name in () if paths is None else ("unlink", "mkdir", "rename", "replace"):
            setattr(paths, name, staticmethod(patches[name]))
            self._undo.append(lambda name=name: setattr(paths, name, real[name]))  # type: ignore[misc]

        real_write, real_cut = OnDisk.write, OnDisk.cut

        def path_of(body: OnDisk) -> str | None:
            return below(os.readlink(f"/proc/self/fd/{body.fileno()}"))

        def write(body: OnDisk, *pieces: bytes, sum: Any = None) -> None:
            with lock:
                name, data = path_of(body), b"".join(pieces)
                if name is not None and data:
                    watch(Operation(WRITE, name, data, body.size))
                real_write(body, *pieces, sum=sum)

        def cut(body: OnDisk, size: int) -> None:
            with lock:
                name = path_of(body)
                if name is not None:
                    watch(Operation(CUT, name, offset=size))
                real_cut(body, size)

        for name, patched, original in (("write", write, real_write), ("cut", cut, real_cut)):
            setattr(OnDisk, name, patched)
            self._undo.append(lambda name=name, original=original: setattr(OnDisk, name, original))  # type: ignore[misc]


@contextlib.contextmanager
def watched(folder: Path, watch: Watch) -> Iterator[None]:
    """Tell ``watch`` of each operation below a folder."""
    with Watched(folder, watch):
        yield
