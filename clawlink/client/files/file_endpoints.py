"""Shared files, each endpoint once: contents, versions, locks, and uploads in pieces (tus 1.0.0).

As in ``endpoints``, each function takes the asking agent and its arguments, and returns a ``Call``.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote

from clawlink.client.endpoints import (
    Call,
    File,
    Identity,
    Reply,
    checked,
    query_string,
    reader,
    repeat_key,
    several,
    simple_call,
)
from clawlink.domain.limits import EVERYONE
from clawlink.errors import BadRequest, ClawLinkError, NotAllowed, RelayUnreachable, UnknownFile, UnknownUpload
from clawlink.protocol import paths, replies, requests

T = TypeVar("T")

OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
_TUS = "1.0.0"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")
_SHA256_BYTES = 32
_read_saved = reader(replies.FileSaved)
_read_history = reader(replies.FileHistory)
_read_deleted = reader(replies.FileDeleted)


class FileFacts(NamedTuple):
    """The facts of a version of a file, without its content. ``size`` is in bytes, ``sha256`` in hexadecimal.

    ``readers`` are the ids of the agents that may see it beside its ``owner``; both are None if it is for everyone.
    """

    file_key: str
    version: int
    size: int
    sha256: str
    content_type: str
    file_type: str
    last_editor: str
    updated_at: str
    expires_at: str | None
    burn_after_read: bool
    owner: str | None = None
    readers: list[str] | None = None


class Blob(NamedTuple):
    """A piece of a file, from the byte ``start`` on, or all of it."""

    facts: FileFacts
    start: int
    content: bytes


class Terms(NamedTuple):
    """The options of a write.

    ``if_version`` writes the file only if it is still at that version (0: only if it is new). ``ttl`` is its time to
    live in seconds. ``burn`` ends it after one read. ``force`` writes although another agent holds its lock.
    ``readers`` are the agents that may see it: see ``put_blob``.
    """

    content_type: str | None = None
    file_type: str | None = None
    if_version: int | None = None
    ttl: float | None = None
    burn: bool = False
    force: bool = False
    readers: Sequence[str] | None = None


class UploadState(NamedTuple):
    """How far an upload is. ``version`` and ``sha256`` are there once it is finished, and the file's ``readers``."""

    upload_id: str
    offset: int
    length: int | None = None
    version: int | None = None
    sha256: str | None = None
    readers: list[str] | None = None


def put_file(
    me: Identity,
    file_key: str,
    content: bytes | str,
    *,
    file_type: str = "text",
    if_version: int | None = None,
    readers: Sequence[str] | None = None,
    key: str | None = None,
) -> Call[replies.FileSaved]:
    """Write a shared file; with ``if_version`` only if it is still at that version (0: if it is new).

    ``readers`` are those of ``put_blob``.
    """
    data = content.encode() if isinstance(content, str) else content
    kind = TEXT if is_text(data) else OCTETS
    return put_blob(
        me, file_key, data, content_type=kind, file_type=file_type, if_version=if_version, readers=readers, key=key
    )


def get_file(me: Identity, file_key: str) -> Call[File]:
    """Read a shared file as bytes."""

    def read(blob: Blob) -> File:
        facts = blob.facts
        return File(file_key, blob.content, facts.file_type, facts.last_editor, facts.version, facts.updated_at)

    return _get(me, file_key, read)


def list_files(me: Identity, *, limit: int = 100, after: str | None = None) -> Call[replies.FileList]:
    """List shared files, those for everyone before those for this agent.

    ``after`` is the ``next`` of the reply before.
    """
    return simple_call(paths.LIST_FILES, query={"limit": limit, "after": after, "agent_id": me.agent_id})


def delete_file(
    me: Identity, file_key: str, *, if_version: int | None = None, force: bool = False
) -> Call[replies.FileDeleted]:
    """Delete a shared file with all its versions; with ``if_version`` only if it is still at that version.

    ``force`` does so although another agent holds its lock.
    """
    require_key(file_key)
    query = {"agent_id": me.require(), "if_version": if_version, "force": "true" if force else None}
    return simple_call(paths.DELETE_FILE, query=query, file_key=file_key, repeatable=False)


def put_blob(
    me: Identity,
    file_key: str,
    content: bytes,
    *,
    content_type: str | None = None,
    file_type: str | None = None,
    if_version: int | None = None,
    ttl: float | None = None,
    burn: bool = False,
    force: bool = False,
    readers: Sequence[str] | None = None,
    key: str | None = None,
) -> Call[replies.FileSaved]:
    """Write a shared file in one request; use ``upload`` for a large file.

    ``if_version`` writes the file only if it is still at that version (0: only if it is new). ``ttl`` is its time to
    live in seconds. ``burn`` ends it after one read. ``force`` writes although another agent holds its lock.
    ``readers`` are ids or names of the agents that may see it beside this one. An empty list is for this agent alone,
    ``["*"]`` for everyone; None leaves the readers as they are, and a new file is for everyone.
    """
    require_key(file_key)
    headers = {
        **_acting(me.require()),
        "Content-Type": content_type or OCTETS,
        "ClawLink-File-Type": None if file_type is None else quote(file_type),
        "If-Match": f'"{if_version}"' if if_version else None,
        "If-None-Match": "*" if if_version == 0 else None,
        "ClawLink-TTL": None if ttl is None else f"{ttl:.0f}",
        "ClawLink-Burn-After-Read": "1" if burn else None,
        "ClawLink-Force": "1" if force else None,
        "ClawLink-Readers": _readers(readers),
        "Content-Digest": _digest_of(content),
        "Idempotency-Key": repeat_key(key),
    }

    def read(reply: Reply) -> replies.FileSaved:
        saved: replies.FileSaved = _read_saved(reply.body)
        if readers is not None and set(readers) != {EVERYONE} and saved.readers is None:
            raise no_readers(f", and everyone can read {file_key!r} now: delete it, and")
        return saved

    return _raw(paths.PUT_BLOB, headers, body=content, read_reply=read, file_key=file_key)


def get_blob(
    me: Identity,
    file_key: str,
    *,
    version: int | None = None,
    start: int | None = None,
    length: int | None = None,
    burn: bool = False,
) -> Call[Blob]:
    """Read a shared file as bytes: all of it, or ``length`` bytes from ``start`` on. Use ``download`` for a large file.

    Without a ``version`` it is the newest. A file for one reader belongs to this connection from its first byte on.
    With ``burn`` it belongs to this agent, which may go on over another connection and ``confirm_read``.
    """
    return _get(me, file_key, lambda blob: blob, version=version, start=start, length=length, burn=burn)


def _get(
    me: Identity,
    file_key: str,
    give: Callable[[Blob], T],
    *,
    version: int | None = None,
    start: int | None = None,
    length: int | None = None,
    burn: bool = False,
) -> Call[T]:
    require_key(file_key)
    part = None
    if start is not None or length is not None:
        begin = start or 0
        part = f"bytes={begin}-{'' if length is None else begin + length - 1}"

    def read(reply: Reply) -> T:
        begin, size = 0, len(reply.body)
        if reply.status == 206:
            found = _RANGE.fullmatch(reply.headers["Content-Range"])
            if found is None:
                raise ValueError("a part of a file came without saying which")
            begin, end, size = (int(number) for number in found.groups())
            if end + 1 - begin != len(reply.body):
                raise _broken_off()
        elif int(reply.headers.get("Content-Length", size)) != size:
            raise _broken_off()
        return give(Blob(_facts(file_key, reply.headers, size), begin, reply.body))

    headers = {**(_acting(me.require()) if burn else {}), "Range": part, "Accept-Encoding": "identity"}
    query = {"version": version, "agent_id": me.agent_id}
    return _raw(paths.GET_BLOB, headers, query=query, read_reply=read, file_key=file_key)


def stat_blob(me: Identity, file_key: str, *, version: int | None = None) -> Call[FileFacts]:
    """Return the facts of a shared file, and of its newest ``version`` or an earlier one."""
    require_key(file_key)

    def read(reply: Reply) -> FileFacts:
        return _facts(file_key, reply.headers, int(reply.headers["Content-Length"]))

    def refuse(status: int) -> ClawLinkError | None:
        if status == 403:
            return NotAllowed(f"the agent key is not that of agent {me.agent_id}", field="agent_id")
        if status != 404:
            return None
        if version is None:
            return UnknownFile("file not found", field="file_key")
        return UnknownFile(f"there is no version {version} of {file_key!r}, or no longer", field="version")

    return _raw(
        paths.HEAD_BLOB,
        {"Accept-Encoding": "identity"},
        query={"version": version, "agent_id": me.agent_id},
        read_reply=read,
        refuse=refuse,
        file_key=file_key,
    )


def file_history(
    me: Identity, file_key: str, *, since: int | None = None, wait: float = 0.0
) -> Call[replies.FileHistory]:
    """Return the kept versions of a shared file, their editors, and the lock.

    With ``wait``, in seconds, it returns once the file has another version than ``since``, or at the end of the wait. A
    deletion counts.
    """
    require_key(file_key)
    query = {"versions": "", "since": since, "wait": wait or None, "agent_id": me.agent_id}
    return _raw(paths.GET_BLOB, {}, query=query, wait=wait, read=_read_history, file_key=file_key)


def confirm_read(me: Identity, file_key: str) -> Call[replies.FileDeleted]:
    """Say that a file that only one may read has been read: it is gone from now on."""
    require_key(file_key)
    return _raw(paths.DELETE_BLOB, _acting(me.require()), query={"read": 1}, repeatable=False, file_key=file_key)


def lock_file(
    me: Identity, file_key: str, *, seconds: float = 600.0, note: str | None = None, force: bool = False
) -> Call[replies.FileLocked]:
    """Ask the other agents not to write a file for ``seconds``; a repeat renews the lock.

    The file need not exist yet. Everyone sees the holder, the end and the ``note``. Writes of others raise FileLocked.
    With ``force`` the lock is taken from another holder.
    """
    ask = {"agent_id": me.require(), "file_key": file_key, "seconds": seconds, "note": note, "force": force}
    return simple_call(paths.LOCK_FILE, checked(ask, requests.LockFile))


def unlock_file(me: Identity, file_key: str, *, force: bool = False) -> Call[replies.FileUnlocked]:
    """Let others write a file again; with ``force`` also if another agent holds the lock."""
    require_key(file_key)
    query = {"agent_id": me.require(), "force": "true" if force else None}
    return simple_call(paths.UNLOCK_FILE, query=query, file_key=file_key)


# -- uploads in pieces -------------------------------------------------------------------------------------------------


def create_upload(
    me: Identity,
    file_key: str,
    length: int | None,
    *,
    terms: Terms = Terms(),  # noqa: B008 - a tuple
    sha256: str | None = None,
    key: str | None = None,
) -> Call[UploadState]:
    """Begin to write a shared file in pieces; None if its ``length`` is not known yet.

    With the ``sha256`` of the whole, the file is written only if its content has that digest.
    """
    require_key(file_key)
    metadata = {
        "key": file_key,
        "agent_id": me.require(),
        "content_type": terms.content_type or OCTETS,
        "file_type": terms.file_type,
        "if_version": terms.if_version,
        "ttl": None if terms.ttl is None else f"{terms.ttl:.0f}",
        "burn": "1" if terms.burn else None,
        "force": "1" if terms.force else None,
        "readers": _readers(terms.readers),
        "sha256": sha256,
    }
    headers = {
        "Tus-Resumable": _TUS,
        "Upload-Length": None if length is None else str(length),
        "Upload-Defer-Length": "1" if length is None else None,
        "Upload-Metadata": ",".join(
            f"{name} {_base64(str(value).encode())}" for name, value in metadata.items() if value is not None
        ),
        "Idempotency-Key": repeat_key(key),
    }

    def read(reply: Reply) -> UploadState:
        id = unquote(reply.headers["Location"].partition("?")[0].rstrip("/").rpartition("/")[2])
        return UploadState(id, int(reply.headers.get("Upload-Offset", 0)), length)

    return _raw(paths.CREATE_UPLOAD, headers, body=b"", read_reply=read)


def upload_offset(me: Identity, upload_id: str) -> Call[UploadState]:
    """Tell how far an upload is."""

    def refuse(status: int) -> ClawLinkError | None:
        if status == 404:
            return UnknownUpload("the upload is not known, or no longer; begin again", field="upload_id")
        return None

    headers = {"Tus-Resumable": _TUS}
    read = _upload_reader(upload_id)
    return _raw(paths.UPLOAD_OFFSET, headers, read_reply=read, refuse=refuse, upload_id=upload_id)


def upload_part(
    me: Identity, upload_id: str, content: bytes, *, offset: int, length: int | None = None
) -> Call[UploadState]:
    """Send a piece of an upload, which begins at ``offset``; with the ``length`` of the whole where that is news.

    The last piece writes the file. A piece that does not arrive as it was sent is refused with ChecksumMismatch.
    """
    headers = {
        "Tus-Resumable": _TUS,
        "Upload-Offset": str(offset),
        "Upload-Length": None if length is None else str(length),
        "Upload-Checksum": f"sha256 {_base64(hashlib.sha256(content).digest())}" if content else None,
        "Content-Type": "application/offset+octet-stream",
    }
    read = _upload_reader(upload_id)
    # Not by itself: the sender first asks how much has arrived.
    return _raw(paths.UPLOAD_PART, headers, body=content, read_reply=read, repeatable=False, upload_id=upload_id)


def end_upload(me: Identity, upload_id: str) -> Call[None]:
    """Give an upload up; the relay forgets its bytes."""
    headers = {"Tus-Resumable": _TUS}
    return _raw(paths.END_UPLOAD, headers, read_reply=lambda reply: None, repeatable=False, upload_id=upload_id)


def _upload_reader(upload_id: str) -> Callable[[Reply], UploadState]:
    def read(reply: Reply) -> UploadState:
        length, version = reply.headers.get("Upload-Length"), reply.headers.get("ClawLink-Version")
        return UploadState(
            upload_id,
            int(reply.headers["Upload-Offset"]),
            None if length is None else int(length),
            None if version is None else int(version),
            reply.headers.get("ClawLink-SHA256"),
            _named(reply.headers.get("ClawLink-Readers")),
        )

    return read


# -- common parts ------------------------------------------------------------------------------------------------------


def _raw(
    endpoint: paths.Endpoint,
    headers: Mapping[str, str | None],
    *,
    body: bytes | None = None,
    query: Mapping[str, object] | None = None,
    repeatable: bool = True,
    wait: float = 0.0,
    read: Callable[[bytes], Any] | None = None,
    read_reply: Callable[[Reply], Any] | None = None,
    refuse: Callable[[int], ClawLinkError | None] | None = None,
    **parameters: str,
) -> Call[Any]:
    return Call(
        endpoint,
        endpoint.url(**parameters) + query_string(query),
        read or bytes,
        body,
        repeatable,
        wait,
        headers={name: value for name, value in headers.items() if value is not None},
        read_reply=read_reply,
        refuse=refuse,
    )


def is_text(content: bytes) -> bool:
    """Tell whether some bytes are text in UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def require_key(file_key: str) -> None:
    """Refuse a key that would become another address: some libraries resolve dots between slashes."""
    checked({"file_key": file_key, "content": "", "agent_id": "-"}, requests.PutFile)
    if {".", ".."} & set(file_key.split("/")):
        raise BadRequest("a file key may not have '.' or '..' between slashes", field="file_key")


def no_readers(what: str = ":") -> BadRequest:
    """Return the refusal for a relay that does not know of readers."""
    return BadRequest(
        f"this relay keeps files for everyone alone{what} upgrade the relay, or share it for everyone", field="readers"
    )


def _named(header: str | None) -> list[str] | None:
    """Read the ids in a header ClawLink-Readers of a reply; None if it is not there."""
    return None if header is None else [unquote(one) for one in header.split(",") if one]


def _readers(readers: Sequence[str] | None) -> str | None:
    named = several(readers, "readers")
    return None if named is None else ",".join(quote(one, safe="*") for one in named)


def _acting(agent_id: str) -> dict[str, str | None]:
    return {"ClawLink-Agent": agent_id}


def _facts(file_key: str, headers: Mapping[str, str], size: int) -> FileFacts:
    digest = _DIGEST.search(headers.get("Repr-Digest", ""))
    if digest is None:
        raise ValueError("a file came without its SHA-256")
    sha256 = base64.b64decode(digest[1], validate=True)
    if len(sha256) != _SHA256_BYTES:
        raise ValueError("a file came with a SHA-256 of another length")
    owner = headers.get("ClawLink-Owner")
    return FileFacts(
        file_key,
        int(headers["ClawLink-Version"]),
        size,
        sha256.hex(),
        headers.get("Content-Type", OCTETS),
        unquote(headers.get("ClawLink-File-Type", "")),
        unquote(headers.get("ClawLink-Editor", "")),
        headers.get("ClawLink-Updated-At", ""),
        headers.get("ClawLink-Expires-At"),
        headers.get("ClawLink-Burn-After-Read") == "1",
        None if owner is None else unquote(owner),
        _named(headers.get("ClawLink-Readers")),
    )


def _digest_of(content: bytes) -> str:
    return f"sha-256=:{_base64(hashlib.sha256(content).digest())}:"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _broken_off() -> RelayUnreachable:
    return RelayUnreachable("the relay's answer broke off before its end")
