"""The addresses that a portal may connect to, whatever a contact's name resolves to."""

from __future__ import annotations

from collections.abc import Iterable

from clawlink.domain.networks import LOOPBACK, Network, is_in, is_loopback, is_public
from clawlink.domain.networks import address as read


def allowed_with(own_host: str, given: Iterable[Network]) -> tuple[Network, ...]:
    """Return the networks that contacts may be in although they are private.

    A portal whose own address is loopback takes contacts on loopback.
    """
    return (*given, *(LOOPBACK if is_loopback(own_host) else ()))


def fault(address: str, allowed: Iterable[Network], *, encrypted: bool) -> str | None:
    """Return the reason why a portal may not connect to an address; None if it may.

    Without TLS only an allowed network is good enough: the shared key would be readable on the way.
    """
    found = read(address)
    if found is None:
        return f"{address} is no address"
    if is_in(found, allowed):
        return None
    if not is_public(found):
        return f"{found} is a private address, and --portal-allow-private does not name it"
    if not encrypted:
        return "http:// would show the key on the way; the address of a portal begins with https://"
    return None
