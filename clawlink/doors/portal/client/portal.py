"""A client of the own portal, over HTTP, with the owner key or an agent key."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from clawlink.doors.portal.rules.urls import normalised
from clawlink.errors import (
    BY_CODE,
    BadRequest,
    ClawLinkError,
    InternalError,
    NotAllowed,
    NotARelay,
    NotAuthenticated,
    NotFound,
    Refused,
    RelayUnreachable,
)

URL, KEY = "AGENTP2P_HUB_URL", "AGENTP2P_API_KEY"
GATEWAY_FILE = Path(".openclaw") / "gateway.env"
OPEN = ("queued", "sending")
_TIMEOUT_SECONDS = 30.0
_FIRST_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.05, 1.0


class Place(NamedTuple):
    """The address of a portal, and a key for it. ``source`` tells people where the address comes from."""

    url: str
    key: str
    source: str = URL


def place(environ: Mapping[str, str] = os.environ, *, home: Path | None = None) -> Place:
    """Return the own portal as the environment names it, or else ``~/.openclaw/gateway.env``, both from one place.

    Raises BadRequest if neither names address and key.
    """
    url, key = environ.get(URL), environ.get(KEY)
    if url and key:
        return Place(normalised(url, field=URL), key)
    kept, path = {}, "~" / GATEWAY_FILE
    try:
        path = (home or Path.home()) / GATEWAY_FILE
        kept = gateway(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RuntimeError):  # no such file, or no home
        pass
    if kept.get(URL) and kept.get(KEY):
        return Place(normalised(kept[URL], field=URL), kept[KEY], f"{URL} in {path}")
    raise BadRequest(f"no portal is named: set {URL} and {KEY}, or write both into {path}", field=URL)


def gateway(text: str) -> dict[str, str]:
    """Read a ``gateway.env``: KEY=VALUE lines and comments, without quotes and export."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip()
    return found


class Portal:
    """The own portal. ``ca`` is the file of an authority to trust, and ``source`` the place that has the address."""

    def __init__(
        self, url: str, key: str, *, ca: str | None = None, timeout: float = _TIMEOUT_SECONDS, source: str = URL
    ) -> None:
        self.url = normalised(url)
        self.key = key
        self.source = source
        self._timeout = timeout
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._session.verify = ca or True

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __enter__(self) -> Portal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Ask a route, and return its answer. Raises the error that the portal tells."""
        try:
            answer = self._session.request(
                method, self.url + path, json=body, params=query, timeout=self._timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            raise self._silent(error) from None
        return _answer(self.url, answer)

    def put(self, path: str, body: Any) -> Any:
        """Send bytes to a route. Raises the error that the portal tells."""
        try:
            answer = self._session.put(
                self.url + path,
                data=body,
                headers={"Content-Type": "application/octet-stream"},
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._silent(error) from None
        return _answer(self.url, answer)

    @contextmanager
    def stream(self, path: str, start: int) -> Iterator[requests.Response]:
        """Read bytes of a route from ``start`` on. Raises the error that the portal tells."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = self._session.get(
                self.url + path, headers=headers, timeout=self._timeout, allow_redirects=False, stream=True
            )
        except requests.RequestException as error:
            raise self._silent(error) from None
        with answer:
            if answer.status_code not in (200, 206):
                _answer(self.url, answer)
            yield answer

    def upload(self, path: str, part: str, name: str, data: bytes) -> Any:
        """Send a form with one file. Raises the error that the portal tells."""
        try:
            answer = self._session.post(
                self.url + path, files={part: (name, data)}, timeout=self._timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            raise self._silent(error) from None
        return _answer(self.url, answer)

    def _silent(self, error: Exception) -> RelayUnreachable:
        return RelayUnreachable(
            f"the portal {self.url} does not answer: {reason(error)}; is it running, and is {self.source} right?"
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

    def until_sent(self, sent: Any, seconds: float) -> Any:
        """Return the state of a message once it is settled, or the state after some seconds."""
        until = time.monotonic() + seconds
        pause = _FIRST_LOOK_SECONDS
        while sent["state"] in OPEN and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _MOST_LOOK_SECONDS)
            sent = self.status(sent["id"], ask=False)
        return sent

    def leave(self, url: str, text: str) -> int:
        """Leave a guest message at another portal, and return its number there. The own key does not go there."""
        verify = self._session.verify
        try:
            answer = requests.post(
                normalised(url) + "/api/guest/leave-message",
                json={"content": text},
                timeout=self._timeout,
                verify=verify,
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
            return f"its certificate is not trusted ({inner.verify_message}); name its authority with --ca"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection broke" if isinstance(error, requests.ConnectionError) else str(error)


def _answer(url: str, answer: requests.Response) -> Any:
    try:
        told = answer.json()
    except ValueError:
        raise NotARelay(f"{url} answers {answer.status_code}, and not as a portal: is the address right?") from None
    if answer.status_code == 200:
        return told
    detail = told.get("detail", told.get("error", "")) if isinstance(told, dict) else ""
    if isinstance(detail, list):
        detail = "; ".join(str(one.get("msg", one)) for one in detail if isinstance(one, dict))
    code = told.get("code") if isinstance(told, dict) else None
    kind = BY_CODE.get(str(code)) or _BY_STATUS.get(answer.status_code)
    raise (kind or (Refused if answer.status_code < 500 else InternalError))(
        str(detail) or f"the portal answers {answer.status_code}"
    )


_BY_STATUS: dict[int, type[ClawLinkError]] = {401: NotAuthenticated, 403: NotAllowed, 404: NotFound}
