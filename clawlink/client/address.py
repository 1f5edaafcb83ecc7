"""A relay's address: the typed form, and the form for keeping and comparing."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from clawlink.config import DEFAULT_PORT, DEFAULT_RELAY
from clawlink.errors import NotARelay

_MOST_PORT = 65535


def address(text: str) -> str:
    """Return a relay's address as identities keep it: scheme, lower-case host, port, and no slash at the end.

    Without a scheme it is http. Without a port http is 9077, and https is 443, where a proxy in front listens. The
    addresses of several relays over one store are separated by commas.
    """
    return ",".join([_one(part) for part in text.split(",") if part.strip()]) or _one(text)


def _one(text: str) -> str:
    text = text.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
        user, at, place = parts.netloc.rpartition("@")
        if place.count(":") > 1 and "[" not in place:
            place = _in_brackets(place)
        place = place.lower()
        if place and parts.scheme.lower() == "http" and place.rpartition("]")[2].count(":") == 0:
            place = f"{place}:{DEFAULT_PORT}"
    except ValueError:
        return text
    return urlunsplit(parts._replace(netloc=user + at + place))


def fault_of(relay: str) -> str | None:
    """Return what is wrong with an address that ``address`` has returned; None if it can be one."""
    return next((fault for fault in map(_fault, relay.split(",")) if fault is not None), None)


def _fault(relay: str) -> str | None:
    scheme, _, rest = relay.partition("://")
    place = rest.partition("/")[0].rpartition("@")[2].lower()
    before, bracket, tail = place.rpartition("]")
    host, colon, port = tail.partition(":")
    host = before + bracket + host
    if scheme.lower() not in ("http", "https"):
        return "it has to begin with http:// or https://"
    if any(letter.isspace() for letter in relay):
        return "it may have no white space"
    if host in ("http", "https") and colon:
        return f"two slashes belong behind {host}:"
    if not host or host.isdigit():
        return "it lacks the host"
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) <= _MOST_PORT):
        return f"its port has to be a number from 1 to {_MOST_PORT}"
    return None


def no_address(relay: str) -> NotARelay:
    """Return the error for an address that is none."""
    fault = fault_of(relay)
    why = "" if fault is None else f": {fault}"
    return NotARelay(f"{relay!r} is no address of a relay{why}; it should look like {DEFAULT_RELAY}")


def _in_brackets(host: str) -> str:
    """Put an IPv6 address in the brackets that it needs in an URL."""
    from ipaddress import IPv6Address

    try:
        IPv6Address(host)
    except ValueError:
        return host
    return f"[{host}]"
