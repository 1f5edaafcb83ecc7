"""Routes of tus 1.0.0: uploads that go on after a cut. A complete upload becomes a shared file.

Core protocol and the extensions creation, creation-defer-length, creation-with-upload, checksum, expiration and
termination; see https://tus.io/protocols/resumable-upload.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import hdrs

from clawlink.domain.agent import Agent
from clawlink.domain.file_write import Write
from clawlink.errors import BadRequest, ClawLinkError, MethodNotAllowed, UnsupportedMediaType, VersionConflict
from clawlink.protocol import file_paths
from clawlink.protocol.headers import OFFSET_TYPE
from clawlink.relay.error_mapping import is_no_thread, refusal
from clawlink.relay.files.upload import CHECKSUMS, Checksum, Upload
from clawlink.relay.relay import Relay
from clawlink.server import http_files
from clawlink.server.request import Request, Routes, asking, key_in_header, origin_of, parameter
from clawlink.server.response import Reply, reply_failure
from clawlink.server.routes.blobs import media_type, ttl, type_of
from clawlink.store.base import Failed

routes = Routes()

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-defer-length,creation-with-upload,checksum,expiration,termination"
_RESUMABLE = {"Tus-Resumable": VERSION}
_SHA256 = re.compile("[0-9a-f]{64}")
_VISIBLE = re.compile(r"[\x20-\x7e]*")
_log = logging.getLogger("clawlink.request")
_OVERRIDE = "X-HTTP-Method-Override"

Serve = Callable[[Relay, Request], Awaitable[Reply]]


def _speaks_tus(serve: Serve) -> Serve:
    """Refuse another version of tus, and say ours in every refusal. The routes say it in their own replies."""

    async def served(relay: Relay, request: Request) -> Reply:
        try:
            spoken = request.headers.get("Tus-Resumable")
            if spoken != VERSION:
                raise VersionConflict(
                    f"this relay speaks tus {VERSION}; send the header Tus-Resumable: {VERSION}",
                    field="Tus-Resumable",
                    current=VERSION,
                )
            return await serve(relay, request)
        except Exception as error:
            if not isinstance(error, ClawLinkError | Failed) and not is_no_thread(error):
                raise
            facts = {"method": request.method, "route": "uploads", **origin_of(request)}
            answer = reply_failure(refusal(relay, error, facts, _log))
            headers = {**(answer.headers or {}), **_RESUMABLE}
            if isinstance(error, VersionConflict) and error.field == "Tus-Resumable":
                headers["Tus-Version"] = VERSION
            return Reply(answer.body, answer.status, answer.content_type, headers)

    return served


@routes.serves(file_paths.UPLOAD_OPTIONS)
async def upload_options(relay: Relay, request: Request) -> Reply:
    """Tell the version, the extensions and the limits of tus here."""
    return Reply(
        b"",
        204,
        "",
        {
            **_RESUMABLE,
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(relay.limits.max_file_bytes),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        },
    )


@routes.serves(file_paths.CREATE_UPLOAD)
@_speaks_tus
async def create_upload(relay: Relay, request: Request) -> Reply:
    """Begin an upload."""
    if "Upload-Concat" in request.headers:
        raise BadRequest(
            "this relay joins no uploads, as tus's extension concatenation would; "
            f"it has {EXTENSIONS}. Send the file as one upload, without Upload-Concat",
            field="Upload-Concat",
        )
    metadata = request.headers.get("Upload-Metadata", "")
    said = _metadata(metadata)
    owner = await asking(relay, request, None, otherwise=said.get("agent_id"), place="agent_id in Upload-Metadata")
    if request.body_exists:
        _require_part(request)
    checksum = _checksum(request.headers)
    key = key_in_header(request)
    upload, new = await relay.uploads.create(owner, _write(said), _length(request), metadata, key=key)
    if not new and upload.offset:
        await relay.uploads.settle(upload)
    elif upload.length == 0 or request.body_exists:
        try:
            await _append(relay, request, upload, owner, 0, None, checksum)
        except BaseException:
            if new and key is None:  # its place is not known
                await relay.uploads.end(upload)
            raise
    location = file_paths.UPLOAD_OFFSET.url(upload_id=upload.id)
    return Reply(b"", 201, "", {hdrs.LOCATION: location, **_progress(upload)})


@routes.serves(file_paths.UPLOAD_OFFSET)
@_speaks_tus
async def upload_offset(relay: Relay, request: Request) -> Reply:
    """Tell the offset of an upload: the bytes that have come."""
    upload = relay.uploads.get(parameter(request, "upload_id"))
    owner = await asking(relay, request, None, otherwise=upload.owner)
    upload.require_owner(owner)
    await relay.uploads.settle(upload)
    # A client takes an upload of full length for done. It would never ask about a refusal, or a cut, at the end.
    await relay.uploads.complete(upload, owner)
    headers = {hdrs.CACHE_CONTROL: "no-store", **_progress(upload)}
    headers |= {"Upload-Defer-Length": "1"} if upload.length is None else {"Upload-Length": str(upload.length)}
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Reply(b"", 200, "", headers)


@routes.serves(file_paths.UPLOAD_PART)
@_speaks_tus
async def upload_part(relay: Relay, request: Request) -> Reply:
    """Take the next part; with the last one the file is written."""
    upload = relay.uploads.get(parameter(request, "upload_id"))
    owner = await asking(relay, request, None, otherwise=upload.owner)
    upload.require_owner(owner)
    _require_part(request)
    offset = http_files.number(request.headers.get("Upload-Offset"), "Upload-Offset")
    if offset is None:
        raise BadRequest("give the offset of the part: the header Upload-Offset", field="Upload-Offset")
    length = http_files.number(request.headers.get("Upload-Length"), "Upload-Length")
    await _append(relay, request, upload, owner, offset, length, _checksum(request.headers))
    return Reply(b"", 204, "", _progress(upload))


def _require_part(request: Request) -> None:
    """Refuse a body that does not say that it is a part. Raises UnsupportedMediaType."""
    if request.content_type != OFFSET_TYPE:
        raise UnsupportedMediaType(f"a part of an upload comes as Content-Type: {OFFSET_TYPE}", field="Content-Type")


def _append(
    relay: Relay,
    request: Request,
    upload: Upload,
    owner: Agent,
    offset: int,
    length: int | None,
    checksum: Checksum | None,
) -> Awaitable[None]:
    """Take the body as a part."""
    size = request.content_length if request.body_exists else 0
    parts = http_files.parts(request)
    return relay.uploads.append(upload, owner, offset, parts, size=size, length=length, checksum=checksum)


@routes.serves(file_paths.END_UPLOAD)
@_speaks_tus
async def end_upload(relay: Relay, request: Request) -> Reply:
    """Give an upload up."""
    upload = relay.uploads.get(parameter(request, "upload_id"))
    upload.require_owner(await asking(relay, request, None, otherwise=upload.owner))
    await relay.uploads.end(upload)
    return Reply(b"", 204, "", _RESUMABLE)


_METHODS: dict[str, Serve] = {"PATCH": upload_part, "HEAD": upload_offset, "DELETE": end_upload}


@routes.serves(file_paths.UPLOAD_OTHERWISE)
async def upload_otherwise(relay: Relay, request: Request) -> Reply:
    """Do the method of the header, for clients that cannot send it."""
    method = request.headers.get(_OVERRIDE, "").upper()
    serve = _METHODS.get(method)
    if serve is None:
        raise MethodNotAllowed(
            f"this address does not take POST, unless the header {_OVERRIDE} says PATCH, HEAD or DELETE",
            field=_OVERRIDE,
            current="DELETE, HEAD, PATCH",
        )
    return await serve(relay, request)


def _progress(upload: Upload) -> dict[str, str]:
    """Return the headers of a reply about an upload: how far it has come, and what it became."""
    headers = {
        **_RESUMABLE,
        "Upload-Offset": str(upload.offset),
        "Upload-Expires": http_files.http_date(int(upload.expires_at)),
    }
    if upload.written is not None:
        headers["ClawLink-Version"] = str(upload.written.revision)
        headers["ClawLink-SHA256"] = upload.written.content.digest
        if upload.readers is not None:
            headers[http_files.READERS] = http_files.ids(upload.readers)
    return headers


def _length(request: Request) -> int | None:
    """Return how long the upload will be; None if that comes later."""
    length = http_files.number(request.headers.get("Upload-Length"), "Upload-Length")
    deferred = request.headers.get("Upload-Defer-Length")
    if deferred not in (None, "1"):
        raise BadRequest(f"Upload-Defer-Length takes 1, not {deferred[:32]!r}", field="Upload-Defer-Length", limit=1)
    if length is not None and deferred is not None:
        raise BadRequest("give one of Upload-Length and Upload-Defer-Length, not both", field="Upload-Defer-Length")
    if length is None and deferred is None:
        raise BadRequest(
            "give the length of the upload: the header Upload-Length, or Upload-Defer-Length: 1",
            field="Upload-Length",
        )
    return length


def _metadata(given: str) -> dict[str, str]:
    """Read Upload-Metadata: pairs of a name and a value in base64, with commas between. Raises BadRequest."""
    if _VISIBLE.fullmatch(given) is None:
        raise BadRequest("Upload-Metadata takes names in ASCII and values in base64", field="Upload-Metadata")
    said = {}
    for pair in given.split(","):
        name, _, value = pair.strip().partition(" ")
        if name:
            try:
                said[name] = http_files.from_base64(value.strip(), "Upload-Metadata").decode()
            except UnicodeDecodeError:
                raise BadRequest(f"{name} in Upload-Metadata is not UTF-8", field="Upload-Metadata") from None
    return said


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "file_type": lambda given: type_of(given, "file_type"),
    "if_version": lambda given: http_files.number(given, "if_version in Upload-Metadata", field="if_version"),
    "ttl": lambda given: ttl(given, "ttl", "ttl in Upload-Metadata"),
    "burn": lambda given: http_files.flag(given, "burn"),
    "force": lambda given: http_files.flag(given, "force"),
    "readers": lambda given: http_files.readers([given], "readers", field="readers"),
}
"""The options of a write in Upload-Metadata, and how each is read."""


def _write(said: Mapping[str, str]) -> Write:
    key = said.get("key") or said.get("filename")
    if not key:
        raise BadRequest("name the file in Upload-Metadata: key, or filename", field="Upload-Metadata")
    digest = said.get("sha256")
    if digest is not None and _SHA256.fullmatch(digest) is None:
        raise BadRequest("sha256 in Upload-Metadata takes 64 hexadecimal digits", field="Upload-Metadata")
    return Write(
        key=key,
        content_type=media_type(said.get("content_type") or said.get("filetype"), "content_type"),
        digest=digest,
        **{name: read(said[name]) for name, read in _OPTIONS.items() if name in said},
    )


def _checksum(headers: Mapping[str, str]) -> Checksum | None:
    given = headers.get("Upload-Checksum")
    if given is None:
        return None
    name, _, value = given.strip().partition(" ")
    if name not in CHECKSUMS:
        raise BadRequest(f"Upload-Checksum takes {' or '.join(CHECKSUMS)}, and its value", field="Upload-Checksum")
    return Checksum(name, http_files.from_base64(value, "Upload-Checksum"))
