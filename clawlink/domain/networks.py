"""Networks that a relay may connect to on behalf of others: the public internet, and those that its operator names."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
# A translator on the way turns the last 32 bits of these into an IPv4 address (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")

# For protocols, documentation and sites. ``ipaddress`` calls them global, some of them on some versions of Python only.
_NOT_PUBLIC: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),
    IPv6Network("3fff::/20"),
    IPv6Network("fec0::/10"),
)


def networks(text: str) -> tuple[Network, ...]:
    """Read a list of networks with commas, as ``10.0.0.0/8,fd00::/8``. Raises ValueError."""
    return tuple(ip_network(one.strip(), strict=False) for one in text.split(",") if one.strip())


def address(text: str) -> Address | None:
    """Return an IP address, also one with a zone; None for any other text."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return True for a host that is this machine."""
    found = address(host)
    return host == "localhost" or host.endswith(".localhost") if found is None else found.is_loopback


def is_public(found: Address) -> bool:
    """Return True if an address is of the public internet. An address that carries others is so if they all are."""
    inner = carried(found)
    if inner:
        return all(map(is_public, inner))
    if any(found in network for network in _NOT_PUBLIC):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def is_in(found: Address, allowed: Iterable[Network]) -> bool:
    """Return True if an address, or the address that it carries, is in one of these networks."""
    meant = carried(found) or (found,)
    return any(one in network for network in allowed for one in meant)


def carried(found: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a packet to an IPv6 address may reach in its place."""
    if isinstance(found, IPv4Address):
        return ()
    if found in _TRANSLATED:
        return (IPv4Address(int(found) & 0xFFFFFFFF),)
    inner = (found.ipv4_mapped, found.sixtofour, *(found.teredo or ()))
    return tuple(one for one in inner if one is not None)
