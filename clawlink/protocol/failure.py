"""Errors on the wire: an exception to its body, and back to the same class."""

from __future__ import annotations

import math

import msgspec

from clawlink import errors
from clawlink.protocol.replies import Failure

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Failure)

_BY_STATUS = {
    400: errors.BadRequest,
    401: errors.NotAuthenticated,
    403: errors.NotAllowed,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.BodyTimeout,
    409: errors.Conflicted,
    412: errors.VersionConflict,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
    416: errors.RangeNotSatisfiable,
    423: errors.FileLocked,
    429: errors.OverLimit,
    500: errors.InternalError,
    503: errors.Unavailable,
    507: errors.StorageFull,
}

_PASSES = "see which clients the proxy lets pass"
_BEHIND = "see that the relay runs, and that the proxy reaches it"
# The next step after the answer of a proxy, by its status.
_FOREIGN = {
    401: _PASSES,
    403: _PASSES,
    407: _PASSES,
    413: "let the proxy take larger bodies (nginx: client_max_body_size)",
    429: "wait, or let the proxy take more requests",
    502: _BEHIND,
    503: _BEHIND,
    504: _BEHIND,
}


def to_body(error: errors.ClawLinkError) -> bytes:
    """Encode the error as the wire's JSON object."""
    return _encoder.encode(
        Failure(
            error=error.message,
            code=error.code,
            field=error.field,
            limit=error.limit,
            actual=error.actual,
            retry_after=error.retry_after,
            current=error.current,
        )
    )


def to_headers(error: errors.ClawLinkError) -> dict[str, str]:
    """Return the headers that go with the error: Retry-After in whole seconds, rounded up, Allow, Content-Range."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.MethodNotAllowed):
        headers["Allow"] = str(error.current or "")
    if isinstance(error, errors.RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.current}"
    return headers


def next_step(status: int) -> str | None:
    """Return the next step after an answer of this status that comes from a proxy; None if nothing is known of it."""
    return _FOREIGN.get(status)


def from_reply(status: int, body: bytes) -> errors.ClawLinkError:
    """Rebuild the exception that a reply of ``status`` tells of; NotARelay if the body is not an error of a relay.

    Its ``field`` is ``body`` if a proxy found the body too large.
    """
    try:
        failure = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return errors.NotARelay(
            f"the address answered with HTTP {status} and no ClawLink error: no relay, or a proxy before it; "
            f"{next_step(status) or 'check the address'}",
            field="body" if status == 413 else None,
        )
    kind = errors.BY_CODE.get(failure.code)
    if kind in (None, errors.ClawLinkError) or kind.status != status:
        kind = _BY_STATUS.get(status, errors.InternalError)
    return kind(
        failure.error,
        field=failure.field,
        limit=failure.limit,
        actual=failure.actual,
        retry_after=failure.retry_after,
        current=failure.current,
    )
