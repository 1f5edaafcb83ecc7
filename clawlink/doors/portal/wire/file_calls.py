"""The routes of files, and their bodies."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from msgspec import Meta, Struct

from clawlink.doors.portal.rules.file_parts import PART_BYTES
from clawlink.doors.portal.rules.texts import MAX_KEY_LENGTH
from clawlink.doors.portal.wire.calls import make_call
from clawlink.protocol.endpoint import Endpoint

Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)]
TaskId = Annotated[str, Meta(min_length=1, max_length=64)]


class Initiate(Struct, frozen=True):
    """The beginning of a file from a contact. The last three fields are those of ClawLink.

    ``task_id`` is the task that it goes with, at the portal that delegated it.
    """

    api_key: str
    filename: str
    size: int
    md5: str | None = None
    chunks_total: int | None = None
    to_portal: str | None = None
    chunk_size: int = PART_BYTES
    sha256: str | None = None
    idempotency_key: Key | None = None
    task_id: TaskId | None = None


class Part(Struct, frozen=True):
    """A part of a file, but for its bytes, which are cut out of the JSON."""

    api_key: str | None = None
    chunk_md5: str | None = None
    data: str | None = None


class BeginFile(Struct, frozen=True):
    """A file for a contact, which is named by number, name or address, or for the answer to its ``task``.

    With ``attach`` it waits for a task that is given to the contact with it. Without sums the portal makes its own: a
    browser would have to hold all of the file for one.
    """

    filename: str
    size: int
    md5: str | None = None
    sha256: str | None = None
    to: str | int | None = None
    chunk_size: int = PART_BYTES
    idempotency_key: Key | None = None
    task: TaskId | None = None
    attach: bool = False


FILE_INITIATE = make_call("file_initiate", "POST", "/api/file/initiate", "Begin a file of a contact.", Initiate)
FILE_CHUNK = make_call("file_chunk", "POST", "/api/file/chunk/{file_id}/{chunk_index}", "Take a part as base64.")
FILE_STATUS = make_call("file_status", "GET", "/api/file/status/{file_id}", "Tell which parts of a file are there.")
FILE_DOWNLOAD = make_call("file_download", "GET", "/api/file/download/{file_id}", "Read a file.")
FILE_PART = replace(
    make_call("file_part", "PUT", "/api/portal/files/{file_id}/{chunk_index}", "Take a part as bytes."),
    takes_bytes=True,
)
FILE_SEND = make_call("file_send", "POST", "/api/portal/files", "Begin a file for a contact.", BeginFile)
FILE_LIST = make_call("file_list", "GET", "/api/portal/files", "List files.")
FILE_REMOVE = make_call("file_remove", "DELETE", "/api/portal/files/{file_id}", "Delete a file.")

FILE_CALLS: tuple[Endpoint, ...] = (
    FILE_INITIATE,
    FILE_CHUNK,
    FILE_STATUS,
    FILE_DOWNLOAD,
    FILE_PART,
    FILE_SEND,
    FILE_LIST,
    FILE_REMOVE,
)
