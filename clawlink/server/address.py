"""Tell the address that a request comes from, and whether it comes from this machine without a proxy.

Limits by address, and the operator's right, depend on both. A header is believed only from a declared proxy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from aiohttp import hdrs
from multidict import CIMultiDictProxy

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Headers: TypeAlias = "CIMultiDictProxy[str]"

_BLOCK_BITS = 64
_LONGEST = 128
_FORWARDED_FOR = hdrs.X_FORWARDED_FOR
_log = logging.getLogger("clawlink.server")


class Addresses:
    """Tells the addresses of requests to one relay. ``trusted`` are the networks of its declared proxies."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)
        self.undeclared = False
        """True once a request came through a proxy that nobody declared."""

    def of(self, peer: str | None, headers: Headers) -> str | None:
        """Return the client's address; None if the peer is a proxy that does not tell it, so that no limit holds."""
        address = parse(peer or "")
        if address is None:
            return None
        if self.trusts(peer):
            for text in _from_the_right(headers.getall(_FORWARDED_FOR, ())):
                told = parse(text)
                if told is None:
                    return None
                address = told
                if not self._is_trusted(told):
                    break
        elif address.is_loopback and came_by_proxy(headers):
            self._note_undeclared()
            return None
        return str(address)

    def trusts(self, peer: str | None) -> bool:
        """Return True if the peer is a declared proxy."""
        address = parse(peer or "") if self._trusted else None
        return address is not None and self._is_trusted(address)

    def is_local(self, peer: str | None, headers: Headers) -> bool:
        """Return True if peer and ``Host`` are loopback and no proxy left a header."""
        address = parse(peer or "")
        return (
            address is not None
            and address.is_loopback
            and _is_loopback_host(headers.getall(hdrs.HOST, ()))
            and not came_by_proxy(headers)
        )

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _note_undeclared(self) -> None:
        if not self.undeclared:
            self.undeclared = True
            _log.warning(
                "requests come through a proxy that was not declared, so no limit by address holds for them; "
                "start the relay with --trust-proxy 127.0.0.1, and have the proxy send X-Forwarded-For"
            )


def came_by_proxy(headers: Headers) -> bool:
    """Return True if the request has a header of a proxy."""
    return any(name.lower() in ("forwarded", "via") or name[:12].lower() == "x-forwarded-" for name in headers)


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets."""
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return host


def network(text: str) -> Network:
    """Read ``10.0.0.0/8``, or a single address. Raises ValueError with a sentence."""
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"an address or a network such as 10.0.0.0/8 is needed, not {text!r}") from None


def block_of(address: str) -> str:
    """Return the key of limits by address: the address, or the /64 of a public IPv6 address.

    A machine with a public address owns its whole /64. In private and link-local networks all machines share a /64.
    """
    parsed = parse(address)
    if isinstance(parsed, IPv6Address) and parsed.is_global:
        return str(IPv6Network((int(parsed), _BLOCK_BITS), strict=False))
    return address


def parse(text: str) -> Address | None:
    """Read an address as a peer or a proxy writes it, with port, brackets or zone; None if it is none.

    An IPv4 address inside an IPv6 address is the IPv4 address.
    """
    return _parse(text.strip()) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)
def _parse(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _from_the_right(values: Iterable[str]) -> Iterator[str]:
    """Give the entries of X-Forwarded-For, the nearest proxy's first."""
    return reversed(",".join(values).split(",")) if values else iter(())


def _is_loopback_host(values: Iterable[str]) -> bool:
    hosts = list(values)
    if len(hosts) != 1:
        return False
    name = host_name(hosts[0])
    address = parse(name)
    return name == "localhost" or (address is not None and address.is_loopback)
