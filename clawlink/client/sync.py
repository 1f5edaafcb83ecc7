"""The blocking client, on requests: a thin shell over ``calls``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from clawlink.client import calls
from clawlink.client.calls import Call, Identity
from clawlink.client.retry import Backoff
from clawlink.config import DEFAULT_RELAY, LOOPBACK_HOSTS
from clawlink.domain.access import KEY_HEADER
from clawlink.errors import BadRequest, ClawLinkError, NotARelay, RelayUnreachable
from clawlink.protocol import failure
from clawlink.version import VERSION

P = ParamSpec("P")
T = TypeVar("T")


def _method(make: Callable[Concatenate[Identity, P], Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Make a method of the client from the function in ``calls`` that describes it."""

    @wraps(make)
    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.perform(make(self.identity, *args, **kwargs))

    return cast("Callable[Concatenate[Client, P], T]", method)


class Client:
    """Talks to one relay, as one agent.

        with Client("http://192.168.1.5:9077", token="...") as client:
            client.register("researcher", capabilities=["search"])
            done = client.delegate("writer", "Summarise the findings", context={"format": "markdown"})
            for claimed in client.poll(wait=30):
                print(claimed.message)
                client.ack([claimed.receipt])

    ``timeout`` is in seconds, for connecting and for each answer, on top of what a call waits on purpose. Failures are
    raised as the classes in ``clawlink.errors``. What is safe to repeat is repeated with backoff; writes carry
    idempotency keys, so they are. One client is for one thread.
    """

    def __init__(
        self,
        relay: str = DEFAULT_RELAY,
        *,
        token: str | None = None,
        agent_id: str | None = None,
        agent_key: str | None = None,
        timeout: float = 10.0,
        backoff: Backoff | None = None,
        ca: str | None = None,
    ) -> None:
        self.relay = relay.rstrip("/")
        self.identity = Identity(agent_id, agent_key)
        self.timeout = timeout
        self.backoff = backoff or Backoff()
        self._session = requests.Session()
        self._session.auth = _KeepHeaders()
        self._ca = ca
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(max_retries=0))
        self._session.headers["User-Agent"] = f"clawlink/{VERSION}"
        if token is not None:
            # As bytes, since a header's text is latin-1 and a token need not be.
            self._session.headers["Authorization"] = f"Bearer {token}".encode()
        # The environment's proxy is not meant for what runs on this very machine, and could not reach it.
        self._session.trust_env = not _on_loopback(self.relay)

    @property
    def agent_id(self) -> str | None:
        """The id of the agent this client acts as."""
        return self.identity.agent_id

    @property
    def agent_key(self) -> str | None:
        """The key of that agent, if it was claimed."""
        return self.identity.agent_key

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def perform(self, call: Call[T]) -> T:
        """Send a call, again if that is safe and may help, and return its answer. Raises ClawLinkError."""
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = call.answer(self._send(call))
            except ClawLinkError as error:
                pause = self.backoff.pause(error, attempt=attempt, repeatable=call.repeatable, random=random.random())
                if pause is None:
                    raise
                time.sleep(pause)
                continue
            if call.learn is not None:
                call.learn(self.identity, answer)
            return answer

    def _send(self, call: Call[T]) -> bytes:
        headers = {}
        if self.identity.agent_key is not None:
            headers[KEY_HEADER] = self.identity.agent_key
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._session.request(
                call.endpoint.method,
                self.relay + call.path,
                data=call.body,
                headers=headers,
                timeout=(self.timeout, self.timeout + call.wait),
                allow_redirects=False,
                verify=self._ca,  # here and not at the session, where REQUESTS_CA_BUNDLE would go before it
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise NotARelay(f"{self.relay!r} is no address of a relay; it should look like {DEFAULT_RELAY}") from None
        except requests.exceptions.InvalidHeader:
            raise BadRequest("the token or the agent key has characters that no header can carry") from None
        except requests.exceptions.SSLError as error:
            raise NotARelay(f"no trusted TLS connection to {self.relay}: {_reason(error)}") from error
        except requests.exceptions.Timeout as error:
            raise RelayUnreachable(f"the relay at {self.relay} did not answer within {self.timeout:g} s") from error
        except requests.exceptions.RequestException as error:
            raise RelayUnreachable(
                f"no relay answers at {self.relay}; is it running? start one with: clawlink serve"
            ) from error
        if response.status_code == 200:
            return response.content
        if 300 <= response.status_code < 400:
            raise NotARelay(f"{self.relay} redirects elsewhere (HTTP {response.status_code}); give the relay's own")
        raise failure.from_reply(response.status_code, response.content)

    info = _method(calls.info)
    health = _method(calls.health)
    register = _method(calls.register)
    discover = _method(calls.discover)
    heartbeat = _method(calls.heartbeat)
    leave = _method(calls.leave)
    delegate = _method(calls.delegate)
    respond = _method(calls.respond)
    send = _method(calls.send)
    broadcast = _method(calls.broadcast)
    poll = _method(calls.poll)
    ack = _method(calls.ack)
    nack = _method(calls.nack)
    extend = _method(calls.extend)
    dead_letters = _method(calls.dead_letters)
    redrive = _method(calls.redrive)
    message = _method(calls.message)
    put_file = _method(calls.put_file)
    list_files = _method(calls.list_files)
    get_file = _method(calls.get_file)
    delete_file = _method(calls.delete_file)
    metrics = _method(calls.metrics)
    openapi = _method(calls.openapi)


def _on_loopback(relay: str) -> bool:
    try:
        host = urlsplit(relay).hostname or ""
    except ValueError:
        return False
    return host in LOOPBACK_HOSTS or host.startswith("127.")


def _reason(error: Exception) -> object:
    """Return what went wrong underneath, without what requests and urllib3 say around it."""
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", inner)


class _KeepHeaders(requests.auth.AuthBase):
    """Keeps requests from replacing our token by what a netrc file has for the host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request
