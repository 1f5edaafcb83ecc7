"""The right to talk to this relay: the token, and the headers by which browsers tell where a request comes from."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from aiohttp import hdrs
from multidict import CIMultiDictProxy, istr

from clawlink.domain.access import KEY_HEADER, WRONG_TOKEN
from clawlink.errors import BadRequest, NotAllowed, NotAuthenticated, UnsupportedMediaType
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.headers import AGENT
from clawlink.protocol.paths import LOG_OUT, PAGE_FILE, REGISTER
from clawlink.server import cors
from clawlink.server.address import host_name
from clawlink.server.request import Request, parameter
from clawlink.server.sessions import CSRF_HEADER, Session, Sessions, require_csrf, require_write
from clawlink.server.tickets import Tickets

SUBPROTOCOL = "clawlink"
_KNOWN_HOSTS_MAX = 1024
PROOF = "X-Requested-With"
_FETCH_SITE = istr("Sec-Fetch-Site")
_READS = (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
# An agent in the query, and the key of a contact of the portal.
_NAMED_IN_QUERY = ("agent_id", "api_key")
_OWN_SITES = ("none", "same-origin")
_OF_BROWSERS = tuple(map(istr, ("Referer", "Sec-CH-UA", "Upgrade-Insecure-Requests", "Sec-Purpose", "Purpose")))
_KEPT_IN = (
    "(in the shell --admin-token or CLAWLINK_ADMIN_TOKEN); a token that the relay made is in the file admin-token of "
    "its --data folder, or else of ~/.clawlink/relays/PORT on its own account"
)
_VARY: Mapping[str, str] = {hdrs.VARY: hdrs.ORIGIN}


class Guard:
    """Decides from the headers alone whether a request is looked at.

    A page in a browser can send requests to any address. It always names itself in ``Origin``, and after DNS rebinding
    the ``Host`` is its own name: so a foreign Origin is refused, and a Host that is neither an address nor ours.
    Images, scripts and links it fetches without an Origin. Then most browsers say for which site they are
    (``Sec-Fetch-Site``). At an address of plain HTTP they do not: see ``require_no_page``.
    """

    def __init__(
        self,
        token: str | None,
        *,
        host: str,
        tickets: Tickets,
        allow_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
        admin_token: str | None = None,
        local_admin: bool = False,
        sessions: Sessions | None = None,
        cookie_name: str = "",
    ) -> None:
        self._admin = None if admin_token is None else admin_token.encode()
        self._local_admin = local_admin
        self._sessions = sessions
        self.cookie_name = cookie_name
        self._token = None if token is None else token.encode()
        self._tickets = tickets
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
        if self._origins:
            request.headers_too = _VARY
        origin = headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._check_origin(request, endpoint, origin, host)
        elif _FETCH_SITE in headers and headers[_FETCH_SITE] not in _OWN_SITES and not _opens_page(request, endpoint):
            raise NotAllowed(
                "pages of other sites may not use this relay, not even for images; "
                "start it with --allow-origin to let a page use fetch",
                field="Sec-Fetch-Site",
            )
        if endpoint is not None and not endpoint.plain:
            self._check_rights(request, endpoint)
        elif self._token is not None:
            self._require_token(request, endpoint)

    def may_look(self, request: Request, endpoint: Endpoint) -> bool:
        """Return True if a request has the right to see what an endpoint shows, and no other site began it."""
        if request.headers.get(_FETCH_SITE, "none") not in _OWN_SITES:
            return False
        try:
            self._check_rights(request, endpoint)
        except (NotAllowed, NotAuthenticated):
            return False
        return True

    def _check_rights(self, request: Request, endpoint: Endpoint) -> None:
        """Refuse a request for an endpoint at which something else may stand for the token, or beside it."""
        session = self._session_of(request) if endpoint.admin else None
        if endpoint.ticket and "ticket" in request.query:
            agent_id = parameter(request, "agent_id")
            request.ticket = self._tickets.use(request.query["ticket"], agent_id, endpoint.name)
            request.shown = True
        elif endpoint.agent_key and self._keep_bearer(request):
            request.shown = True
        elif session is None:
            self._require_token(request, endpoint)
        if endpoint.claims:
            require_no_page(request)
        if endpoint.session:
            self._note_owner(request)
        if endpoint is REGISTER:
            request.by_operator = self._is_operator(request)
        if endpoint.admin and not self._operates(request, endpoint, session):
            raise NotAllowed(
                f"only the relay's operator may do this: send its admin token in place of the token {_KEPT_IN}",
                field="Authorization",
            )

    def cookie_of(self, request: Request) -> str | None:
        """Return the cookie of a session; None if there is none, or the relay shows no page."""
        return request.cookies.get(self.cookie_name) if self._sessions is not None else None

    def require_admin_token(self, given: str | None) -> None:
        """Refuse all but the admin token. Raises NotAuthenticated."""
        if not _is(given, self._admin):
            raise NotAuthenticated(
                "this is not the admin token of this relay; it is kept beside the relay's token, or open a link with: "
                "clawlink open",
                field="admin_token",
            )

    def _session_of(self, request: Request) -> Session | None:
        """Return the session of a page of this relay. Any other page, and a request with a token, has none."""
        if self._sessions is None or hdrs.AUTHORIZATION in request.headers or not _is_own_page(request):
            return None
        return self._sessions.find(self.cookie_of(request))

    def _note_owner(self, request: Request) -> None:
        """Note that a request has a session of the owner. Raises NotAllowed for a forged write."""
        session = self._session_of(request)
        if session is not None and session.owner:
            if request.method != hdrs.METH_GET:
                require_write(session, request.headers.get(CSRF_HEADER))
            request.owner = True
            request.right = f"session {session.name}"

    def _operates(self, request: Request, endpoint: Endpoint, session: Session | None) -> bool:
        """Return True if a request has the operator's right, and note which. Raises NotAllowed for a forged write."""
        looks = endpoint.method == hdrs.METH_GET
        if _is(_bearer(request), self._admin):
            request.right = "token"
        elif session is not None:
            if not looks:
                require = require_csrf if endpoint is LOG_OUT else require_write
                require(session, request.headers.get(CSRF_HEADER))
            request.right = f"session {session.name}"
            request.may_go_on = lambda: self._session_of(request) is not None
        elif endpoint.keyless and _shows_a_key(request):
            return False
        elif self._is_operator(request):
            request.right = "local"
        elif looks and self._local_admin and self._sessions is not None and request.is_local and _is_own_page(request):
            request.right = "page"  # of this machine: it reads without asking, and acts with a session alone
        return request.right is not None

    def _is_operator(self, request: Request) -> bool:
        """Return True for the admin token, or on a relay of this machine alone for a local peer that is no page."""
        if _is(_bearer(request), self._admin):
            return True
        from_page = hdrs.ORIGIN in request.headers or _FETCH_SITE in request.headers
        return self._local_admin and request.is_local and not from_page

    def _keep_bearer(self, request: Request) -> bool:
        """Return True if the bearer may be an agent key, and keep it for the handler, which refuses what is none."""
        given = _bearer(request)
        if given is None or _is(given, self._token) or _is(given, self._admin):
            return False
        if self._token is None and AGENT.name in request.headers:
            return False  # a token that this relay does not ask for
        request.bearer = given
        return True

    def _require_token(self, request: Request, endpoint: Endpoint | None) -> None:
        """Refuse a request without the token, if the relay and the endpoint ask for it."""
        if self._token is None or (endpoint is not None and endpoint.open):
            return
        given = _bearer(request)
        if given is None and endpoint is not None and endpoint.socket:
            given = request.query.get("token") or in_subprotocol(request, "token")
        if not _is(given, self._token) and not _is(given, self._admin):
            if given is not None and endpoint is not None and endpoint.admin:
                raise NotAuthenticated(f"the token is not the admin token of this relay: send that one {_KEPT_IN}")
            if given is None:
                raise NotAuthenticated(
                    "this relay asks for its token: send the header 'Authorization: Bearer <token>' "
                    "(on the command line --token or CLAWLINK_TOKEN)"
                )
            raise NotAuthenticated(
                "the token is not that of this relay: give the one that the relay prints when it starts "
                "(on the command line --token or CLAWLINK_TOKEN)",
                field=WRONG_TOKEN,
            )
        request.shown = True

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if name not in self._names and not name.endswith(".localhost") and not _is_address(name):
            raise NotAllowed(
                f"this relay is not known as {name!r}: use its address, or start it with --allow-host {name}",
                field="Host",
            )
        if len(self._known) < _KNOWN_HOSTS_MAX:
            self._known.add(host)

    def _check_origin(self, request: Request, endpoint: Endpoint | None, given: str, host: str | None) -> None:
        origin = given.lower().rstrip("/")
        if origin in self._origins:
            request.headers_too = cors.allowed(given)
        elif origin != f"{request.scheme}://{(host or '').lower()}":
            raise NotAllowed(
                f"pages of {origin!r} may not use this relay; start it with --allow-origin to let them", field="Origin"
            )
        request.shown = True
        takes_json = endpoint is None or not endpoint.takes_bytes
        if request.method == hdrs.METH_POST and takes_json and request.content_type != "application/json":
            raise UnsupportedMediaType("a page must send JSON as Content-Type: application/json", field="Content-Type")


def require_no_page(request: Request) -> None:
    """Refuse a request that may be a link or an image in a foreign page. Raises NotAllowed.

    A browser sends neither ``Origin`` nor ``Sec-Fetch-Site`` for an image at an address of plain HTTP. So a request
    with the marks of a browser needs proof that no foreign page can send: a ticket, or a header that needs a preflight.
    """
    headers = request.headers
    if not request.shown and _FETCH_SITE not in headers and _looks_like_a_browser(headers) and not _proves(request):
        raise NotAllowed(
            "this takes messages, and a page in a browser may not do so with an image or a link; "
            f"if you are no page, or are the relay's own, send the header {PROOF}: 1",
            field=PROOF,
        )


def _opens_page(request: Request, endpoint: Endpoint | None) -> bool:
    """Return True if a person follows a link to the page, which has no data in it."""
    headers = request.headers
    navigates = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    return endpoint is PAGE_FILE and navigates


def _is_own_page(request: Request) -> bool:
    """Return True unless the request names another origin than this relay's."""
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get(hdrs.HOST, "").lower()


def _looks_like_a_browser(headers: CIMultiDictProxy[str]) -> bool:
    """Return True if the request has headers of a browser's image, script or link, rare in programs."""
    accept = headers.get(hdrs.ACCEPT, "")
    return (
        headers.get(hdrs.USER_AGENT, "").startswith("Mozilla/")
        or "image/" in accept
        or "text/html" in accept
        or any(name in headers for name in _OF_BROWSERS)
    )


def _proves(request: Request) -> bool:
    """Return True if a header is there that a foreign page could send after a preflight only."""
    return _bearer(request) is not None or any(
        name.lower() == PROOF.lower() or name[:9].lower() == "clawlink-" for name in request.headers
    )


def _is(given: str | None, expected: bytes | None) -> bool:
    """Return True if a token is the expected one."""
    if given is None or expected is None:
        return False
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected)


def may_be_agent(request: Request, endpoint: Endpoint | None) -> bool:
    """Return True unless a request only reads, shows no key or token, and names no agent.

    The operator is no agent, and neither is the owner at the page. Doors look at their keys themselves.
    """
    if endpoint is None or endpoint.admin or request.owner:
        return False
    return (
        request.method not in _READS
        or _shows_a_key(request)
        or AGENT.name in request.headers
        or any(name in request.query for name in _NAMED_IN_QUERY)
    )


def _shows_a_key(request: Request) -> bool:
    """Return True if a request comes with a token or an agent key, as requests of agents do."""
    return hdrs.AUTHORIZATION in request.headers or KEY_HEADER in request.headers


def _bearer(request: Request) -> str | None:
    """Return the credentials of scheme Bearer, in any case; None if there are none."""
    scheme, _, rest = request.headers.get(hdrs.AUTHORIZATION, "").strip().partition(" ")
    return rest.lstrip(" ") if scheme.lower() == "bearer" and rest else None


def offers_subprotocol(request: Request) -> bool:
    """Return True if the peer of a websocket offers ours. Raises BadRequest if it offers others only."""
    offered = _offered(request)
    if offered and SUBPROTOCOL not in offered:
        raise BadRequest(f"offer the subprotocol {SUBPROTOCOL!r}, or none", field="Sec-WebSocket-Protocol")
    return bool(offered)


def in_subprotocol(request: Request, name: str) -> str | None:
    """Return the value of an offered subprotocol ``clawlink.NAME.VALUE``, with the value in base64url; else None."""
    prefix = f"{SUBPROTOCOL}.{name}."
    for offer in _offered(request):
        if offer.startswith(prefix):
            value = offer.removeprefix(prefix)
            try:
                return base64.b64decode(value + "=" * (-len(value) % 4), b"-_", validate=True).decode()
            except ValueError:
                raise BadRequest(
                    f"the subprotocol {prefix}... carries base64url of UTF-8, and this does not",
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
