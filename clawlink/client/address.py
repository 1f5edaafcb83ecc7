"""A relay's address: the typed form, and the form for keeping and comparing."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from clawlink.config import DEFAULT_PORT


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


def _in_brackets(host: str) -> str:
    """Put an IPv6 address in the brackets that it needs in an URL."""
    from ipaddress import IPv6Address

    try:
        IPv6Address(host)
    except ValueError:
        return host
    return f"[{host}]"
