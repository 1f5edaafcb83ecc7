"""Who may talk to this relay at all: the token, and what a browser tells about where a request comes from."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
from collections.abc import Iterable

from aiohttp import hdrs
from multidict import istr

from clawlink.errors import BadRequest, NotAllowed, NotAuthenticated, UnsupportedMediaType
from clawlink.protocol.paths import Endpoint
from clawlink.server.address import host_name
from clawlink.server.wire import Request

SUBPROTOCOL = "clawlink"
_KNOWN_HOSTS_MAX = 1024
_FETCH_SITE = istr("Sec-Fetch-Site")


class Guard:
    """Decides from the headers alone whether a request is looked at.

    A page in a browser can send requests to any address. It always names itself in ``Origin``, and after DNS rebinding
    the ``Host`` is its own name: so a foreign Origin is refused, and a Host that is neither an address nor ours.
    Images, scripts and links it fetches without an Origin; but then the browser says that they are for another site.
    """

    def __init__(
        self, token: str | None, *, host: str, allow_hosts: Iterable[str] = (), allow_origins: Iterable[str] = ()
    ) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()
        own = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), own, own.split(".")[0], own.split(".")[0] + ".local"}
        self._names |= {name.lower() for name in allow_hosts}
        self._origins = {origin.lower().rstrip("/") for origin in allow_origins}
        self._known: set[str] = set()

    def check(self, request: Request, endpoint: Endpoint | None) -> None:
        """Raise NotAllowed, UnsupportedMediaType or NotAuthenticated for a request that is not to be looked at."""
        headers = request.headers
        host = headers.get(hdrs.HOST)
        if host is not None and host not in self._known:
            self._check_host(host)
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._check_origin(request, origin, host)
        elif headers.get(_FETCH_SITE) == "cross-site":
            raise NotAllowed("pages of other sites may not use this relay, not even for images", field="Sec-Fetch-Site")
        if self._expected is not None and (endpoint is None or not endpoint.open):
            given = headers.get(hdrs.AUTHORIZATION)
            if given is None and endpoint is not None and endpoint.socket:
                given = _otherwise(request)
            if given is None or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._expected):
                raise NotAuthenticated(
                    "this relay asks for its token: send the header 'Authorization: Bearer <token>' "
                    "(on the command line --token or CLAWLINK_TOKEN)"
                    if given is None
                    else "the token is not that of this relay"
                )

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if name not in self._names and not name.endswith(".localhost") and not _is_address(name):
            raise NotAllowed(
                f"this relay is not known as {name!r}: use its address, or start it with --allow-host {name}",
                field="Host",
            )
        if len(self._known) < _KNOWN_HOSTS_MAX:
            self._known.add(host)

    def _check_origin(self, request: Request, origin: str, host: str | None) -> None:
        origin = origin.lower().rstrip("/")
        if origin != f"{request.scheme}://{(host or '').lower()}" and origin not in self._origins:
            raise NotAllowed(
                f"pages of {origin!r} may not use this relay; start it with --allow-origin to let them", field="Origin"
            )
        if request.method == hdrs.METH_POST and request.content_type != "application/json":
            raise UnsupportedMediaType("a page must send JSON as Content-Type: application/json", field="Content-Type")


def _otherwise(request: Request) -> str | None:
    """Return the token of one who cannot set headers, as no page in a browser can for a websocket."""
    token = request.query.get("token") or in_subprotocol(request, "token")
    return None if token is None else f"Bearer {token}"


def offers_subprotocol(request: Request) -> bool:
    """Tell whether the peer of a websocket offers ours. Raises BadRequest if it offers others only."""
    offered = _offered(request)
    if offered and SUBPROTOCOL not in offered:
        raise BadRequest(f"offer the subprotocol {SUBPROTOCOL!r}, or none", field="Sec-WebSocket-Protocol")
    return bool(offered)


def in_subprotocol(request: Request, name: str) -> str | None:
    """Return what is carried in an offered subprotocol ``clawlink.NAME.VALUE``, the value in base64url; else None."""
    prefix = f"{SUBPROTOCOL}.{name}."
    for offer in _offered(request):
        if offer.startswith(prefix):
            value = offer.removeprefix(prefix)
            try:
                return base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True).decode()
            except ValueError:
                raise BadRequest(
                    f"the subprotocol {prefix}... carries base64url of UTF-8, and this is none",
                    field="Sec-WebSocket-Protocol",
                ) from None
    return None


def _offered(request: Request) -> list[str]:
    offers = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, ()))
    return [offer.strip() for offer in offers.split(",") if offer.strip()]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
