"""The addresses that a portal may connect to, whatever a contact's name resolves to."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# Networks that stand for IPv4 addresses: a translator on the way would reach a private one.
_TRANSLATED = IPv6Network("64:ff9b::/96")
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def networks(text: str) -> tuple[Network, ...]:
    """Read a list of networks with commas, as ``10.0.0.0/8,fd00::/8``. Raises ValueError."""
    return tuple(ip_network(one.strip(), strict=False) for one in text.split(",") if one.strip())


def allowed_with(own_host: str, given: Iterable[Network]) -> tuple[Network, ...]:
    """Return the networks that contacts may be in although they are private.

    A portal whose own address is loopback takes contacts on loopback.
    """
    return (*given, *(_LOOPBACK if is_loopback(own_host) else ()))


def is_loopback(host: str) -> bool:
    """Return True for a host that is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def fault(address: str, allowed: Iterable[Network], *, encrypted: bool) -> str | None:
    """Return the reason why a portal may not connect to an address; None if it may.

    Without TLS only an allowed network is good enough: the shared key would be readable on the way.
    """
    try:
        found = _inner(ip_address(address.partition("%")[0]))
    except ValueError:
        return f"{address} is no address"
    if any(found in network for network in allowed):
        return None
    if not found.is_global or found.is_multicast or found.is_reserved:
        return f"{found} is a private address, and --portal-allow-private does not name it"
    if not encrypted:
        return "http:// would show the key on the way; the address of a portal begins with https://"
    return None


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
