"""Bringing whatever failed into the tree of errors, for those who are told over a websocket."""

from __future__ import annotations

import logging

from clawlink.errors import ClawLinkError, InternalError, StoreUnavailable
from clawlink.relay.relay import Relay
from clawlink.store.base import Failed

_log = logging.getLogger("clawlink.agentlink")


_SHOWN = 100


def refusal(relay: Relay, failure: Exception, **about: str | None) -> ClawLinkError:
    """Return what the peer is told, and tell the log what an operator should know of it.

    ``about`` says whom it was refused, as the peer says itself: a stranger's words, so they are cut and cleaned.
    """
    relay.stats.refused += 1
    if isinstance(failure, ClawLinkError):
        if failure.status in (401, 403):
            _log.warning("refused", extra={"code": failure.code, **_cleaned(about)})
        return failure
    if isinstance(failure, Failed):
        _log.error("the store failed", extra={"reason": str(failure)})
        return StoreUnavailable("the store does not answer; try again", retry_after=1)
    _log.error("unexpected failure", exc_info=failure)
    return InternalError("the relay failed at this frame; its log says more")


def _cleaned(about: dict[str, str | None]) -> dict[str, str]:
    return {
        name: "".join(c if c.isprintable() else "\ufffd" for c in value[:_SHOWN])
        for name, value in about.items()
        if value is not None
    }
