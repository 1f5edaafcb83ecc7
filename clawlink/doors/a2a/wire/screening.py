"""The addresses that a webhook may have, so that no client makes the relay reach into its own network."""

from __future__ import annotations

from urllib.parse import urlsplit

from clawlink.domain.networks import address as read
from clawlink.domain.networks import is_public
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
    literal = read(name)
    if name in _OWN_NAMES or name.endswith(_OWN_ENDS) or (literal is None and _looks_like_a_number(name)):
        raise _wrong("it leads into a private network")
    if literal is not None and not is_public(literal):
        raise _wrong("it leads into a private network")


def fault(address: str) -> str | None:
    """Return the reason why a webhook may not have an address; None if it may."""
    found = read(address)
    return None if found is not None and is_public(found) else f"{address} is in a private network"


def _looks_like_a_number(name: str) -> bool:
    """Return True for an old form of an IPv4 address, such as 127.1 or 0x7f000001."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _wrong(why: str) -> A2AError:
    return A2AError("INVALID_PARAMS", f"the url of a webhook is refused: {why}", field=FIELD)
