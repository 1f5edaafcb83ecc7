"""The mapping of failures to ClawLink's errors, with the log lines for the operator."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from clawlink.errors import ClawLinkError, InternalError, NotActive, StorageFull, StoreUnavailable, Unavailable
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed, Fenced, Full

NO_THREAD = (
    "the system gives the relay no thread; raise the limit of its account (ulimit -u, TasksMax, or pids of its "
    "container)"
)
"""The operator reads this in the log if ``is_no_thread``."""


def is_no_thread(failure: Exception) -> bool:
    """Return True if the system refused a thread. Python has no kind of its own for this error."""
    return isinstance(failure, RuntimeError) and "new thread" in str(failure)


def refusal(relay: Relay, failure: Exception, facts: Mapping[str, str], log: logging.Logger) -> ClawLinkError:
    """Return the error for the peer. ``facts`` are the log's fields about the place; they have no keys and tokens."""
    relay.stats.refused += 1
    if isinstance(failure, ClawLinkError):
        if failure.status in (401, 403):
            relay.refusal_log.refused(failure.code, facts, log)
        return failure
    if isinstance(failure, Full):
        relay.refusal_log.disk(str(failure))
        return StorageFull("the disk of the relay is full; make room on it, or delete files", retry_after=30.0)
    if isinstance(failure, Fenced):
        return NotActive("another relay of the mesh does this now; ask again in a moment", retry_after=1)
    if isinstance(failure, Failed):
        log.error("the store failed", extra={**facts, "reason": str(failure)})
        return StoreUnavailable("the store does not answer; try again", retry_after=1)
    if is_no_thread(failure):
        log.error(NO_THREAD, extra=facts)
        return Unavailable("the system gives the relay no thread for this; try again later", retry_after=5.0)
    log.error("unexpected failure", extra=facts, exc_info=failure)
    return InternalError("the relay failed at this request; its log says more")
