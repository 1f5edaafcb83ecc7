"""Finding the identity of a relay that is at another address now."""

from __future__ import annotations

from collections.abc import Callable

from clawlink.client.address import address
from clawlink.client.identity import Identities, Saved
from clawlink.client.proof import is_same_relay
from clawlink.client.sync import Client
from clawlink.domain.agent import fold
from clawlink.errors import ClawLinkError


def kept_elsewhere(
    identities: Identities, name: str, relay: str, *, ca: str | None, timeout: float, warn: Callable[[str], None]
) -> Saved | None:
    """Return the kept identity of this name for the same relay at another address; None if there is none.

    The kept key counts only after the relay has proved that it is the same. Neither key nor token is sent before.
    ``warn`` is called with a sentence if the relay claims to be the same, and cannot prove it. This call blocks.
    """
    kept = [
        saved
        for saved in identities.matching(named=name, relay=None)
        if saved.relay_id and saved.agent_key and saved.relay_key and fold(saved.name) == fold(name)
    ]
    if not kept:
        return None
    try:
        with Client(relay, timeout=timeout, ca=ca) as stranger:
            relay_id = stranger.health().relay_id
        for saved in kept:
            if saved.relay_id != relay_id or saved.agent_key is None or saved.relay_key is None:
                continue
            if is_same_relay(
                relay, agent_key=saved.agent_key, relay_key=saved.relay_key, ca=ca or saved.ca, timeout=timeout
            ):
                return saved
            warn(
                f"{relay} says that it is the relay of {saved.name!r} at {saved.relay}, and cannot prove it: "
                "the kept key is not sent there; use the old address, or https with a name that the relay allows"
            )
    except ClawLinkError:  # the register shows the fault there
        pass
    return None


def forget_moved(identities: Identities, before: Saved | None, relay: str) -> None:
    """Forget the identity of the old address, once that of the new one is kept."""
    if before is not None and address(before.relay) != address(relay):
        identities.forget(before)
