"""The exit codes of the command line, and the errors that lead to them."""

from __future__ import annotations

from enum import IntEnum

from clawlink import errors
from clawlink.errors import ClawLinkError


class Exit(IntEnum):
    """How a command ended. Scripts may rely on these numbers."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNAUTHORISED = 4
    NOT_FOUND = 5
    PENDING = 6
    CONFLICT = 7
    OVER_LIMIT = 8
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: dict[Exit, str] = {
    Exit.DONE: "done",
    Exit.FAILED: "refused or failed, or a task failed",
    Exit.USAGE: "the command is wrong or ambiguous",
    Exit.UNREACHABLE: "no relay answers, or all work is stopped",
    Exit.UNAUTHORISED: "not allowed: token or key missing or wrong, or no right",
    Exit.NOT_FOUND: "no such agent, task, message, file or identity",
    Exit.PENDING: "nothing yet: still pending",
    Exit.CONFLICT: "a conflict: another agent was first",
    Exit.OVER_LIMIT: "over a limit of the relay",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "ended by SIGTERM",
}


class UsageError(ClawLinkError):
    """The command is wrong; the message says how to write it."""

    code = "usage"


class LocalFailure(ClawLinkError):
    """This machine refuses a step; the message names the path and the fix."""

    code = "local_failure"


_BY_CODE = {
    "usage": Exit.USAGE,
    "several_identities": Exit.USAGE,
    "several_relays": Exit.USAGE,
    "no_identity": Exit.NOT_FOUND,
    "still_pending": Exit.PENDING,
}

_BY_KIND: tuple[tuple[type[ClawLinkError], Exit], ...] = (
    (errors.RelayUnreachable, Exit.UNREACHABLE),
    (errors.NotARelay, Exit.UNREACHABLE),
    (errors.Unavailable, Exit.UNREACHABLE),
    (errors.NotAuthenticated, Exit.UNAUTHORISED),
    (errors.NotAllowed, Exit.UNAUTHORISED),
    (errors.NotFound, Exit.NOT_FOUND),
    (errors.Conflicted, Exit.CONFLICT),
    (errors.VersionConflict, Exit.CONFLICT),
    (errors.FileLocked, Exit.CONFLICT),
    (errors.TooLarge, Exit.OVER_LIMIT),
    (errors.OverLimit, Exit.OVER_LIMIT),
    (errors.StorageFull, Exit.OVER_LIMIT),
)


def exit_of(error: ClawLinkError) -> Exit:
    """Return the exit code for an error."""
    known = _BY_CODE.get(error.code)
    if known is not None:
        return known
    return next((code for kind, code in _BY_KIND if isinstance(error, kind)), Exit.FAILED)
