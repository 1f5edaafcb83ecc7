"""The event stream of the operator, followed through whatever happens to the connection."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from clawlink.domain.backoff import backoff, spread
from clawlink.errors import ClawLinkError, NotARelay, OverLimit, RelayUnreachable, Unavailable
from clawlink.protocol import paths
from clawlink.protocol.admin import Overview

if TYPE_CHECKING:
    from clawlink.client.sync import Client

# The relay sends a comment every 15 seconds.
SILENCE_SECONDS = 40.0
_FIRST_PAUSE_SECONDS = 0.5
_MOST_PAUSE_SECONDS = 10.0
_read = msgspec.json.Decoder(Overview).decode


def overviews(
    client: Client,
    *,
    on_away: Callable[[ClawLinkError], object] = lambda error: None,
    rest: Callable[[float], object] = time.sleep,
) -> Iterator[Overview]:
    """Give each overview of the relay as it comes; after a cut, connect again.

    ``on_away`` hears why, each time. Once an overview has come, a proxy may answer in the place of an absent relay.
    Raises the refusals of the relay: NotAuthenticated, NotAllowed; and NotARelay if none was ever there.
    """
    failed = 0
    reached = False
    while True:
        try:
            for overview in _events(client):
                failed = 0
                reached = True
                yield overview
            error: ClawLinkError = RelayUnreachable("the relay has ended the event stream")
        except (RelayUnreachable, Unavailable, OverLimit) as away:
            error = away
        except NotARelay as instead:
            if not reached:
                raise
            error = instead
        on_away(error)
        failed += 1
        pause = spread(backoff(failed, first=_FIRST_PAUSE_SECONDS, most=_MOST_PAUSE_SECONDS), random.random())
        rest(max(pause, error.retry_after or 0.0))


def _events(client: Client) -> Iterator[Overview]:
    data: list[str] = []
    for line in client.lines(paths.LIVE, silence=SILENCE_SECONDS):
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            try:
                yield _read("\n".join(data))
            except msgspec.MsgspecError as fault:
                raise RelayUnreachable(f"an event of the relay cannot be read: {fault}") from None
            data = []
