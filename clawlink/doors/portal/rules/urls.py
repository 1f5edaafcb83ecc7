"""The address of a portal, which is also its name: peers write it in many ways, and ClawLink compares one."""

from __future__ import annotations

from urllib.parse import urlsplit

from clawlink.errors import BadRequest

MAX_URL_LENGTH = 512
_LAST_PORT = 65535
_PORTS = {"http": 80, "https": 443}


def normalised(url: str, *, field: str = "portal_url") -> str:
    """Return the one spelling of a portal's address: small letters in the host, no default port, no slash at the end.

    Raises BadRequest for a text that is no address of a portal.
    """
    text = url.strip()
    if len(text) > MAX_URL_LENGTH:
        raise BadRequest(
            f"the address of a portal has at most {MAX_URL_LENGTH} characters",
            field=field,
            limit=MAX_URL_LENGTH,
            actual=len(text),
        )
    try:
        parts = urlsplit(text)
        host = parts.hostname
        host = None if host is None else host.encode("idna" if not host.isascii() else "ascii").decode()
    except (ValueError, UnicodeError):
        host = None
        parts = urlsplit("")
    if parts.scheme not in _PORTS or not host or not text.isprintable() or " " in text:
        raise BadRequest(f"the address of a portal begins with https:// and a host, not {text[:80]!r}", field=field)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise BadRequest("the address of a portal has no user, no query and no fragment", field=field)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise BadRequest(
            f"the port of a portal's address is from 1 to {_LAST_PORT}, not as in {text[:80]!r}; correct it, or leave "
            "it out",
            field=field,
            limit=_LAST_PORT,
        )
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        shown += f":{port}"
    return f"{parts.scheme}://{shown}{parts.path.rstrip('/')}"


def same(one: str, other: str) -> bool:
    """Return True if two texts are the address of one portal."""
    try:
        return normalised(one) == normalised(other)
    except BadRequest:
        return False


def shown(url: str) -> str:
    """Return an address without its scheme, as the texts for agents show it."""
    return url.partition("://")[2] or url
