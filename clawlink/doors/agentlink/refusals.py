"""Bringing whatever failed into the tree of errors, for those who are told over a websocket."""

from __future__ import annotations

import logging

from clawlink.errors import ClawLinkError, InternalError, StoreUnavailable
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.agentlink")


def refusal(relay: Relay, failure: Exception) -> ClawLinkError:
    """Return what the peer is told, and tell the log what an operator should know of it."""
    relay.stats.refused += 1
    if isinstance(failure, ClawLinkError):
        if failure.status in (401, 403):
            _log.warning("refused", extra={"code": failure.code})
        return failure
    if isinstance(failure, Failed):
        _log.error("the store failed", extra={"reason": str(failure)})
        return StoreUnavailable("the store does not answer; try again", retry_after=1)
    _log.error("unexpected failure", exc_info=failure)
    return InternalError("the relay failed at this frame; its log says more")
