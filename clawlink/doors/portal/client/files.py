"""Files to and from the own portal, in parts, through whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import requests

from clawlink import private
from clawlink.client.files.safe_paths import safe_name
from clawlink.doors.portal.client.portal import Portal, Through, once, reason
from clawlink.errors import BadRequest, ClawLinkError, DigestMismatch, RelayUnreachable

OPEN_FILE = ("transferring", "queued")
TRIES = 5
_READ_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 8.0
_FIRST_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.05, 1.0

T = TypeVar("T")


class Sums(NamedTuple):
    """The size of a file in bytes, and its sums in hexadecimal."""

    size: int
    md5: str
    sha256: str


def sums(path: Path) -> Sums:
    """Read a file once for its sums. Raises OSError."""
    size, md5, sha256 = 0, hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            size += len(piece)
            md5.update(piece)
            sha256.update(piece)
    return Sums(size, md5.hexdigest(), sha256.hexdigest())


class _Part:
    """A part of an open file, as ``requests`` sends it: with a length, and read piece by piece."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self._left = length

    def __len__(self) -> int:
        return self._left

    def read(self, size: int = -1) -> bytes:
        most = self._left if size < 0 else min(size, self._left)
        piece = self._file.read(most)
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._file.close()


def send_file(portal: Portal, to: str | int, path: Path, *, key: str | None = None) -> Any:
    """Bring a file to the own portal, which sends it to the contact; return what the portal tells of it.

    A part that does not arrive is sent again, and parts that are there are not. With a ``key`` a later call goes on
    where this one broke off. Raises ClawLinkError, OSError.
    """
    return _bring(portal, {"to": to}, path, key)


def attach_file(
    portal: Portal, path: Path, *, to: str | int | None = None, task: str | None = None, key: str | None = None
) -> Any:
    """Bring a file to the own portal that goes with a new task for a contact, or with the answer to one of a contact.

    It waits there until ``files`` of the task or answer name it. Return what the portal tells of it. Raises
    ClawLinkError, OSError.
    """
    return _bring(portal, {"to": to, "attach": True} if task is None else {"task": task}, path, key)


def _bring(portal: Portal, where: dict[str, Any], path: Path, key: str | None) -> Any:
    found = sums(path)
    ask = {
        **where,
        "filename": path.name,
        "size": found.size,
        "md5": found.md5,
        "sha256": found.sha256,
        "idempotency_key": key or os.urandom(16).hex(),
    }
    told = _patiently(lambda: portal.ask("POST", "/api/portal/files", ask))
    there = set(told["received_chunks"])
    for index in range(told["chunks_total"]):
        if index not in there and told["status"] == "transferring":
            start = index * told["chunk_size"]
            length = min(told["chunk_size"], found.size - start)
            _send_part(portal, told["file_id"], index, path, start, length)
    return _patiently(lambda: file_status(portal, told["file_id"]))


def _send_part(portal: Portal, id: str, index: int, path: Path, start: int, length: int) -> None:
    def attempt() -> None:
        part = _Part(path, start, length)
        try:
            portal.put(f"/api/portal/files/{quote(id, safe='')}/{index}", part)
        finally:
            part.close()

    _patiently(attempt)


def _patiently(work: Callable[[], T]) -> T:
    """Do it again after a failure that may pass, some times."""
    pause = _FIRST_PAUSE_SECONDS
    for tried in range(1, TRIES + 1):
        try:
            return work()
        except ClawLinkError as error:
            if tried == TRIES or not (isinstance(error, RelayUnreachable) or error.retryable):
                raise
        time.sleep(pause)
        pause = min(2 * pause, _MOST_PAUSE_SECONDS)
    raise AssertionError("the last try returns or raises")


def file_status(portal: Portal, id: str) -> Any:
    """Tell how far a file came."""
    return portal.ask("GET", f"/api/file/status/{quote(id, safe='')}")


def until_settled(portal: Portal, told: Any, seconds: float, *, through: Through = once) -> Any:
    """Return what became of a file once it is settled, or how far it came after some seconds.

    ``through`` does each request, as through times when the portal is away.
    """
    until = time.monotonic() + seconds
    pause = _FIRST_LOOK_SECONDS
    while told["status"] in OPEN_FILE and (left := until - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(2 * pause, _MOST_LOOK_SECONDS)
        told = through(partial(file_status, portal, told["file_id"]))
    return told


def get_file(portal: Portal, id: str, folder: Path) -> Path:
    """Read a file of a contact into a folder, and return its path. No file there is overwritten.

    What came before a cut stays as a part beside it, and the next call goes on there. Raises ClawLinkError, OSError.
    """
    told = file_status(portal, id)
    if told["status"] != "completed":
        raise BadRequest(f"the file is not ready: it is {told['status']}", field="file_id")
    private.make_folder(folder, 0o755)
    name = safe_name(str(told["filename"]))
    part = folder / f".{safe_name(id)}.part"
    for _ in range(TRIES):
        try:
            _read_on(portal, id, part, told["size"])
            break
        except RelayUnreachable:
            time.sleep(_FIRST_PAUSE_SECONDS)
    found = sums(part)
    if found.size != told["size"] or told.get("sha256") not in (None, found.sha256):
        part.unlink(missing_ok=True)
        raise DigestMismatch(f"what came of {name} is not the file that the portal has; read it again")
    return placed(part, folder, name)


def _read_on(portal: Portal, id: str, part: Path, size: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size and part.exists():
        return
    with portal.stream(f"/api/file/download/{quote(id, safe='')}", have) as answer, part.open("ab") as file:
        if answer.status_code == 200 and have:
            file.truncate(0)
        try:
            for piece in answer.iter_content(_READ_BYTES):
                file.write(piece)
        except requests.RequestException as error:
            raise RelayUnreachable(
                f"the portal {portal.url} broke off: {reason(error)}; run the command again, and it goes on there"
            ) from None


def placed(part: Path, folder: Path, name: str) -> Path:
    """Move a file to its name, or to the first free one like it."""
    stem, dot, ending = name.rpartition(".")
    for number in range(1000):
        tried = name if not number else f"{stem} ({number}).{ending}" if dot and stem else f"{name} ({number})"
        path = folder / tried
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        try:
            private.replace(part, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path
    raise FileExistsError(f"{folder / name} and a thousand names like it are there already")
