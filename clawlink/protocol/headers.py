"""The headers of requests and replies that carry bytes: their names, their types, and those that a request needs.

OpenAPI shows them. ``example`` is a value that works: a client that knows only the document is served.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from clawlink.domain.limits import MAX_FILE_TTL_SECONDS, MAX_IDEMPOTENCY_KEY_LENGTH

OFFSET_TYPE = "application/offset+octet-stream"
_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}


def _words(*words: str) -> str:
    """Return the pattern of these words in upper and lower case, in the dialect of JSON Schema."""
    letters = ("".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in word) for word in words)
    return f"^({'|'.join(letters)})$"


FLAG: dict[str, Any] = {"type": "string", "pattern": _words("", "0", "1", "true", "false")}


class Header(NamedTuple):
    """A header of a request."""

    name: str
    description: str
    schema: dict[str, Any] = _TEXT
    required: bool = False
    example: str | int | None = None

    def needed(self) -> Header:
        """Return the same header where a request must have it."""
        return self._replace(required=True)


AGENT = Header("ClawLink-Agent", "The id of the agent that asks; empty is the same as left out.", example="agent")
EDITOR = Header(
    "ClawLink-Agent",
    "The id of the agent that asks.",
    {"type": "string", "minLength": 1},
    required=True,
    example="agent",
)
UPLOADER = EDITOR._replace(
    description="The id of the agent that uploads; not needed where Upload-Metadata has agent_id."
)
IF_MATCH = Header("If-Match", 'Only if the file is at one of these versions: "3", or a list; *: only if it is there.')
IF_NONE_MATCH = Header("If-None-Match", "Only if the file is at none of these versions; *: only if it is not there.")
RANGE = Header("Range", "One range of bytes.")
IF_RANGE = Header("If-Range", "The range only if the file is at this version, else the whole.")
FORCE = Header("ClawLink-Force", "1: although another agent holds the lock.", FLAG)
KEY = Header(
    "Idempotency-Key",
    "Makes the request repeatable.",
    {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_LENGTH},
)
SHARED = Header("Cache-Control", "max-age=1: an answer that was made for another reader a second ago will do.")
LAST_EVENT_ID = Header("Last-Event-ID", "The last event that was read.")

PUT_BLOB = (
    EDITOR,
    IF_MATCH,
    IF_NONE_MATCH,
    Header("Content-Digest", "sha-256=:BASE64: of the content."),
    Header("Repr-Digest", "The same."),
    Header("Digest", "The same as sha-256=BASE64."),
    Header("ClawLink-File-Type", "The file type of ClawLink 1.0.x, percent-encoded."),
    Header(
        "ClawLink-TTL",
        "Time to live in seconds.",
        {"type": "integer", "minimum": 1, "maximum": int(MAX_FILE_TTL_SECONDS)},
    ),
    Header("ClawLink-Burn-After-Read", "1: for one reader.", FLAG),
    FORCE,
    Header(
        "ClawLink-Readers",
        "The agents that may see the file beside its owner: names or ids, percent-encoded, with commas between. "
        "Left out, they stay as they are. An empty value is for the owner alone, * for everyone.",
    ),
    KEY,
)
GET_BLOB = (AGENT, RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH)
HEAD_BLOB = (AGENT, IF_MATCH, IF_NONE_MATCH)
DELETE_BLOB = (AGENT, IF_MATCH, IF_NONE_MATCH, FORCE)

TUS = Header("Tus-Resumable", "The version of tus.", {"type": "string", "enum": ["1.0.0"]}, True, "1.0.0")
UPLOAD_LENGTH = Header("Upload-Length", "The length of the upload in bytes.", _COUNT, example=3)
_OFFSET = Header("Upload-Offset", "The offset of the part in bytes.", _COUNT, example=0)
_CHECKSUM = Header("Upload-Checksum", "sha1 or sha256 of the part, a blank, and its value in base64.")
CREATE_UPLOAD = (
    TUS,
    UPLOADER,
    UPLOAD_LENGTH.needed()._replace(
        description="The length of the upload in bytes; not needed with Upload-Defer-Length."
    ),
    Header("Upload-Defer-Length", "1, if Upload-Length comes later.", {"type": "string", "enum": ["1"]}),
    Header("Upload-Metadata", "Names and values in base64; key or filename is needed.", _TEXT, True, "key aGkudHh0"),
    _CHECKSUM,
    KEY,
)
UPLOAD = (TUS, AGENT)
UPLOAD_PART = (TUS, AGENT, _OFFSET.needed(), UPLOAD_LENGTH, _CHECKSUM)
UPLOAD_OTHERWISE = (
    TUS,
    AGENT,
    Header(
        "X-HTTP-Method-Override",
        "The method: PATCH, HEAD or DELETE.",
        {"type": "string", "pattern": _words("PATCH", "HEAD", "DELETE")},
        True,
        "HEAD",
    ),
    _OFFSET,
    UPLOAD_LENGTH,
    _CHECKSUM,
)

OF_A_FILE = (
    "ETag",
    "Last-Modified",
    "Repr-Digest",
    "ClawLink-Version",
    "ClawLink-Editor",
    "ClawLink-File-Type",
    "ClawLink-Owner",
    "ClawLink-Readers",
)
OF_AN_UPLOAD = (
    "Tus-Resumable",
    "Upload-Offset",
    "Upload-Expires",
    "ClawLink-Version",
    "ClawLink-SHA256",
    "ClawLink-Readers",
)
