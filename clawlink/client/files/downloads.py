"""Files come down, in pieces and through whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import Any

from clawlink.client.calls import Call, Identity
from clawlink.client.files import file_endpoints
from clawlink.client.files.atomic_files import AtomicFile, Flow, Held, Sink
from clawlink.client.files.file_facts import Blob, FileFacts
from clawlink.client.files.transfer import (
    ENDLESS,
    LAST_WORDS_SECONDS,
    MOST_RESTARTS,
    PATIENCE_SECONDS,
    Moved,
    Patience,
    Pieces,
    Steps,
    ask,
)
from clawlink.client.wait_steps import Event, RunBlocking, Send
from clawlink.domain.limits import READ_HOLD_SECONDS
from clawlink.errors import (
    BadRequest,
    BeingRead,
    ClawLinkError,
    DigestMismatch,
    NotARelay,
    RangeNotSatisfiable,
    UnknownFile,
    VersionConflict,
)


def download(
    me: Identity,
    file_key: str,
    sink: Sink,
    *,
    version: int | None = None,
    sha256: str | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Steps[None]:
    """Read a shared file into a sink. Its last ``Event`` is the ``FileFacts``.

    A download finishes the version with which it began. It begins again with the newest only if that version is no
    longer kept. At a path it goes on with what a killed download of the same content has left. It keeps nothing without
    the relay's SHA-256 of the whole, and reads nothing if that differs from ``sha256``.
    """
    fetching = _Fetching(me, file_key, sink, version, sha256, Patience(file_key, patience))
    try:
        facts = yield from fetching.all()
        yield RunBlocking(sink.keep)
    except OSError as error:
        if not fetching.burns:
            raise
        # It is not confirmed, so this reader may come back for it.
        raise OSError(
            error.errno,
            f"{error.strerror or error}; it is not lost: get it again within {READ_HOLD_SECONDS:.0f} s as the same "
            "agent, to a place where it can be written",
            error.filename,
        ) from error
    finally:
        sink.drop()
    if fetching.burns:
        with contextlib.suppress(ClawLinkError):  # it was read to its end, so it is gone before long without that
            yield Send(file_endpoints.confirm_read(me, file_key), LAST_WORDS_SECONDS)
    yield Event(file_key, facts)


def sink(target: Any) -> Sink:
    """Return a sink for a path or a file object. A ``Sink`` stays unchanged."""
    if isinstance(target, str | os.PathLike):
        return AtomicFile(target)
    if isinstance(target, Sink):
        return target
    if not callable(getattr(target, "write", None)):
        raise BadRequest("give a path, or a file object that is open for writing bytes", field="target")
    return Flow(target)


class _Fetching:
    """A download in pieces, with the digest of the bytes so far."""

    def __init__(
        self,
        me: Identity,
        file_key: str,
        sink: Sink,
        version: int | None,
        sha256: str | None,
        patience: Patience,
    ) -> None:
        self.burns = False  # whether only this agent may read it from now on
        self._me = me
        self._file_key = file_key
        self._sink = sink
        self._version = version
        self._sha256 = sha256
        self._patience = patience
        self._pieces = Pieces()
        self._done = 0
        self._read = False  # whether anything was read, be it an empty file
        self._digest = hashlib.sha256()
        self._resumes = True  # whether the part of a killed process may be gone on with
        self._resumed = False
        self._restarts = 0

    def all(self) -> Steps[FileFacts]:
        """Fetch the file, and return its facts."""
        facts = yield from self._whole((yield from self._begin()))
        if self._resumed and self._digest.hexdigest() != facts.sha256:
            # The part lacked bytes that its process had written, as after a loss of power.
            yield RunBlocking(self._sink.restart)
            facts = yield from self._whole((yield from self._begin()))
        sha256 = self._digest.hexdigest()
        if sha256 != facts.sha256:
            raise DigestMismatch(
                f"what came of {self._file_key!r} has the SHA-256 {sha256}, not {facts.sha256}; get it again",
                current=sha256,
            )
        return facts

    def _whole(self, facts: FileFacts) -> Steps[FileFacts]:
        """Fetch what is missing, and return the facts of the version that came."""
        while self._done < facts.size or not self._read:
            began = time.monotonic()
            try:
                blob: Blob = yield Send(self._call(facts), ENDLESS)
                if blob.facts.sha256 != facts.sha256:
                    raise VersionConflict(
                        f"version {facts.version} of {self._file_key!r} has become another content while it was read; "
                        "get it again",
                        field="file_key",
                    )
            except (UnknownFile, VersionConflict, RangeNotSatisfiable):
                if self._version is not None:
                    raise
                facts = yield from self._start_again()
            except ClawLinkError as error:
                self._pieces.failed()
                # The relay may still take a reader that was cut off for the present reader.
                yield from self._patience.bear(error, *((BeingRead,) if self._done else ()))
            else:
                yield from self._patience.renew()
                self._pieces.arrived(time.monotonic() - began)
                yield from self._take(blob)
        return facts

    def _begin(self) -> Steps[FileFacts]:
        self._done, self._read, self._digest = 0, False, hashlib.sha256()
        call = file_endpoints.stat_blob(self._me, self._file_key, version=self._version)
        facts = yield from ask(call, self._patience)
        yield from self._patience.renew()
        if self._sha256 is not None and facts.sha256 != self._sha256.lower():
            raise DigestMismatch(
                f"version {facts.version} of {self._file_key!r} is not what was asked for: its SHA-256 is "
                f"{facts.sha256}, not {self._sha256.lower()}; nothing was written",
                field="sha256",
                current=facts.sha256,
            )
        self.burns = facts.burn_after_read and self._me.agent_id is not None
        sink, self._resumed = self._sink, False
        if self._resumes and isinstance(sink, AtomicFile) and not facts.burn_after_read:
            held: Held = yield RunBlocking(lambda: sink.resume(facts.sha256, facts.size))
            self._done, self._digest = held
            self._read = self._resumed = self._done > 0
        self._resumes = False
        yield Event(self._file_key, Moved(self._done, facts.size))
        return facts

    def _call(self, facts: FileFacts) -> Call[Blob]:
        """Ask for the next part of the version. An empty file has no parts."""
        part = (self._done, self._pieces.size) if facts.size else (None, None)
        return file_endpoints.get_blob(
            self._me, self._file_key, version=facts.version, start=part[0], length=part[1], burn=self.burns
        )

    def _take(self, blob: Blob) -> Steps[None]:
        content = blob.content[self._done - blob.start :] if blob.start <= self._done else b""
        if not content and self._done < blob.facts.size:
            raise NotARelay("the answer is not that of a ClawLink relay: it is not the part that was asked for")
        yield RunBlocking(lambda: self._keep(content))
        self._read = True
        self._done += len(content)
        yield Event(self._file_key, Moved(self._done, blob.facts.size))

    def _keep(self, content: bytes) -> None:
        self._sink.write(content)
        self._digest.update(content)

    def _start_again(self) -> Steps[FileFacts]:
        """Forget the bytes so far, because their version is no longer kept."""
        self._restarts += 1
        again = self._restarts <= MOST_RESTARTS and (not self._read or (yield RunBlocking(self._sink.restart)))
        if not again:
            raise VersionConflict(
                f"{self._file_key!r} was written again and again while it was read, and the version that was begun is "
                "not kept any more; what has come of it is not whole; get it again",
                field="file_key",
            )
        return (yield from self._begin())
