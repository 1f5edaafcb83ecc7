"""The way to a relay: direct, or through a proxy that the environment names. Both clients use it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from clawlink.config import LOOPBACK_HOSTS, from_environment

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

# Names that stand for a machine of one's own network.
_OWN_NETWORK = (".local", ".localhost", ".home.arpa", ".internal", ".lan")
_SCHEMES = ("http", "https")


class Proxy(NamedTuple):
    """A proxy, and the variable that names it."""

    url: str
    variable: str

    @property
    def place(self) -> tuple[str, int]:
        """The host and the port that it listens at."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def shown(self) -> str:
        """The proxy's address without name and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]} ({self.variable})"

    @property
    def usable(self) -> bool:
        """Return True if the clients can speak to it."""
        return urlsplit(self.url).scheme in _SCHEMES


def on_this_machine(host: str) -> bool:
    """Return True if the host is this machine under an address that only it can reach."""
    host = host.lower().rstrip(".")
    if host in LOOPBACK_HOSTS or host.endswith(".localhost"):
        return True
    if not _like_an_address(host):
        return False
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def nearby(host: str) -> bool:
    """Return True if the host is this machine, or on a network of its own: no proxy is meant for it."""
    host = host.lower().rstrip(".")
    if on_this_machine(host):
        return True
    address = _address(host) if _like_an_address(host) else None
    if address is not None:
        return not address.is_global
    own = socket.gethostname().lower().rstrip(".")
    return "." not in host or host.endswith(_OWN_NETWORK) or host in (own, own.partition(".")[0])


def proxy_for(relay: str, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Return the proxy for the relay. CLAWLINK_PROXY is for any relay, others are for far ones."""
    told = from_environment("--proxy", environ)
    if told is not None:
        return Proxy(_with_scheme(told), "CLAWLINK_PROXY")
    try:
        parts = urlsplit(relay)
        host = parts.hostname or ""
    except ValueError:
        return None
    if not host or nearby(host):
        return None
    from requests.utils import get_environ_proxies, select_proxy  # 30 ms that most agents never need

    url = select_proxy(relay, get_environ_proxies(relay))
    return None if not url else Proxy(_with_scheme(url), _named(url, parts.scheme, environ))


def _named(url: str, scheme: str, environ: Mapping[str, str]) -> str:
    names = [name for low in (f"{scheme}_proxy", "all_proxy") for name in (low, low.upper())]
    return next((name for name in names if environ.get(name) == url), "the system's settings")


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _like_an_address(host: str) -> bool:
    """Return True if the host may be an address. Looking closer takes a module that most commands never need."""
    return ":" in host or host[-1:].isdigit() or host.startswith("0x")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import IPv6Address, ip_address

    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return ip_address(socket.inet_aton(host))  # 127.1 and the like, as the system itself reads them
        except OSError:
            return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
