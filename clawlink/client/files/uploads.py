"""Files go up: in one request or in pieces, through whatever happens."""

from __future__ import annotations

import codecs
import hashlib
import secrets
import time
from functools import partial
from typing import Any

from clawlink.client import endpoints
from clawlink.client.calls import Call, Identity, repeat_key
from clawlink.client.files import file_endpoints
from clawlink.client.files.atomic_files import Measure, Source, too_large
from clawlink.client.files.file_facts import OCTETS, FileFacts, Terms, UploadState, no_readers
from clawlink.client.files.safe_paths import safe_name
from clawlink.client.files.transfer import (
    ENDLESS,
    LAST_WORDS_SECONDS,
    LEAST_BYTES,
    MOST_RESTARTS,
    PATIENCE_SECONDS,
    RAISE_LIMIT,
    SMALL_BYTES,
    Moved,
    Patience,
    Pieces,
    Steps,
    ask,
    is_too_large,
    proxy_limit,
)
from clawlink.client.wait_steps import Event, RunBlocking, Send
from clawlink.domain.limits import MIB
from clawlink.domain.message import Attachment
from clawlink.errors import (
    ChecksumMismatch,
    ClawLinkError,
    DigestMismatch,
    NotAllowed,
    NotARelay,
    OffsetConflict,
    RelayUnreachable,
    UnknownFile,
    UnknownUpload,
    VersionConflict,
)
from clawlink.protocol.file_replies import FileSaved

# Where the files stand that go with messages.
ATTACHED = "attachments"
# Reading and hashing more than this takes long enough to ask first whether the relay would take it.
_WORTH_ASKING_BYTES = 32 * MIB
# The limits of a file, as the relay tells them, and their flags.
_LIMITS = {"max_file_bytes": "--max-file-bytes", "max_files_bytes": "--max-files-bytes"}


def upload(
    me: Identity,
    file_key: str,
    source: Any,
    terms: Terms,
    *,
    key: str | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Steps[None]:
    """Write a shared file from a path or a file object. Its last ``Event`` is the ``FileSaved``."""
    opened: Source = yield RunBlocking(lambda: Source(source))
    try:
        saved = yield from _upload(me, file_key, opened, terms, key, Patience(file_key, patience))
    finally:
        opened.close()
    yield Event(file_key, saved)


def _upload(
    me: Identity, file_key: str, source: Source, terms: Terms, key: str | None, patience: Patience
) -> Steps[FileSaved]:
    first: bytes = yield RunBlocking(lambda: source.read(SMALL_BYTES + 1))
    terms = _with_kinds(terms, source, file_key, first)
    if terms.readers is not None:
        yield from _require_readers(me, patience)
    if len(first) > SMALL_BYTES:
        return (yield from _Sending(me, file_key, source, terms, key, patience).all(first))
    yield Event(file_key, Moved(0, len(first)))
    call = file_endpoints.put_blob(me, file_key, first, **terms._asdict(), key=key)
    try:
        saved = yield from ask(call, patience)
    except NotARelay as refused:
        if not is_too_large(refused):
            raise
        if len(first) <= LEAST_BYTES:
            raise proxy_limit(len(first)) from None
        return (yield from _Sending(me, file_key, source, terms, key, patience).all(first))
    except RelayUnreachable as lost:
        yield from _require_absence(me, lost, len(first))
        raise
    yield from patience.renew()
    yield Event(file_key, Moved(len(first), len(first)))
    return saved


def _require_absence(me: Identity, lost: RelayUnreachable, size: int) -> Steps[None]:
    """Look why a body does not arrive. Raises RelayUnreachable with the reason if the relay is there all the same."""
    try:
        yield Send(endpoints.info(me), LAST_WORDS_SECONDS)
    except ClawLinkError:
        return
    raise RelayUnreachable(
        f"the relay answers, but not to a body of {size} bytes: {lost.message}; if a proxy before it cuts bodies, "
        f"{RAISE_LIMIT}"
    ) from None


def _require_readers(me: Identity, patience: Patience) -> Steps[None]:
    """Refuse to send to a relay that would let everyone read. Raises BadRequest."""
    limits = (yield from ask(endpoints.info(me), patience)).limits
    if "max_readers" not in limits:
        raise no_readers()


def _with_kinds(terms: Terms, source: Source, file_key: str, first: bytes) -> Terms:
    """Fill in missing types of a file: by the suffix of its key, or of its name here, and by its beginning."""
    text = source.content_type is None and _is_text(first)
    content_type = terms.content_type or source.content_type
    if content_type is None:
        from mimetypes import guess_type

        named = (guess_type(name, strict=False) for name in (file_key, source.name) if name)
        # A compressed file has its own type, not that of its content.
        content_type = next((kind for kind, packed in named if kind is not None and packed is None), None)
        if content_type is None or content_type.startswith("text/"):
            content_type = f"{content_type or 'text/plain'}; charset=utf-8" if text else content_type or OCTETS
    return terms._replace(content_type=content_type, file_type=terms.file_type or ("text" if text else "binary"))


def _is_text(first: bytes) -> bool:
    if b"\x00" in first:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(first, final=len(first) <= SMALL_BYTES)
    except UnicodeDecodeError:
        return False
    return True


def attach(me: Identity, path: Any, name: str | None = None, *, everyone: bool = False) -> Steps[None]:
    """Share a file under a key that follows from its content. Its last ``Event`` is the ``Attachment``.

    A content that is there already under that key is not sent again. Unless it is for everyone, the key is this agent's
    own, because another agent cannot see the file, and must not meet its key.
    """
    source: Source = yield RunBlocking(lambda: _rewindable(path))
    try:
        measure: Measure = yield RunBlocking(source.measure)
        called = safe_name(name or source.name or "file")
        own = measure.sha256 if everyone else hashlib.sha256(f"{me.require()} {measure.sha256}".encode()).hexdigest()
        file_key = f"{ATTACHED}/{own[:16]}/{called}"
        try:
            version = yield from _attach(me, file_key, source, measure, everyone)
        except (NotAllowed, UnknownFile) as refused:
            if refused.field not in ("file_key", "readers"):
                raise
            # Another agent has taken the key, or it has another content.
            file_key = f"{ATTACHED}/{secrets.token_hex(8)}/{called}"
            yield RunBlocking(lambda: source.seek(0))
            version = yield from _attach(me, file_key, source, measure, everyone)
    finally:
        source.close()
    attachment = Attachment(file_key=file_key, version=version, size=measure.size, sha256=measure.sha256, name=called)
    yield Event(file_key, attachment)


def _attach(me: Identity, file_key: str, source: Source, measure: Measure, everyone: bool) -> Steps[int]:
    """Share a file under a key, unless it is there, and return its version.

    A file that is not for everyone is only made, and never written again: that would take it from its readers.
    """
    patience = Patience(file_key, PATIENCE_SECONDS)
    try:
        return (yield from _held_as(me, file_key, measure, patience, everyone)).version
    except UnknownFile:
        pass
    terms = Terms(source.content_type)
    if not everyone:
        terms = terms._replace(readers=(), if_version=0)
    try:
        saved: FileSaved = yield from _upload(me, file_key, source, terms, None, patience)
    except VersionConflict:  # made at this moment
        if everyone:
            raise
        return (yield from _held_as(me, file_key, measure, patience, everyone)).version
    return saved.version


def _held_as(me: Identity, file_key: str, measure: Measure, patience: Patience, everyone: bool) -> Steps[FileFacts]:
    """Return the file under a key if it has that content. Raises UnknownFile."""
    facts = yield from ask(file_endpoints.stat_blob(me, file_key), patience)
    yield from patience.renew()
    passing = facts.expires_at is not None or facts.burn_after_read
    if facts.sha256 != measure.sha256 or passing or facts.owner != (None if everyone else me.agent_id):
        raise UnknownFile("there is another file", field="file_key")
    return facts


def _rewindable(path: Any) -> Source:
    source = Source(path)
    return source if source.again else source.kept()


class _Sending:
    """An upload in pieces, with the read bytes that are not known to have arrived."""

    def __init__(
        self, me: Identity, file_key: str, source: Source, terms: Terms, key: str | None, patience: Patience
    ) -> None:
        self._me = me
        self._file_key = file_key
        self._source = source
        self._terms = terms
        self._key = key
        self._patience = patience
        self._pieces = Pieces()
        self._size: int | None = None
        self._sha256: str | None = None
        self._digest = hashlib.sha256()  # of a source that can be read once only
        self._held = b""
        self._held_at = 0
        self._ended = False

    def all(self, first: bytes) -> Steps[FileSaved]:
        """Send the source, of which ``first`` is read, and return the written file."""
        if self._source.again:
            # Known beforehand, it cannot happen that a file that changes while it is read is written as a mixture.
            limits = yield from self._limits()
            measure = yield RunBlocking(lambda: self._source.measure(limits=limits))
            self._size, self._sha256 = measure
        else:
            self._held = first
            yield RunBlocking(lambda: self._digest.update(first))
        restarts = 0
        while True:
            state = yield from self._begin()
            try:
                state = yield from self._pieces_from(state)
            except UnknownUpload:  # the relay was restarted, or has given its room to others
                restarts += 1
                if restarts > MOST_RESTARTS or not self._from_the_start():
                    raise
            except (Exception, KeyboardInterrupt):
                if self._key is None:  # else the caller can come back to it
                    yield from self._give_up(state)
                raise
            else:
                break
        if state.version is None:
            raise NotARelay("the relay has all of the upload, and does not say which version it made of it")
        sha256 = self._sha256 or self._digest.hexdigest()
        if state.sha256 is not None and state.sha256 != sha256:
            raise DigestMismatch(
                f"what was sent has the SHA-256 {sha256}, and what was written as version {state.version} has "
                f"{state.sha256}; write it again",
                current=state.sha256,
            )
        return FileSaved("saved", state.version, self._file_key, state.offset, sha256, state.readers)

    def _limits(self) -> Steps[dict[str, int]]:
        """Return the relay's limits of a file by their flags; none for a file that is read at once.

        Raises TooLarge.
        """
        size = self._source.size
        if size is not None and size <= _WORTH_ASKING_BYTES:
            return {}
        told = (yield from ask(endpoints.info(self._me), self._patience)).limits
        limits = {flag: int(told[name]) for name, flag in _LIMITS.items() if name in told}
        if size is not None and any(size > limit for limit in limits.values()):
            raise too_large(size, limits)
        return limits

    def _from_the_start(self) -> bool:
        """Go back to the beginning of the source; return False if it cannot be read again."""
        if self._source.again:
            self._source.seek(0)
            self._held, self._held_at, self._ended = b"", 0, False
            return True
        return self._held_at == 0

    def _begin(self) -> Steps[UploadState]:
        call = file_endpoints.create_upload(
            self._me, self._file_key, self._size, terms=self._terms, sha256=self._sha256, key=repeat_key(self._key)
        )
        state = yield from ask(call, self._patience)
        yield from self._patience.renew()
        if self._key is not None:  # it may have begun some other time
            state = yield from self._look(state)
        return state

    def _look(self, state: UploadState) -> Steps[UploadState]:
        return (yield from ask(file_endpoints.upload_offset(self._me, state.upload_id), self._patience))

    def _pieces_from(self, state: UploadState) -> Steps[UploadState]:
        yield Event(self._file_key, Moved(state.offset, self._size))
        while state.version is None:
            offset = state.offset
            piece, length = yield from self._next(offset)
            call = yield RunBlocking(partial(self._part, state.upload_id, piece, offset, length))
            began = time.monotonic()
            try:
                state = yield Send(call, ENDLESS)
            except ClawLinkError as error:
                self._pieces.failed()
                if not is_too_large(error):
                    yield from self._bear(error, len(piece))
                elif len(piece) <= LEAST_BYTES:
                    raise proxy_limit(len(piece)) from None
                state = yield from self._look(state)
            else:
                if piece:
                    self._pieces.arrived(time.monotonic() - began)
                elif state.version is None and state.offset == offset:
                    break
            if state.offset > offset:
                yield from self._patience.renew()
            yield Event(self._file_key, Moved(state.offset, self._size))
        return state

    def _bear(self, error: ClawLinkError, size: int) -> Steps[None]:
        try:
            yield from self._patience.bear(error, OffsetConflict, ChecksumMismatch)
        except RelayUnreachable as lost:
            yield from _require_absence(self._me, lost, size)
            raise

    def _part(self, upload_id: str, piece: bytes, offset: int, length: int | None) -> Call[UploadState]:
        return file_endpoints.upload_part(self._me, upload_id, piece, offset=offset, length=length)

    def _next(self, offset: int) -> Steps[tuple[bytes, int | None]]:
        """Return the piece at the offset, and with the last one the total length, if the relay does not know it."""
        if self._held_at <= offset <= self._held_at + len(self._held):
            self._held = self._held[offset - self._held_at :]
        elif self._source.again:
            yield RunBlocking(lambda: self._source.seek(offset))
            self._held, self._ended = b"", False
        else:
            raise ClawLinkError(
                f"the relay has lost a part of what was sent: it has {offset} bytes, and what follows them cannot be "
                "read again; start again"
            )
        self._held_at = offset
        lacking = self._pieces.size - len(self._held)
        if lacking > 0 and not self._ended:
            self._held += yield RunBlocking(lambda: self._read(lacking))
        piece = self._held[: self._pieces.size]
        end = offset + len(piece)
        last = self._ended and len(piece) == len(self._held)
        if last and self._size is not None and end < self._size:
            raise ClawLinkError("the file became shorter while it was read; try again once nobody writes it")
        if self._size is not None and end > self._size:
            piece = piece[: self._size - offset]  # it has grown since: its SHA-256 tells whether it is still the same
        return piece, end if last and self._size is None else None

    def _read(self, size: int) -> bytes:
        piece = self._source.read(size)
        self._ended = len(piece) < size
        if not self._source.again:
            self._digest.update(piece)
        return piece

    def _give_up(self, state: UploadState) -> Steps[None]:
        """Let the relay forget the upload, if it can be reached; else the relay does so by itself later."""
        try:
            yield Send(file_endpoints.end_upload(self._me, state.upload_id), LAST_WORDS_SECONDS)
        except ClawLinkError:
            return
