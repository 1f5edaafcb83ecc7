"""The addresses that a webhook may have, so that no client makes the relay reach into its own network."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from clawlink.doors.a2a.wire.failures import A2AError

FIELD = "url"
_OWN_NAMES = ("localhost", "localhost.localdomain")
_OWN_ENDS = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa")


def require_url(url: str, *, private: bool) -> None:
    """Refuse an address of a webhook that can be told wrong without a look-up. Raises A2AError.

    ``private`` allows addresses of this machine and of private networks.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _wrong("it is no URL") from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _wrong("it has characters that belong percent-encoded")
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong("it begins with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise _wrong("it has no user name and no password; use authentication or token")
    if port == 0:
        raise _wrong("its port is 1 to 65535")
    if private:
        return
    name = host.rstrip(".").lower()
    literal = _address(name)
    if name in _OWN_NAMES or name.endswith(_OWN_ENDS) or (literal is None and _looks_like_a_number(name)):
        raise _wrong("it leads into a private network")
    if literal is not None and not is_public(name):
        raise _wrong("it leads into a private network")


def is_public(address: str) -> bool:
    """Return True if an IP address is of the public internet, also if it carries another address within it."""
    found = _address(address)
    if found is None or found.is_multicast or not found.is_global:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _NAT64:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        return all(is_public(str(one)) for one in inner if one is not None)
    return True


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _looks_like_a_number(name: str) -> bool:
    """Return True for an old form of an IPv4 address, such as 127.1 or 0x7f000001."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _wrong(why: str) -> A2AError:
    return A2AError("INVALID_PARAMS", f"the url of a webhook is refused: {why}", field=FIELD)
