"""Every error that ClawLink raises, in one tree, used by the relay and by its clients alike.

    ClawLinkError
    ├── Refused                   the relay said no; the request changed nothing
    │   ├── BadRequest            400 bad_request       a field is missing, of the wrong type, or out of range
    │   │   ├── BadJson           400 bad_json          the body is not JSON
    │   │   └── DigestMismatch    400 digest_mismatch   what arrived is not what its digest says
    │   ├── NotAuthenticated      401 not_authenticated the relay's token is missing or wrong
    │   ├── NotAllowed            403 not_allowed       the caller may not do this, or not as this agent
    │   ├── NotFound              404
    │   │   ├── UnknownAgent          unknown_agent
    │   │   ├── UnknownTask           unknown_task
    │   │   ├── UnknownMessage        unknown_message
    │   │   ├── UnknownFile           unknown_file
    │   │   ├── UnknownUpload         unknown_upload
    │   │   ├── UnknownEvent          unknown_event
    │   │   └── UnknownRoute          unknown_route
    │   ├── MethodNotAllowed      405 method_not_allowed
    │   ├── BodyTimeout           408 body_timeout      the body did not arrive in time
    │   ├── Conflicted            409
    │   │   ├── WrongState            wrong_state       the record has moved on; `current` says where it is
    │   │   ├── LeaseLost             lease_lost        another consumer holds the message now
    │   │   ├── NameTaken             name_taken
    │   │   ├── AmbiguousName         ambiguous_name
    │   │   ├── KeyReused             key_reused        one idempotency key, two different requests
    │   │   ├── BeingRead             being_read        someone else is reading a file that only one may read
    │   │   └── OffsetConflict        offset_conflict   an upload goes on elsewhere; `current` says where
    │   ├── VersionConflict       412 version_conflict  someone else wrote this file since
    │   ├── TooLarge              413 too_large
    │   ├── UnsupportedMediaType  415 unsupported_media_type
    │   ├── RangeNotSatisfiable   416 range_not_satisfiable the file ends before what was asked for
    │   ├── FileLocked            423 file_locked       another agent holds the file's lock
    │   ├── OverLimit             429
    │   │   ├── MailboxFull           mailbox_full
    │   │   ├── RelayFull             relay_full        the relay as a whole holds all it may
    │   │   ├── RateLimited           rate_limited
    │   │   └── LoopStopped           loop_stopped      agents go in circles, or one chain of work is too long
    │   ├── ChecksumMismatch      460 checksum_mismatch a part of an upload did not arrive as it was sent
    │   └── StorageFull           507 storage_full      all files together reached their limit
    ├── Unavailable               503, and worth another try
    │   ├── Draining                  draining          the relay is shutting down
    │   ├── Stopped                   stopped           the operator has stopped all work
    │   ├── NotActive                 not_active        another relay of the mesh does this now, or none yet
    │   └── StoreUnavailable          store_unavailable
    ├── InternalError             500 internal_error    a defect of the relay; its log says more
    ├── RelayUnreachable          raised by clients     nobody answered at that address, or not in time
    └── NotARelay                 raised by clients     something answered, but it is no ClawLink relay

``code`` is stable and meant for programs; the message is one sentence for people that names the next step. ``status``
is a hint for doors that speak HTTP; this module knows nothing of HTTP otherwise. ``retryable`` is True if the failure
passes by itself within seconds: ClawLink's clients then send the request again. If a person or a peer must act first,
``retryable`` is False. A full mailbox, for example, needs its reader first, and its ``retry_after`` tells when to look
again.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ClawLinkError(Exception):
    """The base of all errors. The message names the fault and the next step.

    Besides the sentence an error may have the offending ``field``, the ``limit`` and the ``actual`` value. It may also
    have ``retry_after`` in seconds, and the ``current`` state of the request's subject.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: float | None = None,
        actual: float | None = None,
        retry_after: float | None = None,
        current: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit
        self.actual = actual
        self.retry_after = retry_after
        self.current = current


class Refused(ClawLinkError):
    """The relay said no, and the request changed nothing."""

    code = "refused"
    status = 400


class BadRequest(Refused):
    """A field is missing, of the wrong type, or out of range; ``field`` names it."""

    code = "bad_request"


class BadJson(BadRequest):
    """The body is not JSON in UTF-8."""

    code = "bad_json"


class DigestMismatch(BadRequest):
    """The content does not have the digest of the request; ``current`` is the digest of the content."""

    code = "digest_mismatch"


class NotAuthenticated(Refused):
    """The relay asks for a token, and this request has none or a wrong one."""

    code = "not_authenticated"
    status = 401


class NotAllowed(Refused):
    """The caller may not do this, or may not act as this agent."""

    code = "not_allowed"
    status = 403


class NotFound(Refused):
    """The thing that the request names is not here."""

    code = "not_found"
    status = 404


class UnknownAgent(NotFound):
    """No agent of that id or name is registered."""

    code = "unknown_agent"


class UnknownTask(NotFound):
    """No task with that id is known, or it was forgotten."""

    code = "unknown_task"


class UnknownMessage(NotFound):
    """No message with that id is known to this agent, or it was forgotten."""

    code = "unknown_message"


class UnknownFile(NotFound):
    """No shared file has that key."""

    code = "unknown_file"


class UnknownUpload(NotFound):
    """No upload with that id is under way, or it was forgotten."""

    code = "unknown_upload"


class UnknownEvent(NotFound):
    """No event of AgentRelay has that id, or its contents are gone."""

    code = "unknown_event"


class UnknownRoute(NotFound):
    """The relay has no such address."""

    code = "unknown_route"


class MethodNotAllowed(Refused):
    """The address exists, but not for this method."""

    code = "method_not_allowed"
    status = 405


class BodyTimeout(Refused):
    """The request's body did not arrive in time."""

    code = "body_timeout"
    status = 408
    retryable = True


class Conflicted(Refused):
    """The request does not fit the ``current`` state."""

    code = "conflict"
    status = 409


class WrongState(Conflicted):
    """The record has moved on."""

    code = "wrong_state"


class LeaseLost(Conflicted):
    """The receipt is not the current one: the lease lapsed, or the message was given back or settled."""

    code = "lease_lost"


class NameTaken(Conflicted):
    """Another agent holds that name or id."""

    code = "name_taken"


class AmbiguousName(Conflicted):
    """Several agents have that name; ``current`` lists them, so that one can be named by id."""

    code = "ambiguous_name"


class KeyReused(Conflicted):
    """The idempotency key belongs to an earlier and different request."""

    code = "key_reused"


class BeingRead(Conflicted):
    """The file is for one reader, and another reader reads it; if that read breaks off, the file can be read again."""

    code = "being_read"


class OffsetConflict(Conflicted):
    """The part does not follow the last byte of the upload; ``current`` is the upload's offset."""

    code = "offset_conflict"


class VersionConflict(Refused):
    """The file is not at the version the writer expected; ``current`` is the version it is at."""

    code = "version_conflict"
    status = 412


class TooLarge(Refused):
    """The body or the file is larger than the relay takes."""

    code = "too_large"
    status = 413


class UnsupportedMediaType(Refused):
    """The body is compressed, or not of the type that this route takes."""

    code = "unsupported_media_type"
    status = 415


class RangeNotSatisfiable(Refused):
    """The file ends before the range that was asked for; ``current`` is its size in bytes."""

    code = "range_not_satisfiable"
    status = 416


class FileLocked(Refused):
    """Another agent holds the lock of this file; ``current`` has its holder, end and note."""

    code = "file_locked"
    status = 423


class ChecksumMismatch(Refused):
    """A part of an upload does not have its checksum, and nothing of it was kept. The status is that of tus."""

    code = "checksum_mismatch"
    status = 460


class OverLimit(Refused):
    """A limit is reached for now; ``retry_after`` says when to come back."""

    code = "over_limit"
    status = 429


class MailboxFull(OverLimit):
    """The recipient's mailbox holds as much as it may."""

    code = "mailbox_full"


class RelayFull(OverLimit):
    """The relay as a whole holds as much as it may."""

    code = "relay_full"


class RateLimited(OverLimit):
    """The sender writes faster than it may."""

    code = "rate_limited"
    retryable = True


class LoopStopped(OverLimit):
    """Agents answer each other in circles, or one piece of work leads to another without an end."""

    code = "loop_stopped"


class StorageFull(Refused):
    """All shared files together reached their limit."""

    code = "storage_full"
    status = 507


class Unavailable(ClawLinkError):
    """The relay cannot answer now, but may soon."""

    code = "unavailable"
    status = 503
    retryable = True


class Draining(Unavailable):
    """The relay is shutting down and takes no new work."""

    code = "draining"


class Stopped(Unavailable):
    """The operator has stopped all work. New work and claims go on once the operator has resumed it."""

    code = "stopped"
    retryable = False


class NotActive(Unavailable):
    """Another relay of the mesh does this now, or none yet. A proxy goes on to the next relay."""

    code = "not_active"


class StoreUnavailable(Unavailable):
    """The store does not answer, or changes faster than the relay can follow."""

    code = "store_unavailable"


class InternalError(ClawLinkError):
    """The relay has a defect; nothing is known about whether the request took effect."""

    code = "internal_error"
    status = 500
    retryable = True


class RelayUnreachable(ClawLinkError):
    """No relay answered at the address, or not in time. Raised by clients.

    ``unsent`` is True if no attempt of the request got a connection: then the request changed nothing.
    """

    code = "relay_unreachable"
    status = 0
    retryable = True
    unsent = False


class NotARelay(ClawLinkError):
    """Something answered, but it does not speak ClawLink. Raised by clients."""

    code = "not_a_relay"
    status = 0


def all_errors(root: type[ClawLinkError] = ClawLinkError) -> list[type[ClawLinkError]]:
    """List the tree from ``root`` down, parents before children."""
    found = [root]
    for child in root.__subclasses__():
        found.extend(all_errors(child))
    return found


BY_CODE: dict[str, type[ClawLinkError]] = {error.code: error for error in all_errors()}
