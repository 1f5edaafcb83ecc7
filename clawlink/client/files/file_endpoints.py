"""Shared files, each endpoint once: contents, versions, locks, and uploads in pieces (tus 1.0.0).

As in ``endpoints``, each function takes the asking agent and its arguments, and returns a ``Call``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from clawlink.client.calls import (
    Call,
    File,
    Identity,
    Reply,
    checked,
    query_string,
    reader,
    repeat_key,
    simple_call,
)
from clawlink.client.files.file_facts import (
    OCTETS,
    RANGE,
    TEXT,
    Blob,
    FileFacts,
    Terms,
    UploadState,
    acting,
    broken_off,
    digest_of,
    facts_of,
    in_base64,
    is_text,
    named,
    no_readers,
    readers_header,
    require_key,
)
from clawlink.domain.limits import EVERYONE
from clawlink.errors import ClawLinkError, NotAllowed, UnknownFile, UnknownUpload
from clawlink.protocol import endpoint, file_paths, file_replies, file_requests

T = TypeVar("T")
_TUS = "1.0.0"
_read_saved = reader(file_replies.FileSaved)
_read_history = reader(file_replies.FileHistory)


def put_file(
    me: Identity,
    file_key: str,
    content: bytes | str,
    *,
    file_type: str = "text",
    if_version: int | None = None,
    readers: Sequence[str] | None = None,
    key: str | None = None,
) -> Call[file_replies.FileSaved]:
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


def list_files(me: Identity, *, limit: int = 100, after: str | None = None) -> Call[file_replies.FileList]:
    """List shared files, those for everyone before those for this agent.

    ``after`` is the ``next`` of the reply before.
    """
    return simple_call(file_paths.LIST_FILES, query={"limit": limit, "after": after, "agent_id": me.agent_id})


def delete_file(
    me: Identity, file_key: str, *, if_version: int | None = None, force: bool = False
) -> Call[file_replies.FileDeleted]:
    """Delete a shared file with all its versions; with ``if_version`` only if it is still at that version.

    ``force`` does so although another agent holds its lock.
    """
    require_key(file_key)
    query = {"agent_id": me.require(), "if_version": if_version, "force": "true" if force else None}
    return simple_call(file_paths.DELETE_FILE, query=query, file_key=file_key, repeatable=False)


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
) -> Call[file_replies.FileSaved]:
    """Write a shared file in one request; use ``upload`` for a large file.

    ``if_version`` writes the file only if it is still at that version (0: only if it is new). ``ttl`` is its time to
    live in seconds. ``burn`` ends it after one read. ``force`` writes although another agent holds its lock.
    ``readers`` are ids or names of the agents that may see it beside this one. An empty list is for this agent alone,
    ``["*"]`` for everyone; None leaves the readers as they are, and a new file is for everyone.
    """
    require_key(file_key)
    headers = {
        **acting(me.require()),
        "Content-Type": content_type or OCTETS,
        "ClawLink-File-Type": None if file_type is None else quote(file_type),
        "If-Match": f'"{if_version}"' if if_version else None,
        "If-None-Match": "*" if if_version == 0 else None,
        "ClawLink-TTL": None if ttl is None else f"{ttl:.0f}",
        "ClawLink-Burn-After-Read": "1" if burn else None,
        "ClawLink-Force": "1" if force else None,
        "ClawLink-Readers": readers_header(readers),
        "Content-Digest": digest_of(content),
        "Idempotency-Key": repeat_key(key),
    }

    def read(reply: Reply) -> file_replies.FileSaved:
        saved: file_replies.FileSaved = _read_saved(reply.body)
        if readers is not None and set(readers) != {EVERYONE} and saved.readers is None:
            raise no_readers(f", and everyone can read {file_key!r} now: delete it, and")
        return saved

    return _raw(file_paths.PUT_BLOB, headers, body=content, read_reply=read, file_key=file_key)


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
            found = RANGE.fullmatch(reply.headers["Content-Range"])
            if found is None:
                raise ValueError("a part of a file came without saying which")
            begin, end, size = (int(number) for number in found.groups())
            if end + 1 - begin != len(reply.body):
                raise broken_off()
        elif int(reply.headers.get("Content-Length", size)) != size:
            raise broken_off()
        return give(Blob(facts_of(file_key, reply.headers, size), begin, reply.body))

    headers = {**(acting(me.require()) if burn else {}), "Range": part, "Accept-Encoding": "identity"}
    query = {"version": version, "agent_id": me.agent_id}
    return _raw(file_paths.GET_BLOB, headers, query=query, read_reply=read, file_key=file_key)


def stat_blob(me: Identity, file_key: str, *, version: int | None = None) -> Call[FileFacts]:
    """Return the facts of a shared file, and of its newest ``version`` or an earlier one."""
    require_key(file_key)

    def read(reply: Reply) -> FileFacts:
        return facts_of(file_key, reply.headers, int(reply.headers["Content-Length"]))

    def refuse(status: int) -> ClawLinkError | None:
        if status == 403:
            return NotAllowed(f"the agent key is not that of agent {me.agent_id}", field="agent_id")
        if status != 404:
            return None
        if version is None:
            return UnknownFile("file not found", field="file_key")
        return UnknownFile(f"there is no version {version} of {file_key!r}, or no longer", field="version")

    return _raw(
        file_paths.HEAD_BLOB,
        {"Accept-Encoding": "identity"},
        query={"version": version, "agent_id": me.agent_id},
        read_reply=read,
        refuse=refuse,
        file_key=file_key,
    )


def file_history(
    me: Identity, file_key: str, *, since: int | None = None, wait: float = 0.0
) -> Call[file_replies.FileHistory]:
    """Return the kept versions of a shared file, their editors, and the lock.

    With ``wait``, in seconds, it returns once the file has another version than ``since``, or at the end of the wait. A
    deletion counts.
    """
    require_key(file_key)
    query = {"versions": "", "since": since, "wait": wait or None, "agent_id": me.agent_id}
    return _raw(file_paths.GET_BLOB, {}, query=query, wait=wait, read=_read_history, file_key=file_key)


def confirm_read(me: Identity, file_key: str) -> Call[file_replies.FileDeleted]:
    """Say that a file that only one may read has been read: it is gone from now on."""
    require_key(file_key)
    return _raw(file_paths.DELETE_BLOB, acting(me.require()), query={"read": 1}, repeatable=False, file_key=file_key)


def lock_file(
    me: Identity, file_key: str, *, seconds: float = 600.0, note: str | None = None, force: bool = False
) -> Call[file_replies.FileLocked]:
    """Ask the other agents not to write a file for ``seconds``; a repeat renews the lock.

    The file need not exist yet. Everyone sees the holder, the end and the ``note``. Writes of others raise FileLocked.
    With ``force`` the lock is taken from another holder.
    """
    ask = {"agent_id": me.require(), "file_key": file_key, "seconds": seconds, "note": note, "force": force}
    return simple_call(file_paths.LOCK_FILE, checked(ask, file_requests.LockFile))


def unlock_file(me: Identity, file_key: str, *, force: bool = False) -> Call[file_replies.FileUnlocked]:
    """Let others write a file again; with ``force`` also if another agent holds the lock."""
    require_key(file_key)
    query = {"agent_id": me.require(), "force": "true" if force else None}
    return simple_call(file_paths.UNLOCK_FILE, query=query, file_key=file_key)


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
        "readers": readers_header(terms.readers),
        "sha256": sha256,
    }
    headers = {
        "Tus-Resumable": _TUS,
        "Upload-Length": None if length is None else str(length),
        "Upload-Defer-Length": "1" if length is None else None,
        "Upload-Metadata": ",".join(
            f"{name} {in_base64(str(value).encode())}" for name, value in metadata.items() if value is not None
        ),
        "Idempotency-Key": repeat_key(key),
    }

    def read(reply: Reply) -> UploadState:
        id = unquote(reply.headers["Location"].partition("?")[0].rstrip("/").rpartition("/")[2])
        return UploadState(id, int(reply.headers.get("Upload-Offset", 0)), length)

    return _raw(file_paths.CREATE_UPLOAD, headers, body=b"", read_reply=read)


def upload_offset(me: Identity, upload_id: str) -> Call[UploadState]:
    """Tell how far an upload is."""

    def refuse(status: int) -> ClawLinkError | None:
        if status == 404:
            return UnknownUpload("the upload is not known, or no longer; begin again", field="upload_id")
        return None

    headers = {"Tus-Resumable": _TUS}
    read = _upload_reader(upload_id)
    return _raw(file_paths.UPLOAD_OFFSET, headers, read_reply=read, refuse=refuse, upload_id=upload_id)


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
        "Upload-Checksum": f"sha256 {in_base64(hashlib.sha256(content).digest())}" if content else None,
        "Content-Type": "application/offset+octet-stream",
    }
    read = _upload_reader(upload_id)
    # Not by itself: the sender first asks how much has arrived.
    return _raw(file_paths.UPLOAD_PART, headers, body=content, read_reply=read, repeatable=False, upload_id=upload_id)


def end_upload(me: Identity, upload_id: str) -> Call[None]:
    """Give an upload up; the relay forgets its bytes."""
    headers = {"Tus-Resumable": _TUS}
    return _raw(file_paths.END_UPLOAD, headers, read_reply=lambda reply: None, repeatable=False, upload_id=upload_id)


def _upload_reader(upload_id: str) -> Callable[[Reply], UploadState]:
    def read(reply: Reply) -> UploadState:
        length, version = reply.headers.get("Upload-Length"), reply.headers.get("ClawLink-Version")
        return UploadState(
            upload_id,
            int(reply.headers["Upload-Offset"]),
            None if length is None else int(length),
            None if version is None else int(version),
            reply.headers.get("ClawLink-SHA256"),
            named(reply.headers.get("ClawLink-Readers")),
        )

    return read


# -- common parts ------------------------------------------------------------------------------------------------------


def _raw(
    endpoint: endpoint.Endpoint,
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
