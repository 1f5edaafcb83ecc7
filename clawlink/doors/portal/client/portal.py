"""A client of the own portal, over HTTP, with the owner key or an agent key."""

from __future__ import annotations

import os
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import requests

from clawlink.client.sync import broke_off
from clawlink.doors.portal.rules.urls import normalised
from clawlink.errors import (
    BY_CODE,
    BadRequest,
    ClawLinkError,
    InternalError,
    NotActive,
    NotAllowed,
    NotARelay,
    NotAuthenticated,
    NotFound,
    Refused,
    RelayUnreachable,
)

URL, KEY, CA = "AGENTP2P_HUB_URL", "AGENTP2P_API_KEY", "CLAWLINK_CA"
AT = "--at"
GATEWAY_FILE = Path(".openclaw") / "gateway.env"
OPEN = ("queued", "sending")
_TIMEOUT_SECONDS = 30.0
_FIRST_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.05, 1.0

Through: TypeAlias = Callable[[Callable[[], Any]], Any]


def once(work: Callable[[], Any]) -> Any:
    """Do a request once, and return its answer."""
    return work()


class Place(NamedTuple):
    """The address of a portal, or those of its relays with commas, and a key for it.

    ``source`` tells people where the address comes from.
    """

    url: str
    key: str
    source: str = URL


def several(urls: str, *, field: str = "portal_url") -> str:
    """Return an address, or some with commas, as normalised. Raises BadRequest."""
    return ",".join(dict.fromkeys(normalised(url, field=field) for url in urls.split(",")))


def place(
    environ: Mapping[str, str] = os.environ,
    *,
    home: Path | None = None,
    at: str | None = None,
    key: str | None = None,
) -> Place:
    """Return the own portal as the environment names it, or else ``~/.openclaw/gateway.env``, both from one place.

    ``at`` and ``key`` are those of the command line, and go first. Raises BadRequest if the address or the key is
    missing.
    """
    named = _place(at or environ.get(URL), key or environ.get(KEY), AT if at else URL)
    if named is not None:
        return named
    kept, path = kept_gateway(home)
    named = _place(at or kept.get(URL), key or kept.get(KEY), AT if at else f"{URL} in {path}")
    if named is not None:
        return named
    if at:
        raise BadRequest(f"no key: add --key or set {KEY}", field=KEY)
    if key:
        raise BadRequest(f"no portal is named: add {AT} or set {URL}", field=URL)
    if environ.get(URL):
        raise BadRequest(f"no key: {URL} names a portal; set {KEY}, too, or write both into {path}", field=KEY)
    raise BadRequest(f"no portal is named: set {URL} and {KEY}, or write both into {path}", field=URL)


def _place(url: str | None, key: str | None, source: str) -> Place | None:
    """Return the place if there is an address and a key. Raises BadRequest."""
    if not url or not key:
        return None
    if not (key.isascii() and key.isprintable()):
        raise BadRequest("the key has characters that no key has; copy it again", field=KEY)
    return Place(several(url, field=AT if source == AT else URL), key, source)


def authority(
    given: str | None = None, environ: Mapping[str, str] = os.environ, *, home: Path | None = None
) -> str | None:
    """Return the file of an authority to trust: the given one, that of CLAWLINK_CA, or that of ``gateway.env``.

    Raises BadRequest if it is none.
    """
    found = given or environ.get(CA) or kept_gateway(home)[0].get(CA)
    if not found:
        return None
    try:
        ssl.create_default_context().load_verify_locations(found)
    except OSError as error:  # ssl.SSLError is one
        why = "is no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
        raise BadRequest(f"{found} cannot be trusted: {why}; give --ca or {CA} the file of a certificate") from None
    return os.path.abspath(found)


def kept_gateway(home: Path | None = None) -> tuple[dict[str, str], Path]:
    """Return what ``gateway.env`` of the account has, and its path; nothing if it cannot be read."""
    path = "~" / GATEWAY_FILE
    with suppress(OSError, UnicodeDecodeError, RuntimeError):  # no such file, or no home
        path = (home or Path.home()) / GATEWAY_FILE
        return gateway(path.read_text("utf-8")), path
    return {}, path


def gateway(text: str) -> dict[str, str]:
    """Read a ``gateway.env``: KEY=VALUE lines and comments, without quotes and export."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip()
    return found


class Portal:
    """The own portal. ``ca`` is the file of an authority to trust, and ``source`` the place that has the address.

    With several addresses, those of its relays, a request goes to the active one: it goes on to the next address where
    a relay is away, or not active. A request that a relay may have taken is never sent to another one.
    """

    def __init__(
        self, url: str, key: str, *, ca: str | None = None, timeout: float = _TIMEOUT_SECONDS, source: str = URL
    ) -> None:
        self.url = several(url)
        self.key = key
        self.source = source
        self._timeout = timeout
        self.ca = ca
        self._verify = ca or True
        self._urls = deque(self.url.split(","))
        """The addresses, the one that answered last at the front."""
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __enter__(self) -> Portal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Ask a route, and return its answer. Raises the error that the portal tells."""
        return self._answer(self._send(method, path, json=body, params=query))

    def put(self, path: str, body: Any) -> Any:
        """Send bytes to a route. Raises the error that the portal tells."""
        return self._answer(self._send("PUT", path, data=body, headers={"Content-Type": "application/octet-stream"}))

    @contextmanager
    def stream(self, path: str, start: int) -> Iterator[requests.Response]:
        """Read bytes of a route from ``start`` on. Raises the error that the portal tells."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._send("GET", path, headers=headers, stream=True) as answer:
            if answer.status_code not in (200, 206):
                self._answer(answer)
            try:
                yield answer
            except requests.RequestException as error:
                raise self._silent(error) from None

    def upload(self, path: str, part: str, name: str, data: bytes) -> Any:
        """Send a form with one file. Raises the error that the portal tells."""
        return self._answer(self._send("POST", path, files={part: (name, data)}))

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request to the first relay that takes it. Raises RelayUnreachable."""
        # A body that was read cannot be sent again: its caller asks once more.
        tries = 1 if "data" in options else len(self._urls)
        for left in reversed(range(tries)):
            try:
                answer = self._session.request(
                    method,
                    self._urls[0] + path,
                    timeout=self._timeout,
                    verify=self._verify,  # else REQUESTS_CA_BUNDLE would go before it
                    allow_redirects=False,
                    **options,
                )
            except requests.RequestException as error:
                unsent, failure = _unsent(error), self._silent(error)
                if unsent:
                    self._urls.rotate(-1)
                if not left or not unsent:
                    raise failure from None
            else:
                if broke_off(answer):
                    raise self._silent(requests.ConnectionError()) from None
                elsewhere = _is_elsewhere(answer)
                if elsewhere:
                    self._urls.rotate(-1)
                if not left or not elsewhere:
                    return answer
        raise AssertionError("there is an address")

    def _answer(self, answer: requests.Response) -> Any:
        return _answer(self._urls[0], answer)

    def _silent(self, error: Exception) -> RelayUnreachable:
        return RelayUnreachable(
            f"the portal {self._urls[0]} does not answer: {reason(error)}; is it running, and is {self.source} right?"
        )

    def contacts(self) -> list[dict[str, Any]]:
        """List contacts, the newest first."""
        found: list[dict[str, Any]] = self.ask("GET", "/api/contacts")["contacts"]
        return found

    def send(self, to: str | int, content: str, *, key: str | None = None, in_reply_to: int | None = None) -> Any:
        """Queue a message to a contact, named by number, name or address. With a key a repeat is the same message."""
        ask = {"to": to, "content": content, "idempotency_key": key, "in_reply_to": in_reply_to}
        return self.ask("POST", "/api/portal/send", ask)

    def status(self, number: int, *, ask: bool = True) -> Any:
        """Tell how far a message came; with ``ask`` the portal asks the other one."""
        return self.ask("GET", f"/api/portal/messages/{number}", **({} if ask else {"ask": "no"}))

    def until_sent(self, sent: Any, seconds: float, *, through: Through = once) -> Any:
        """Return the state of a message once it is settled, or the state after some seconds.

        ``through`` does each request, as through times when the portal is away.
        """
        until = time.monotonic() + seconds
        pause = _FIRST_LOOK_SECONDS
        while sent["state"] in OPEN and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _MOST_LOOK_SECONDS)
            sent = through(partial(self.status, sent["id"], ask=False))
        return sent

    def leave(self, url: str, text: str) -> int:
        """Leave a guest message at another portal, and return its number there. The own key does not go there."""
        try:
            answer = requests.post(
                normalised(url) + "/api/guest/leave-message",
                json={"content": text},
                timeout=self._timeout,
                verify=self._verify,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise RelayUnreachable(
                f"the portal {url} does not answer: {reason(error)}; see whether the address is right, and it runs"
            ) from None
        number: int = _answer(url, answer).get("message_id", 0)
        return number


def reason(error: BaseException) -> str:
    """Return why no answer came, without the words of requests and urllib3 around it."""
    if isinstance(error, requests.Timeout):
        return "no answer came in time"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({inner.verify_message}); name its authority with --ca or {CA}"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection broke" if isinstance(error, requests.ConnectionError) else str(error)


def _unsent(error: BaseException) -> bool:
    """Return True if a request was surely not sent, since there was no connection."""
    return isinstance(error, requests.ConnectTimeout) or (
        isinstance(error, requests.ConnectionError) and "NewConnectionError" in str(error)
    )


def _is_elsewhere(answer: requests.Response) -> bool:
    """Return True if a relay says that another one is active."""
    if answer.status_code != NotActive.status:
        return False
    try:
        told = answer.json()
    except ValueError:
        return False
    return isinstance(told, dict) and told.get("code") == NotActive.code


def _answer(url: str, answer: requests.Response) -> Any:
    try:
        told = answer.json()
    except ValueError:
        raise NotARelay(f"{url} answers {answer.status_code}, and not as a portal: is the address right?") from None
    if answer.status_code == 200:
        return told
    if answer.status_code in _ASTRAY and isinstance(told, dict) and "detail" not in told and "error" in told:
        raise NotARelay(f"{url} answers as a relay without a portal; is the address right, and does it have --portal?")
    detail = told.get("detail", told.get("error", "")) if isinstance(told, dict) else ""
    if isinstance(detail, list):
        detail = "; ".join(str(one.get("msg", one)) for one in detail if isinstance(one, dict))
    code = told.get("code") if isinstance(told, dict) else None
    kind = BY_CODE.get(str(code)) or _BY_STATUS.get(answer.status_code)
    raise (kind or (Refused if answer.status_code < 500 else InternalError))(
        str(detail) or f"the portal answers {answer.status_code}"
    )


_ASTRAY = (401, 404, 405)
"""The answers of a relay at an address that no portal has."""
_BY_STATUS: dict[int, type[ClawLinkError]] = {401: NotAuthenticated, 403: NotAllowed, 404: NotFound}
