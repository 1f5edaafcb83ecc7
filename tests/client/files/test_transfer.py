"""Files of any size, there and back: step by step, and then over a line that is cut again and again."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
import requests

from clawlink import errors
from clawlink.client.calls import Call, Identity
from clawlink.client.files import downloads, transfer, uploads
from clawlink.client.files.atomic_files import AtomicFile, Flow
from clawlink.client.files.file_facts import Blob, FileFacts, Terms, UploadState
from clawlink.client.files.folders import Packed, Unpacking
from clawlink.client.files.transfer import LEAST_BYTES, MOST_BYTES, SMALL_BYTES, Moved, Patience, Pieces
from clawlink.client.sync import Client
from clawlink.client.wait_steps import ConnectionState, Event, RunBlocking, Send, Sleep
from clawlink.config import ServerConfig
from clawlink.protocol.file_replies import FileInfo, FileSaved
from tests.client.facade import connect
from tests.client.proxy import Proxy
from tests.client.restartable import Restartable
from tests.system.threaded import relay_in_thread
from tests.tables import each

ME = Identity("ada")
LARGE = random.Random(1).randbytes(7 * SMALL_BYTES + 12345)
PLAIN = Terms()
CUT = errors.RelayUnreachable("cut")


class Pipe:
    """A source that can be read once only."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


class Ran:
    """The reports, questions and rests of a transfer."""

    def __init__(self, steps: transfer.Steps[None], answer: Callable[[Call[Any]], Any]) -> None:
        self.asked: list[str] = []
        self.rested: list[float] = []
        self.moved: list[Moved] = []
        self.troubles: list[str | None] = []
        self.result: Any = None
        try:
            given: Any = None
            error: BaseException | None = None
            while True:
                step = steps.send(given) if error is None else steps.throw(error)
                given, error = None, None
                if isinstance(step, Sleep):
                    self.rested.append(step.seconds)
                elif isinstance(step, Event):
                    self._hear(step.news)
                else:
                    try:
                        given = step.work() if isinstance(step, RunBlocking) else self._ask(step, answer)
                    except (Exception, KeyboardInterrupt) as failed:
                        error = failed
        except StopIteration:
            return

    def _ask(self, step: Send, answer: Callable[[Call[Any]], Any]) -> Any:
        self.asked.append(step.call.endpoint.name)
        return answer(step.call)

    def _hear(self, news: Any) -> None:
        if isinstance(news, Moved):
            self.moved.append(news)
        elif isinstance(news, ConnectionState):
            self.troubles.append(None if news.error is None else news.error.message)
        else:
            self.result = news


class Uploads:
    """A relay that takes uploads, as far as the steps can tell. ``fail`` is asked at each part what goes wrong."""

    def __init__(self) -> None:
        self.content = b""
        self.length: int | None = None
        self.written = False
        self.parts: list[int] = []
        self.metadata: dict[str, str] = {}
        self.fail: Callable[[int], str | BaseException | None] = lambda part: None
        self.refuse: Exception | None = None
        self.ended = False
        self.refused = 0

    def __call__(self, call: Call[Any]) -> Any:
        return getattr(self, call.endpoint.name)(call)

    def put_blob(self, call: Call[Any]) -> FileSaved:
        assert call.body is not None
        failure = self.fail(len(self.parts))
        self.parts.append(len(call.body))
        if isinstance(failure, BaseException):
            raise failure
        self.content, self.headers = call.body, call.headers
        return FileSaved("saved", 1, "k", len(call.body), hashlib.sha256(call.body).hexdigest())

    def create_upload(self, call: Call[Any]) -> UploadState:
        length = call.headers.get("Upload-Length")
        assert (length is None) == (call.headers.get("Upload-Defer-Length") == "1")
        self.length = None if length is None else int(length)
        pairs = (pair.split(" ") for pair in call.headers["Upload-Metadata"].split(","))
        self.metadata = {name: base64.b64decode(value).decode() for name, value in pairs}
        return UploadState("u", 0, self.length)

    def upload_offset(self, call: Call[Any]) -> UploadState:
        return self._state()

    def upload_part(self, call: Call[Any]) -> UploadState:
        assert call.body is not None
        if int(call.headers["Upload-Offset"]) != len(self.content):
            raise errors.OffsetConflict("elsewhere", current=len(self.content))
        if call.body:
            assert call.headers["Upload-Checksum"].split()[1] == base64.b64encode(
                hashlib.sha256(call.body).digest()
            ).decode("ascii")
        failure = self.fail(len(self.parts))
        self.parts.append(len(call.body))
        if failure == "lost reply":
            self._take(call, call.body)
            raise CUT
        if failure == "half":
            self._take(call, call.body[: len(call.body) // 2])
            raise CUT
        if isinstance(failure, BaseException):
            raise failure
        self._take(call, call.body)
        return self._state()

    def end_upload(self, call: Call[Any]) -> None:
        self.ended = True

    def _take(self, call: Call[Any], content: bytes) -> None:
        self.content += content
        if "Upload-Length" in call.headers and content == call.body:
            assert self.length is None
            self.length = int(call.headers["Upload-Length"])
        if self.length == len(self.content):
            if self.refuse is not None:
                raise self.refuse
            self.written = True

    def _state(self) -> UploadState:
        written = (1, hashlib.sha256(self.content).hexdigest()) if self.written else (None, None)
        return UploadState("u", len(self.content), self.length, *written)


def upload(relay: Uploads, content: bytes, *, again: bool = True, terms: Terms = PLAIN, key: str | None = None) -> Ran:
    source = io.BytesIO(content) if again else Pipe(content)
    return Ran(uploads.upload(ME, "k", source, terms, key=key), relay)


# -- up, step by step --------------------------------------------------------------------------------------------------


@each("again", [True, False], ids=["file", "pipe"])
@each("content", [b"", b"x", b"x" * SMALL_BYTES], ids=len)
def test_what_is_small_goes_in_one_request_with_its_digest(content: bytes, again: bool) -> None:
    relay = Uploads()
    ran = upload(relay, content, again=again)
    assert ran.asked == ["put_blob"]
    assert ran.moved == [(0, len(content)), (len(content), len(content))]
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert relay.headers["Content-Digest"] == f"sha-256=:{digest}:"
    assert len(relay.headers["Idempotency-Key"]) >= 32
    assert relay.content == content


@each("again", [True, False], ids=["file", "pipe"])
@each("more", [1, SMALL_BYTES, 2 * SMALL_BYTES, len(LARGE) - SMALL_BYTES])
def test_what_is_large_goes_in_pieces_that_grow(more: int, again: bool) -> None:
    relay = Uploads()
    content = LARGE[: SMALL_BYTES + more]
    ran = upload(relay, content, again=again)
    assert relay.content == content
    assert ran.result == FileSaved("saved", 1, "k", len(content), hashlib.sha256(content).hexdigest())
    assert relay.parts[0] in (SMALL_BYTES, SMALL_BYTES + 1)
    assert max(relay.parts) <= MOST_BYTES
    assert [moved.done for moved in ran.moved] == sorted(moved.done for moved in ran.moved)
    assert ran.moved[-1].done == len(content)
    if again:
        assert relay.metadata["sha256"] == hashlib.sha256(content).hexdigest()
        assert {moved.total for moved in ran.moved} == {len(content)}
    else:
        assert {moved.total for moved in ran.moved} == {None}


FAILURES = [
    "lost reply",
    "half",
    CUT,
    errors.ChecksumMismatch("bad"),
    errors.Draining("away"),
    errors.RateLimited("fast"),
]


@each("again", [True, False], ids=["file", "pipe"])
@each("failure", FAILURES, ids=str)
@each("every", [2, 3])
def test_whatever_breaks_it_goes_on_where_it_was(failure: str | Exception, again: bool, every: int) -> None:
    relay = Uploads()
    relay.fail = lambda part: failure if part % every == 1 else None
    ran = upload(relay, LARGE, again=again)
    assert relay.content == LARGE
    assert ran.result.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert ran.rested
    assert max(ran.rested) <= 5
    if failure == "lost reply":
        assert sum(relay.parts) == len(LARGE)  # nothing that had arrived was sent again


def test_pieces_shrink_when_they_break_and_grow_when_they_do_not() -> None:
    pieces = Pieces()
    for _ in range(20):
        pieces.failed()
    assert pieces.size == LEAST_BYTES
    pieces.arrived(1.5)
    assert pieces.size == LEAST_BYTES
    for _ in range(100):
        pieces.arrived(0.1)
    assert pieces.size == MOST_BYTES
    pieces.arrived(10)
    assert pieces.size == MOST_BYTES // 2


def test_what_stands_before_the_relay_may_take_no_more_than_so_much_at_once() -> None:
    relay = Uploads()
    content = LARGE * 4

    def too_large(call: Call[Any]) -> Any:
        if call.body is not None and len(call.body) > 2_000_000:
            relay.refused += 1
            raise errors.NotARelay("HTTP 413")
        return relay(call)

    ran = Ran(uploads.upload(ME, "k", io.BytesIO(content), PLAIN), too_large)
    assert ran.result.size == len(relay.content) == len(content)
    assert relay.refused < 5


def test_what_was_in_the_reply_that_was_lost_is_asked_for() -> None:
    relay = Uploads()
    relay.fail = lambda part: "lost reply" if len(relay.content) + SMALL_BYTES >= len(LARGE) - 3 * SMALL_BYTES else None
    ran = upload(relay, LARGE)
    assert ran.asked[-1] == "upload_offset"
    assert ran.result.version == 1


def test_a_refused_end_is_told_and_the_relay_may_forget_it() -> None:
    relay = Uploads()
    relay.refuse = errors.VersionConflict("somebody else", current=3)
    with pytest.raises(errors.VersionConflict):
        upload(relay, LARGE, terms=Terms(if_version=2))
    assert relay.metadata["if_version"] == "2"
    assert relay.ended


@each("failure", [KeyboardInterrupt(), OSError("disk on fire")], ids=["interrupted", "unreadable"])
def test_who_breaks_off_leaves_nothing_on_the_relay(failure: BaseException) -> None:
    relay = Uploads()
    relay.fail = lambda part: failure if part == 2 else None
    with pytest.raises(type(failure)):
        upload(relay, LARGE)
    assert relay.ended


def test_a_relay_that_answers_and_takes_nothing_is_not_borne_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("clawlink.client.files.transfer.time.monotonic", clock)
    monkeypatch.setattr(Patience.__init__, "__defaults__", (clock,))
    relay = Uploads()

    def fail(part: int) -> Exception:
        clock.now += 1
        return errors.ChecksumMismatch("always")

    relay.fail = fail
    with pytest.raises(errors.ChecksumMismatch):
        upload(relay, LARGE)
    assert 60 <= clock.now <= 62
    assert relay.content == b""


def test_an_upload_with_a_key_of_the_callers_can_be_come_back_to() -> None:
    relay = Uploads()
    relay.fail = lambda part: errors.StorageFull("full") if part == 2 else None
    with pytest.raises(errors.StorageFull):
        upload(relay, LARGE, key="mine")
    assert not relay.ended
    had = len(relay.content)
    assert had > 0
    relay.fail = lambda part: None
    ran = upload(relay, LARGE, key="mine")
    assert relay.content == LARGE
    assert ran.moved[0].done == had


def test_a_pipe_cannot_be_read_again() -> None:
    relay = Uploads()

    def forget(part: int) -> Exception | None:
        if part == 2:
            relay.content = b""
            return CUT
        return None

    relay.fail = forget
    with pytest.raises(errors.ClawLinkError, match="cannot be read again; start again"):
        upload(relay, LARGE, again=False)
    relay = Uploads()
    relay.fail = forget
    upload(relay, LARGE)
    assert relay.content == LARGE


def test_a_file_that_becomes_shorter_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    relay = Uploads()

    def cut(part: int) -> None:
        os.truncate(path, SMALL_BYTES)

    relay.fail = cut
    with pytest.raises(errors.ClawLinkError, match="became shorter"):
        Ran(uploads.upload(ME, "k", path, Terms()), relay)
    assert relay.ended


def test_another_content_than_was_sent_is_told() -> None:
    relay = Uploads()

    def spoil(part: int) -> None:
        relay.content = relay.content[:-1] + b"?" if part == 1 else relay.content

    relay.fail = spoil
    with pytest.raises(errors.DigestMismatch, match="write it again"):
        upload(relay, LARGE, again=False)


TYPES = [
    ("k", b"text", "text/plain; charset=utf-8", "text"),
    ("k", b"", "text/plain; charset=utf-8", "text"),
    ("k", b"\xff", "application/octet-stream", "binary"),
    ("k", "\u2603".encode()[:-1], "application/octet-stream", "binary"),
    ("k", b"a\x00b", "application/octet-stream", "binary"),
    ("page.html", b"<p>", "text/html; charset=utf-8", "text"),
    ("page.html", b"\xe4", "text/html", "binary"),
    ("data.json", b"{}", "application/json", "text"),
    ("pic.png", b"\x89PNG", "image/png", "binary"),
    ("all.tar.gz", b"\x1f\x8b", "application/octet-stream", "binary"),
]


@each(("key", "content", "content_type", "file_type"), TYPES)
def test_what_a_file_is_follows_from_its_key_and_content(
    key: str, content: bytes, content_type: str, file_type: str
) -> None:
    relay = Uploads()
    Ran(uploads.upload(ME, key, io.BytesIO(content), Terms()), relay)
    assert (relay.headers["Content-Type"], relay.headers["ClawLink-File-Type"]) == (content_type, file_type)


def test_a_character_that_the_first_piece_cuts_is_still_text() -> None:
    relay = Uploads()
    content = b"x" * (SMALL_BYTES - 1) + "\u2603".encode() * 1000
    upload(relay, content)
    assert relay.metadata["file_type"] == "text"


# -- how long failures are borne ---------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def bear(patience: Patience, clock: Clock, error: errors.ClawLinkError) -> list[Any]:
    steps = list(patience.bear(error))
    clock.now += sum(step.seconds for step in steps if isinstance(step, Sleep))
    return [step.news for step in steps if isinstance(step, Event)]


def bear_for_ever(patience: Patience, clock: Clock) -> None:
    for _ in range(1000):
        bear(patience, clock, CUT)


def test_patience_lasts_from_the_first_failure_since_a_success() -> None:
    clock = Clock()
    patience = Patience("k", 60, clock)
    for _ in range(2):
        began = clock.now
        with pytest.raises(errors.RelayUnreachable):
            bear_for_ever(patience, clock)
        assert clock.now - began == pytest.approx(60)
        list(patience.renew())


def test_a_single_failure_is_not_worth_saying_and_a_long_one_is_once() -> None:
    clock = Clock()
    patience = Patience("k", 60, clock)
    assert bear(patience, clock, CUT) == []
    assert list(patience.renew()) == []
    assert bear(patience, clock, CUT) == []
    assert bear(patience, clock, CUT) == [ConnectionState(CUT)]
    assert bear(patience, clock, CUT) == []
    assert [step.news for step in patience.renew() if isinstance(step, Event)] == [ConnectionState(None)]


@each("error", [errors.TooLarge("x"), errors.NotAllowed("x"), errors.FileLocked("x"), errors.NotARelay("x")])
def test_what_no_patience_mends_is_raised_at_once(error: errors.ClawLinkError) -> None:
    with pytest.raises(type(error)):
        list(Patience("k", 60).bear(error))


def test_what_answers_in_place_of_a_relay_that_was_there_passes() -> None:
    patience = Patience("k", 60)
    list(patience.renew())
    assert len(list(patience.bear(errors.NotARelay("502")))) == 1


# -- down, step by step ------------------------------------------------------------------------------------------------


class Files:
    """A relay that has one file, as far as the steps can tell; ``before`` is called at each part that is asked for."""

    def __init__(self, content: bytes, *, burn: bool = False) -> None:
        self.versions = {1: content}
        self.newest = 1
        self.burn = burn
        self.confirmed = 0
        self.parts: list[tuple[int, int]] = []
        self.acted: list[str | None] = []
        self.before: Callable[[int], None] = lambda part: None
        self.wrong_digest = False

    def write(self, content: bytes, *, keep: bool) -> None:
        self.newest += 1
        if not keep:
            self.versions.clear()
        self.versions[self.newest] = content

    def __call__(self, call: Call[Any]) -> Any:
        return getattr(self, call.endpoint.name)(call)

    def head_blob(self, call: Call[Any]) -> FileFacts:
        return self._facts(self._version(call))

    def get_blob(self, call: Call[Any]) -> Blob:
        self.before(len(self.parts))
        version = self._version(call)
        content = self.versions[version]
        self.acted.append(call.headers.get("ClawLink-Agent"))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers.get("Range", ""))
        start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted else (0, len(content))
        if wanted and start >= len(content):
            raise errors.RangeNotSatisfiable("too far", current=len(content))
        self.parts.append((start, end))
        return Blob(self._facts(version), start, content[start:end])

    def delete_blob(self, call: Call[Any]) -> None:
        assert call.headers["ClawLink-Agent"] == "ada"
        self.confirmed += 1

    def _version(self, call: Call[Any]) -> int:
        asked = re.search(r"version=(\d+)", call.path)
        version = int(asked[1]) if asked else self.newest
        if version not in self.versions:
            raise errors.UnknownFile(f"version {version} is not kept")
        return version

    def _facts(self, version: int) -> FileFacts:
        content = self.versions[version]
        sha256 = hashlib.sha256(content + b"?" * self.wrong_digest).hexdigest()
        return FileFacts("k", version, len(content), sha256, "t", "f", "e", "now", None, self.burn)


def download(
    relay: Files, target: Any, *, version: int | None = None, sha256: str | None = None, me: Identity = ME
) -> Ran:
    return Ran(downloads.download(me, "k", downloads.sink(target), version=version, sha256=sha256), relay)


@pytest.mark.parametrize("content", [b"", b"x", LARGE], ids=len)
def test_a_file_comes_in_pieces_that_grow(content: bytes, tmp_path: Path) -> None:
    relay = Files(content)
    ran = download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content
    assert ran.result.sha256 == hashlib.sha256(content).hexdigest()
    assert ran.moved[0] == (0, len(content))
    assert ran.moved[-1] == (len(content), len(content))
    assert all(end - start <= MOST_BYTES for start, end in relay.parts)
    assert os.listdir(tmp_path) == ["target"]


def test_what_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    relay = Files(LARGE)
    failures = iter([CUT, None, errors.Draining("x"), None, None, CUT, CUT, CUT])

    def fail(part: int) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure

    relay.before = fail
    ran = download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == LARGE
    assert sum(min(end, len(LARGE)) - start for start, end in relay.parts) == len(LARGE)
    assert ran.troubles == ["cut", None]


def part_of(content: bytes, target: Path) -> Path:
    """Return the part that a killed download of this content leaves."""
    return target.with_name(f".{target.name}.{hashlib.sha256(content).hexdigest()[:12]}.part")


@pytest.mark.skipif(sys.platform == "win32", reason="parts are gone on with where files have locks")
@each(
    ("left", "fetched"),
    [
        (LARGE[:1_000_000], len(LARGE) - 1_000_000),
        (LARGE, 0),
        (b"", len(LARGE)),
        # Bytes that got lost with the power, or another content's: the SHA-256 of the whole tells.
        (LARGE[:500_000] + bytes(500_000), 2 * len(LARGE) - 1_000_000),
        (bytes(len(LARGE)), len(LARGE)),
        (LARGE + b"more", len(LARGE)),
    ],
)
def test_a_download_goes_on_where_a_killed_one_ended(left: bytes, fetched: int) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "target"
        part_of(LARGE, target).write_bytes(left)
        relay = Files(LARGE)
        ran = download(relay, target)
        assert target.read_bytes() == LARGE
        assert sum(min(end, len(LARGE)) - start for start, end in relay.parts) == fetched
        assert ran.result.sha256 == hashlib.sha256(LARGE).hexdigest()
        assert os.listdir(folder) == ["target"]


@each("which", ["another content", "read once", "a digest that is a path"])
def test_a_part_of_something_else_is_not_gone_on_with(which: str) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "target"
        part = part_of(LARGE[::-1] if which == "another content" else LARGE, target)
        part.write_bytes(b"left")
        relay = Files(LARGE, burn=which == "read once")
        if which == "a digest that is a path":
            sink = AtomicFile(target)
            assert sink.resume("../" + hashlib.sha256(LARGE).hexdigest()[3:], len(LARGE)).size == 0
            sink.drop()
        download(relay, target)
        assert target.read_bytes() == LARGE
        assert relay.parts[0][0] == (4 if which == "a digest that is a path" else 0)


@pytest.mark.skipif(sys.platform == "win32", reason="parts are gone on with where files have locks")
def test_two_downloads_of_one_content_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    target = tmp_path / "target"
    part_of(LARGE, target).write_bytes(LARGE[:1000])
    sha256 = hashlib.sha256(LARGE).hexdigest()
    first, second, third = (AtomicFile(target) for _ in range(3))
    assert first.resume(sha256, len(LARGE)).size == 1000
    assert second.resume(sha256, len(LARGE)).size == 0, "the first has the part"
    second.write(LARGE)
    first.write(LARGE[1000:])
    second.drop()
    first.keep()
    assert target.read_bytes() == LARGE
    assert third.resume(sha256, len(LARGE)).size == 0
    third.write(LARGE[::-1])
    third.drop()
    assert target.read_bytes() == LARGE
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.skipif(sys.platform == "win32", reason="parts are gone on with where files have locks")
def test_where_files_have_no_locks_no_part_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    target = tmp_path / "target"
    sink = AtomicFile(target)
    assert sink.resume(hashlib.sha256(LARGE).hexdigest(), len(LARGE)).size == 0
    sink.write(LARGE)
    sink.keep()
    assert (os.listdir(tmp_path), target.read_bytes()) == (["target"], LARGE)


@pytest.mark.skipif(sys.platform == "win32", reason="parts are gone on with where files have locks")
@each("kind", ["symbolic link", "hard link", "folder"])
def test_a_part_that_may_be_of_somebody_else_is_left_alone(kind: str) -> None:
    with TemporaryDirectory() as folder:
        target, other = Path(folder) / "target", Path(folder) / "other"
        other.write_bytes(b"precious")
        part = part_of(LARGE, target)
        if kind == "folder":
            part.mkdir()
        else:
            (part.symlink_to if kind == "symbolic link" else part.hardlink_to)(other)
        download(Files(LARGE), target)
        assert target.read_bytes() == LARGE
        assert other.read_bytes() == b"precious"
        assert sorted(os.listdir(folder)) == sorted([part.name, "other", "target"])


def test_what_was_begun_is_finished_though_it_is_written_meanwhile(tmp_path: Path) -> None:
    relay = Files(LARGE)
    relay.before = lambda part: relay.write(LARGE[::-1], keep=True) if part == 2 else None
    ran = download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == LARGE
    assert (ran.result.version, relay.newest) == (1, 2)


def test_a_version_that_is_not_kept_any_more_begins_anew(tmp_path: Path) -> None:
    relay = Files(LARGE)
    relay.before = lambda part: relay.write(LARGE[::-1], keep=False) if part == 2 and relay.newest == 1 else None
    ran = download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == LARGE[::-1]
    assert ran.result.version == 2
    relay = Files(LARGE)
    relay.before = lambda part: relay.write(b"short", keep=False) if part == 2 and relay.newest == 1 else None
    download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"short"


def test_it_does_not_begin_anew_for_ever_nor_where_that_cannot_be(tmp_path: Path) -> None:
    relay = Files(LARGE)
    relay.before = lambda part: relay.write(os.urandom(3 * SMALL_BYTES), keep=False) if part % 2 else None
    with pytest.raises(errors.VersionConflict, match="again and again"):
        download(relay, tmp_path / "target")
    assert os.listdir(tmp_path) == []

    class Once:
        def write(self, data: bytes) -> None: ...

    relay = Files(LARGE)
    relay.before = lambda part: relay.write(b"other", keep=False) if part == 1 else None
    with pytest.raises(errors.VersionConflict, match="not whole"):
        download(relay, Once())


def test_the_version_that_was_asked_for_is_no_other(tmp_path: Path) -> None:
    relay = Files(b"one")
    relay.write(b"two", keep=True)
    download(relay, tmp_path / "target", version=1)
    assert (tmp_path / "target").read_bytes() == b"one"
    with pytest.raises(errors.UnknownFile):
        download(relay, tmp_path / "target", version=3)
    relay = Files(LARGE)
    relay.before = lambda part: relay.write(b"x", keep=False) if part == 1 else None
    with pytest.raises(errors.UnknownFile):
        download(relay, tmp_path / "target", version=1)
    assert (tmp_path / "target").read_bytes() == b"one"


def test_a_relay_that_was_restarted_and_has_another_file_of_that_version_is_noticed(tmp_path: Path) -> None:
    relay = Files(LARGE)

    def restart(part: int) -> None:
        if part == 1:
            relay.versions[1] = LARGE[::-1]

    relay.before = restart
    download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == LARGE[::-1]


def test_what_has_another_digest_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    relay = Files(LARGE)
    relay.wrong_digest = True
    with pytest.raises(errors.DigestMismatch, match="get it again"):
        download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["target"]


def test_who_reads_what_only_one_may_read_says_so_and_confirms_it_once_it_is_kept(tmp_path: Path) -> None:
    relay = Files(LARGE, burn=True)
    download(relay, tmp_path / "target")
    assert relay.confirmed == 1
    assert set(relay.acted) == {"ada"}
    relay = Files(LARGE)
    download(relay, tmp_path / "target")
    assert set(relay.acted) == {None}  # which needs nobody to be registered
    assert relay.confirmed == 0
    relay = Files(b"", burn=True)
    download(relay, tmp_path / "target")
    assert relay.confirmed == 1
    relay = Files(LARGE, burn=True)
    download(relay, tmp_path / "target", me=Identity())
    assert (set(relay.acted), relay.confirmed) == ({None}, 0)


def test_a_file_that_cannot_be_kept_is_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: AtomicFile) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(AtomicFile, "keep", fail)
    relay = Files(LARGE, burn=True)
    with pytest.raises(OSError, match="disk full"):
        download(relay, tmp_path / "target")
    assert relay.confirmed == 0
    assert os.listdir(tmp_path) == []


def test_another_reader_is_not_waited_for_unless_that_is_our_own_lost_connection(tmp_path: Path) -> None:
    def busy(at: int) -> Callable[[int], None]:
        told: list[int] = []

        def before(part: int) -> None:
            if part == at and not told:
                told.append(part)
                raise errors.BeingRead("another", retry_after=1)

        return before

    relay = Files(LARGE, burn=True)
    relay.before = busy(0)
    with pytest.raises(errors.BeingRead):
        download(relay, tmp_path / "target")
    relay = Files(LARGE, burn=True)
    relay.before = busy(1)
    download(relay, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == LARGE


def test_a_target_that_is_none_is_told() -> None:
    with pytest.raises(errors.BadRequest, match="for writing bytes"):
        downloads.sink(b"bytes")
    assert isinstance(downloads.sink(io.BytesIO()), Flow)


# -- over a real relay, and a line that is cut -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roomy() -> Iterator[str]:
    """A real relay with its usual limits."""
    with relay_in_thread(ServerConfig(port=0)) as url:
        yield url


@pytest.fixture
def cutting(roomy: str) -> Iterator[Proxy]:
    proxy = Proxy(roomy)
    yield proxy
    proxy.close()


@contextmanager
def limiting(relay: str, most: int) -> Iterator[tuple[str, list[int]]]:
    """Run a proxy that answers 413 with HTML to larger bodies. Give its address and the sizes that it refused."""
    refused: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if size > most:
                refused.append(size)
                self.rfile.read(size)
                self.send_error(413)
                return
            answer = requests.request(
                self.command, relay + self.path, data=self.rfile.read(size), headers=dict(self.headers), timeout=30
            )
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = do_DELETE = _pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", refused
        finally:
            server.shutdown()


_names = (f"transferrer-{number}" for number in range(1000))


def of(url: str) -> Client:
    client = connect(url, timeout=5)
    client.register(next(_names), claim=False)
    return client


def cuts(count: int, least: int, most: int) -> Callable[[], int | None]:
    """Cut the first this many connections that are asked for, each after another number of bytes."""
    chosen = random.Random(7)
    left = iter(range(count))
    return lambda: chosen.randint(least, most) if next(left, None) is not None else None


@pytest.mark.usefixtures("each_client")
def test_there_and_back(roomy: str, tmp_path: Path) -> None:
    path, back = tmp_path / "file", tmp_path / "back"
    path.write_bytes(LARGE)
    told: list[tuple[int, int | None]] = []
    with of(roomy) as client:
        saved = client.upload("dir/large \u2603", path, on_progress=lambda done, total: told.append((done, total)))
        assert saved == FileSaved(
            "saved", saved.version, "dir/large \u2603", len(LARGE), hashlib.sha256(LARGE).hexdigest()
        )
        assert told[-1] == (len(LARGE), len(LARGE))
        facts = client.download("dir/large \u2603", back)
        assert back.read_bytes() == LARGE
        assert facts == client.stat_blob("dir/large \u2603")
        held = io.BytesIO()
        client.upload("pipe", Pipe(LARGE))  # type: ignore[arg-type]
        client.download("pipe", held)
        assert held.getvalue() == LARGE
        assert client.get_file("pipe").content == LARGE


@pytest.mark.usefixtures("each_client")
@pytest.mark.parametrize("make", [io.BytesIO, Pipe], ids=["file", "pipe"])
def test_an_upload_goes_on_over_a_line_that_is_cut_ten_times(cutting: Proxy, make: Callable[[bytes], Any]) -> None:
    with of(cutting.url) as client:
        cutting.limit_up = cuts(24, 100_000, 900_000)
        cutting.cut()
        saved = client.upload("up", make(LARGE))
        assert cutting.cuts >= 10
        assert saved.sha256 == hashlib.sha256(LARGE).hexdigest()
        assert client.get_file("up").content == LARGE


@pytest.mark.usefixtures("each_client")
@pytest.mark.parametrize("size", [SMALL_BYTES, 3 * SMALL_BYTES])
def test_an_upload_finds_parts_that_a_proxy_takes(roomy: str, size: int) -> None:
    with limiting(roomy, 200_000) as (url, refused), of(url) as client:
        saved = client.upload("limited", io.BytesIO(LARGE[:size]))
        assert saved.sha256 == hashlib.sha256(LARGE[:size]).hexdigest()
        assert len(refused) < 10
        assert client.get_file("limited").content == LARGE[:size]


@pytest.mark.usefixtures("each_client")
@pytest.mark.parametrize("size", [2000, SMALL_BYTES, 3 * SMALL_BYTES])
def test_a_proxy_that_takes_no_part_is_named_with_its_limit(roomy: str, size: int) -> None:
    with limiting(roomy, 1000) as (url, refused), of(url) as client:
        with pytest.raises(errors.NotARelay, match=f"takes no body of {min(size, LEAST_BYTES)} bytes.*let it take"):
            client.upload("limited", io.BytesIO(LARGE[:size]))
        assert len(refused) < 10


@pytest.mark.usefixtures("each_client")
@pytest.mark.parametrize("size", [2000, 2 * SMALL_BYTES])
def test_a_proxy_that_cuts_all_bodies_is_named(cutting: Proxy, size: int) -> None:
    with of(cutting.url) as client:
        cutting.cut()
        cutting.limit_up = lambda: 1000
        with pytest.raises(errors.RelayUnreachable, match=r"proxy before (it|the relay) .*larger"):
            client.upload("cut", io.BytesIO(LARGE[:size]), patience=1.0)


@pytest.mark.usefixtures("each_client")
def test_an_upload_whose_replies_are_lost_writes_one_version(cutting: Proxy) -> None:
    with of(cutting.url) as client:
        cutting.cut()
        cutting.limit = cuts(6, 20, 300)
        key = f"lost-{next(_names)}"
        saved = client.upload(key, io.BytesIO(LARGE))
        small = client.upload(key + ".small", io.BytesIO(b"small"))
        assert (saved.version, small.version) == (1, 1)
        assert cutting.cuts == 6


@pytest.mark.usefixtures("each_client")
def test_a_download_goes_on_over_a_line_that_is_cut_ten_times(cutting: Proxy, roomy: str, tmp_path: Path) -> None:
    with of(roomy) as client:
        client.upload("down", io.BytesIO(LARGE))
    with of(cutting.url) as client:
        cutting.cut()
        cutting.limit = cuts(10, 100_000, 900_000)
        client.download("down", tmp_path / "back")
        assert cutting.cuts == 10
    assert (tmp_path / "back").read_bytes() == LARGE
    assert os.listdir(tmp_path) == ["back"]


@pytest.mark.usefixtures("each_client")
def test_what_only_one_may_read_is_read_once_over_a_line_that_is_cut(
    cutting: Proxy, roomy: str, tmp_path: Path
) -> None:
    key = f"burn-{next(_names)}"
    with of(cutting.url) as client, of(roomy) as other:
        other.upload(key, io.BytesIO(LARGE), burn=True)
        cutting.cut()
        cutting.limit = cuts(4, 200_000, 900_000)
        client.download(key, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == LARGE
        with pytest.raises(errors.UnknownFile):
            other.download(key, tmp_path / "second")
        assert os.listdir(tmp_path) == ["back"]


@pytest.mark.usefixtures("each_client")
def test_who_goes_away_for_good_is_told_when_patience_is_over(tmp_path: Path) -> None:
    with relay_in_thread(ServerConfig(port=0)) as url:
        client = of(url)
        client.upload("k", io.BytesIO(LARGE))
    path = tmp_path / "back"
    with client, pytest.raises(errors.RelayUnreachable):
        client.download("k", path, patience=0.5)
    with client, pytest.raises(errors.RelayUnreachable):
        client.upload("k", io.BytesIO(LARGE), patience=0.5)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("each_client")
def test_a_listener_that_fails_ends_it_and_leaves_nothing(roomy: str, tmp_path: Path) -> None:
    def fail(done: int, total: int | None) -> None:
        if done:
            raise RuntimeError("enough")

    with of(roomy) as client:
        client.upload("k", io.BytesIO(LARGE))
        with pytest.raises(RuntimeError, match="enough"):
            client.download("k", tmp_path / "back", on_progress=fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("each_client")
def test_an_attachment_is_shared_once_and_named_by_its_content(roomy: str, tmp_path: Path) -> None:
    path = tmp_path / "my report.pdf"
    path.write_bytes(b"%PDF" + os.urandom(8))
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_bytes(b"hi")
    with of(roomy) as client:
        one = client.attach(path)
        assert client.attach(path) == one
        assert one.file_key.startswith("attachments/")
        assert one.file_key.endswith("/my report.pdf")
        assert (one.version, one.size, one.sha256) == (1, 12, hashlib.sha256(path.read_bytes()).hexdigest())
        assert client.attach(path, "../../../etc/passwd").name == "passwd"
        assert client.stat_blob(one.file_key).content_type == "application/pdf"
        open_to_all = client.attach(path, everyone=True)
        assert open_to_all.file_key == f"attachments/{one.sha256[:16]}/my report.pdf"
        assert client.attach(path, everyone=True) == open_to_all
        client.put_file(open_to_all.file_key, "something else")
        assert client.attach(path, everyone=True).version == 3
        tar = client.attach(folder)
        assert tar.name == "site.tar"
        facts = client.stat_blob(tar.file_key)
        assert (facts.content_type, facts.file_type) == ("application/x-tar", "binary")
        done = client.send(client.agent_id or "", "look", attachments=[one, tar])
        (claimed,) = [one for one in client.poll() if one.message_id == done.message_id]
        assert [each["name"] for each in claimed.raw["attachments"]] == ["my report.pdf", "site.tar"]
        with pytest.raises(FileNotFoundError):
            client.attach(tmp_path / "nowhere")


@pytest.mark.usefixtures("each_client")
def test_a_file_for_readers_is_there_for_them_alone(roomy: str, tmp_path: Path) -> None:
    with of(roomy) as owner, of(roomy) as reader, of(roomy) as stranger, connect(roomy) as nobody:
        me, read = owner.agent_id, str(reader.agent_id)
        shares: list[tuple[str, Callable[[str], FileSaved]]] = [
            ("s1", lambda key: owner.put_file(key, "one", readers=[read])),
            ("s2", lambda key: owner.put_blob(key, b"one", readers=[read])),
            ("s3", lambda key: owner.upload(key, io.BytesIO(b"one"), readers=[read])),
            ("s4", lambda key: owner.upload(key, io.BytesIO(LARGE), readers=[read])),
        ]
        for key, share in shares:
            key = f"{key}-{next(_names)}"
            assert share(key).readers == [read], key
            facts = reader.stat_blob(key)
            assert (facts.owner, facts.readers) == (me, [read]), key
            assert reader.get_blob(key, start=0, length=3).content in (b"one", LARGE[:3]), key
            assert reader.download(key, tmp_path / key).sha256 == facts.sha256, key
            history = reader.file_history(key)
            assert (history.owner, history.readers) == (me, [read]), key
            (listed,) = [one for one in all_files(reader) if one.file_key == key]
            assert (listed.owner, listed.readers) == (me, [read]), key
            for other in (stranger, nobody):
                assert key not in [one.file_key for one in all_files(other)], key
                for ask in (other.stat_blob, other.get_file, other.get_blob, other.file_history):
                    with pytest.raises(errors.UnknownFile):
                        ask(key)
            assert reader.put_file(key, "two").readers == [read], key
            with pytest.raises(errors.NotAllowed, match="only its owner"):
                reader.put_file(key, "three", readers=["*"])
            with pytest.raises(errors.NotAllowed, match="in use"):
                stranger.put_file(key, "mine")
            assert owner.put_file(key, "three", readers=[]).readers == [], key
            with pytest.raises(errors.UnknownFile):
                reader.get_file(key)
            assert owner.put_file(key, "four", readers=["*"]).readers is None, key
            assert nobody.get_file(key).content == b"four", key
        with pytest.raises(errors.BadRequest, match="put it into brackets"):
            owner.put_file("s", "x", readers="bob")
        with pytest.raises(errors.UnknownAgent):
            owner.upload("s", io.BytesIO(LARGE), readers=["nobody of that name"])


def all_files(client: Client) -> list[FileInfo]:
    found: list[FileInfo] = []
    after = None
    while True:
        page = client.list_files(limit=1000, after=after)
        found += page.files
        after = page.next
        if after is None:
            return found


@pytest.mark.usefixtures("each_client")
def test_an_attachment_is_for_those_who_get_its_message(roomy: str, tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_bytes(os.urandom(9))
    with of(roomy) as owner, of(roomy) as first, of(roomy) as second:
        one = owner.attach(path)
        assert owner.stat_blob(one.file_key).readers == []
        for count, reader in enumerate((first, second), 1):
            owner.send(str(reader.agent_id), "look", attachments=[one])
            assert owner.attach(path) == one, "it takes nothing from those who have it"
            assert len(owner.stat_blob(one.file_key).readers or ()) == count
        assert first.get_file(one.file_key).content == second.get_file(one.file_key).content == path.read_bytes()
        same = first.attach(path)
        assert (same.sha256, same.file_key == one.file_key) == (one.sha256, False)
        owner.put_file(one.file_key, "something else")
        again = owner.attach(path)
        assert (again.version, again.sha256) == (1, one.sha256)
        assert first.get_blob(one.file_key, version=1).content == path.read_bytes()


@pytest.mark.usefixtures("each_client")
def test_the_next_version_is_waited_for(roomy: str) -> None:
    key = f"watched-{next(_names)}"
    over = threading.Event()

    def write() -> None:
        with Client(roomy) as other:
            other.register(next(_names), claim=False)
            while not over.wait(0.2):
                other.put_file(key, "again")

    writing = threading.Thread(target=write)
    with of(roomy) as client:
        writing.start()
        one = client.watch_file(key, timeout=20)
        two = client.watch_file(key, one.version, timeout=20)
        over.set()
        writing.join()
        assert 1 <= one.version < two.version
        now = client.get_file(key).version
        assert client.watch_file(key, 0, timeout=20).version == now
        with pytest.raises(errors.ClawLinkError, match=f"is still at version {now} after"):
            client.watch_file(key, timeout=0.2)
        client.delete_file(key)
        gone = client.watch_file(key, now, timeout=20)
        assert (gone.deleted, gone.versions) == (True, [])
        with pytest.raises(errors.ClawLinkError, match="is still not there after"):
            client.watch_file(key, timeout=0.2)


@pytest.mark.usefixtures("each_client")
def test_locks_and_versions(roomy: str) -> None:
    key = f"locked-{next(_names)}"
    with of(roomy) as client, of(roomy) as other:
        client.put_file(key, "one")
        held = client.lock_file(key, seconds=60, note="mine for a minute")
        assert held.holder == client.agent_id
        for write in (
            lambda **options: other.put_blob(key, b"two", **options),
            lambda **options: other.upload(key, io.BytesIO(LARGE), **options),
            lambda **options: other.delete_file(key, **options),
        ):
            with pytest.raises(errors.FileLocked, match="mine for a minute"):
                write()
        with pytest.raises(errors.FileLocked):
            other.unlock_file(key)
        other.put_blob(key, b"two", force=True)
        history = client.file_history(key)
        assert [one.version for one in history.versions] == [2, 1]
        assert history.lock is not None
        assert history.lock.note == "mine for a minute"
        other.unlock_file(key, force=True)
        assert other.put_blob(key, b"three", if_version=2, ttl=60).version == 3
        assert client.stat_blob(key).expires_at is not None
        assert client.get_blob(key, version=1).content == b"one"
        assert client.get_blob(key, start=1, length=2).content == b"hr"
        with pytest.raises(errors.RangeNotSatisfiable):
            client.get_blob(key, start=5)
        with pytest.raises(errors.VersionConflict):
            client.put_blob(key, b"four", if_version=2)
        with pytest.raises(errors.UnknownFile):
            client.stat_blob(key, version=9)
        with pytest.raises(errors.UnknownUpload):
            client.upload_offset("nothing")


def test_another_content_than_was_asked_for_is_not_even_read(tmp_path: Path) -> None:
    relay = Files(LARGE, burn=True)
    with pytest.raises(errors.DigestMismatch, match="nothing was written"):
        download(relay, tmp_path / "target", sha256="a" * 64)
    assert (relay.parts, os.listdir(tmp_path)) == ([], [])
    download(relay, tmp_path / "target", sha256=hashlib.sha256(LARGE).hexdigest().upper())
    assert (tmp_path / "target").read_bytes() == LARGE


def test_who_could_not_write_what_only_one_may_read_is_told_to_come_back(tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    relay = Files(LARGE, burn=True)
    with pytest.raises(OSError, match="get it again within 60 s as the same agent"):
        download(relay, Full())
    assert relay.confirmed == 0
    with pytest.raises(OSError, match=r"device$"):
        download(Files(LARGE), Full())


def test_what_only_one_may_read_is_confirmed_once_it_is_extracted_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "file").write_bytes(b"x")
    (tmp_path / "taken").write_bytes(b"a file")
    packed = Packed(tmp_path / "site")
    relay = Files(b"".join(iter(lambda: packed.read(MOST_BYTES), b"")), burn=True)
    with pytest.raises(OSError, match="no folder"):
        download(relay, Unpacking(tmp_path / "taken"))
    assert relay.confirmed == 0
    unpacking = Unpacking(tmp_path / "copy")
    download(relay, unpacking)
    assert (relay.confirmed, unpacking.unpacked) == (1, (1, 1))
    assert (tmp_path / "copy" / "file").read_bytes() == b"x"


def test_an_upload_that_the_relay_has_forgotten_begins_again_by_itself(
    restartable: Restartable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    begin = uploads._Sending._begin

    def record(self: Any) -> Any:
        state = yield from begin(self)
        begun.append(state.upload_id)
        return state

    def forget(done: int, total: int | None) -> None:
        if done and len(begun) == 1:
            with Client(restartable.url, agent_id=client.agent_id, agent_key=client.agent_key) as other:
                other.end_upload(begun[0])

    monkeypatch.setattr(uploads._Sending, "_begin", record)
    (tmp_path / "large").write_bytes(LARGE * 2)
    with Client(restartable.url) as client:
        client.register("restarter")
        saved = client.upload("forgotten", tmp_path / "large", on_progress=forget)
        assert len(set(begun)) == 2
        assert (saved.version, saved.size) == (1, 2 * len(LARGE))
        begun.clear()
        with pytest.raises(errors.UnknownUpload):  # what was read of a pipe cannot be read again
            client.upload("forgotten", cast("Any", Pipe(LARGE * 2)), on_progress=forget)
