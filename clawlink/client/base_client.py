"""The base of the clients: arguments, methods, the reading of an answer, and the error for each failure.

A client sends a call of ``endpoints`` and returns its answer. Each client has its own way to send.
"""

from __future__ import annotations

import io
import logging
import random
import re
from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload
from urllib.parse import urlsplit

from clawlink.client import (
    admin_endpoints,
    calls,
    endpoints,
    mailbox_endpoints,
    operations,
    operator_endpoints,
)
from clawlink.client.address import address, fault_of, no_address
from clawlink.client.calls import Call, Identity, Reply
from clawlink.client.connection_errors import refused, serve_on, start_again, unresolved, unsent
from clawlink.client.files import file_endpoints
from clawlink.client.operations import Operation
from clawlink.client.proxy import Proxy, on_this_machine, proxy_for
from clawlink.client.retry import Backoff
from clawlink.config import DEFAULT_PORT, DEFAULT_RELAY, MAX_TIMEOUT_SECONDS
from clawlink.domain.access import KEY_HEADER, WRONG_TOKEN
from clawlink.errors import (
    BadRequest,
    ClawLinkError,
    NotARelay,
    NotAuthenticated,
    RelayUnreachable,
    Unavailable,
    UnknownAgent,
)
from clawlink.protocol import failure, paths
from clawlink.version import VERSION

if TYPE_CHECKING:
    from clawlink.client.aio import AsyncClient
    from clawlink.client.link.link import Link
    from clawlink.client.link.pending import Pending
    from clawlink.client.stream import Stream
    from clawlink.client.sync import Client
    from clawlink.protocol.replies import Left

_log = logging.getLogger("clawlink.client")

_JSON = "application/json"
_ANSWERS = frozenset({200, 201, 204, 206})
# Characters that end a header, are no text, or would be lost.
_UNFIT = re.compile("[\\x00\\r\\n\\ud800-\\udfff]|^\\s|\\s$")

# The fields of a request that name the asking agent, as errors name them.
WHO_ASKS = frozenset({"agent_id", "from_agent"})

# The limit for leaving at the end of ``with``.
LEAVE_SECONDS = 5.0

_LARGE_BYTES = 64 * 1024

# The names that versions of OpenSSL give to an answer that is not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "record layer failure", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")

P = ParamSpec("P")
T = TypeVar("T")


class Method(Generic[P, T]):
    """A function of ``endpoints`` or ``operations`` as a method that sends its call, or runs its operation.

    The ``_method`` of a class defines how, and a plain function then takes its place.
    """

    def __init__(self, make: Callable[Concatenate[Identity, P], Call[T] | Operation[T]]) -> None:
        self.make = make

    if TYPE_CHECKING:

        @overload
        def __get__(self, client: Client, owner: Any = None) -> Callable[P, T]: ...
        @overload
        def __get__(self, client: AsyncClient | Stream, owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
        @overload
        def __get__(self, client: Link, owner: Any = None) -> Callable[P, Pending[T]]: ...
        @overload
        def __get__(self, client: None, owner: Any = None) -> Callable[..., Any]: ...
        def __get__(self, client: Any, owner: Any = None) -> Any: ...


def turn_into_methods(cls: type, listed: Mapping[str, object], method: Callable[[Any], Any]) -> None:
    """Give a class a function for each listed ``Method``, unless it has its own."""
    for name, one in listed.items():
        if isinstance(one, Method) and vars(cls).get(name, one) is one:
            setattr(cls, name, method(one.make))


def piecemeal(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return a body for the HTTP libraries: a large body in pieces, each with a time limit of its own."""
    return body if body is None or len(body) < _LARGE_BYTES else io.BytesIO(body)


class BaseClient:
    """A client of one relay, as one agent, before it is said how it sends."""

    _relays: list[str]
    _is_address: bool
    _inside = False  # of ``with``
    _unregistered = False
    _joined: str | None = None  # the agent that leaves at the end of ``with``
    _answered = False  # once a relay, or what listens in its place, has answered

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
        keep: bool = False,
    ) -> None:
        self.relay = relay
        self.identity = Identity(agent_id, agent_key)
        self.timeout = calls.number_of_seconds(timeout, "timeout")
        if not 0 < timeout <= MAX_TIMEOUT_SECONDS:
            raise BadRequest(
                f"timeout takes more than 0 and at most {MAX_TIMEOUT_SECONDS:.0f} seconds, not {timeout:g}",
                field="timeout",
                limit=MAX_TIMEOUT_SECONDS,
            )
        self.backoff = backoff or Backoff()
        self.token = token
        self.ca = ca
        self.keep = keep
        self._unregistered = agent_id is None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        turn_into_methods(cls, vars(BaseClient), cls._method)

    @staticmethod
    def _method(make: Callable[..., Call[Any] | Operation[Any]]) -> Callable[..., Any]:
        """Make a method from the function in ``endpoints`` or ``operations`` that describes it."""
        raise NotImplementedError

    @property
    def relay(self) -> str:
        """The address of the relay that is asked: the first of several, or the one after it once that was away."""
        return self._relays[0]

    @relay.setter
    def relay(self, relay: str) -> None:
        known_as = address(relay)
        self._is_address = fault_of(known_as) is None
        self._relays = known_as.split(",")

    def _ask_elsewhere(self, error: ClawLinkError) -> None:
        """Ask the next of several relays from now on, if the one at hand is away."""
        if len(self._relays) > 1 and isinstance(error, RelayUnreachable | Unavailable):
            self._relays.append(self._relays.pop(0))
            for name in ("_on_loopback", "_proxy"):
                self.__dict__.pop(name, None)

    @property
    def agent_id(self) -> str | None:
        """The id of the agent this client acts as."""
        return self.identity.agent_id

    @property
    def agent_key(self) -> str | None:
        """The key of that agent, if it was claimed."""
        return self.identity.agent_key

    @property
    def relay_key(self) -> str | None:
        """The mark by which the agent knows its relay at another address. None until it has registered with its key."""
        return self.identity.relay_key

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of another client that acts as this one."""
        return {
            "relay": ",".join(self._relays),
            "token": self.token,
            "agent_id": self.identity.agent_id,
            "agent_key": self.identity.agent_key,
            "timeout": self.timeout,
            "backoff": self.backoff,
            "ca": self.ca,
        }

    # -- requests ------------------------------------------------------------------------------------------------------

    def _headers(self, call: Call[Any] | None) -> dict[str, str]:
        """Return the headers of a request. Raises NotARelay for an address that is none."""
        if not self._is_address:
            raise no_address(",".join(self._relays))
        headers = {"User-Agent": f"clawlink/{VERSION}"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.identity.agent_key is not None:
            headers[KEY_HEADER] = self.identity.agent_key
        if call is not None and call.body is not None:
            headers["Content-Type"] = _JSON
        if any(_UNFIT.search(value) for value in headers.values()):
            raise BadRequest("the token or the agent key has characters that no header can carry")
        if call is not None:
            headers.update(call.headers)
            for name, value in call.headers.items():
                if _UNFIT.search(value):
                    raise BadRequest(f"the value for {name} has characters that no header can carry", field=name)
        return headers

    @cached_property
    def _on_loopback(self) -> bool:
        """Return True if the relay runs on this machine: certificates that the environment names are not for it."""
        return on_this_machine(self._host)

    @property
    def _host(self) -> str:
        try:
            return urlsplit(self.relay).hostname or ""
        except ValueError:
            return ""

    @cached_property
    def _proxy(self) -> Proxy | None:
        """The proxy that the relay is asked through. Raises NotARelay if none of our clients can speak to it."""
        proxy = proxy_for(self.relay)
        if proxy is None or proxy.usable:
            return proxy
        raise NotARelay(
            f"{self.relay} is to be asked through the proxy {proxy.shown}, but only proxies with http:// or https:// "
            f"can be used; name one, or ask the relay directly: {self._past_the_proxy(proxy)}"
        )

    def _past_the_proxy(self, proxy: Proxy) -> str:
        """Say how to ask the relay without the proxy."""
        if proxy.variable.startswith("CLAWLINK_"):
            return f"unset {proxy.variable}"
        return f"NO_PROXY={self._host}"

    @property
    def _through(self) -> str:
        """The words that a sentence of failure adds where a proxy stands between."""
        proxy = self._proxy
        if proxy is None:
            return ""
        return f"; it was asked through the proxy {proxy.shown}; without it: {self._past_the_proxy(proxy)}"

    # -- replies -------------------------------------------------------------------------------------------------------

    def _read(self, call: Call[T], reply: Reply) -> T:
        """Return the answer to a call. Raises the error that the relay tells of, or NotARelay."""
        self._answered = True
        if reply.status in _ANSWERS:
            return call.answer(reply)
        refusal = None
        if call.refuse is not None and not reply.body and reply.headers.get("Content-Type", _JSON).startswith(_JSON):
            refusal = call.refuse(reply.status)  # of another type it is from a proxy before the relay
        raise refusal or self._refusal(reply.status, reply.body)

    def _refusal(self, status: int, body: bytes) -> ClawLinkError:
        if 300 <= status < 400:
            return NotARelay(f"{self.relay} redirects elsewhere (HTTP {status}); give the relay's own{self._through}")
        told = failure.from_reply(status, body)
        if isinstance(told, NotAuthenticated) and told.field in (None, WRONG_TOKEN):
            # The relay of another address may be meant.
            return NotAuthenticated(f"{told.message}; this is the relay at {self.relay}", field=told.field)
        return NotARelay(f"{told.message}{self._through}", field=told.field) if isinstance(told, NotARelay) else told

    def _learn(self, call: Call[T], answer: T) -> T:
        if call.learn is not None:
            call.learn(self.identity, answer)
        if call.endpoint is paths.REGISTER:
            if self._unregistered and self._inside and not self.keep:
                self._joined = self.identity.agent_id
            self._unregistered = False
        elif call.endpoint is paths.LEAVE:
            self._joined, self._unregistered = None, True
        return answer

    def _leaving(self) -> Call[Left] | None:
        """Return the call by which the agent leaves that has joined inside of ``with``, None if there is none."""
        self._inside = False
        joined, self._joined = self._joined, None
        return None if joined is None or joined != self.identity.agent_id else endpoints.leave(self.identity)

    def _stayed(self, error: ClawLinkError) -> None:
        """Log that the agent could not leave. It is not raised: the program's work is done, or failed before."""
        if not isinstance(error, UnknownAgent):
            _log.warning("agent %s could not leave %s: %s", self.identity.agent_id, self.relay, error)

    def _pause(self, call: Call[Any], error: ClawLinkError, attempt: int) -> float:
        """Return for how many seconds to wait after a failed attempt. Raises the error if there is no use in more."""
        self._ask_elsewhere(error)
        pause = self.backoff.pause(error, attempt=attempt, repeatable=call.repeatable, random=random.random())
        if pause is None:
            raise error
        return pause

    # -- failures without an answer ------------------------------------------------------------------------------------

    def _untrusted(self, reason: object) -> NotARelay:
        text = str(reason)
        if any(sign in text for sign in _NO_TLS):
            return NotARelay(f"what listens at {self.relay} speaks no TLS; try {self._other_scheme()}")
        help = ""
        # Another file of certificates does not help if the name is not in the relay's certificate.
        if "CERTIFICATE_VERIFY_FAILED" in text and "mismatch" not in text and "expired" not in text:
            help = (
                "; if that relay has a certificate of its own, name its file: --ca FILE or CLAWLINK_CA, in Python ca="
            )
        return NotARelay(f"no trusted TLS connection to {self.relay}: {text}{help}{self._through}")

    def _unreadable(self, error: OSError) -> NotARelay:
        return self._untrusted(f"cannot read the certificates in {self.ca or 'the bundle'}: {error}")

    def _silent(self, patience: float) -> RelayUnreachable:
        look = "" if self._proxy is not None else f"; see what is there: clawlink --relay {self.relay} doctor"
        return RelayUnreachable(
            f"the relay at {self.relay} did not answer within {patience:.3g} s{self._through}{look}"
        )

    def _nobody(self, error: BaseException, *, broke_off: bool) -> RelayUnreachable:
        """Return the error for a missing answer; ``broke_off`` is True if there was a connection."""
        if self._proxy is not None:
            return RelayUnreachable(f"no answer comes from {self.relay}{self._through}")
        if unresolved(error):
            return unsent(f"no host is known by the name {self._host!r}; see whether the address {self.relay} is right")
        if broke_off:
            hint = "" if self._over_tls else f", or speak TLS: then try {self._other_scheme()}"
            return RelayUnreachable(
                f"what listens at {self.relay} closed the connection without an answer; it may be restarting{hint}"
            )
        port = urlsplit(self.relay).port or DEFAULT_PORT  # an address with another port is refused before
        sentence = f"no relay answers at {self.relay}; is it running? {self._start(port)}"
        return unsent(sentence) if refused(error) else RelayUnreachable(sentence)

    def _start(self, port: int) -> str:
        """Return the advice how to start the relay that does not answer."""
        if not self._on_loopback:
            return f"start it there with: {serve_on(port)} --host 0.0.0.0, with its --data DIR, if it had one"
        command, left_out = start_again(port, with_token=self.token is not None)
        if " --data " in command:
            begin = "start it with the data folder that was last used there"
        else:
            begin = "start one with"
            if self.token is None and self.agent_id is None:  # no relay may have been there before
                left_out = ""
        return f"{begin}: {command}{', ' if left_out else ''}{left_out}"

    @property
    def _over_tls(self) -> bool:
        return self.relay.lower().startswith("https:")

    def _other_scheme(self) -> str:
        """Return the relay's address with http in place of https, and the other way round."""
        return ("http:" if self._over_tls else "https:") + self.relay.partition(":")[2]

    # -- one method for each endpoint ----------------------------------------------------------------------------------

    info = Method(endpoints.info)
    health = Method(endpoints.health)
    ready = Method(endpoints.ready)
    register = Method(endpoints.register)
    discover = Method(endpoints.discover)
    heartbeat = Method(endpoints.heartbeat)
    sleep = Method(endpoints.sleep)
    leave = Method(endpoints.leave)
    kick = Method(endpoints.kick)
    redrive_for = Method(endpoints.redrive_for)
    session = Method(endpoints.session)
    make_link = Method(endpoints.make_link)
    end_sessions = Method(endpoints.end_sessions)
    overview = Method(endpoints.overview)
    all_agents = Method(endpoints.all_agents)
    one_agent = Method(endpoints.one_agent)
    all_tasks = Method(endpoints.all_tasks)
    timeline = Method(endpoints.timeline)
    all_dead_letters = Method(endpoints.all_dead_letters)
    audit = Method(endpoints.audit)
    talks = Method(admin_endpoints.talks)
    talk = Method(admin_endpoints.talk)
    all_broadcasts = Method(admin_endpoints.all_broadcasts)
    all_files = Method(admin_endpoints.all_files)
    one_file = Method(admin_endpoints.one_file)
    search = Method(admin_endpoints.search)
    children = Method(admin_endpoints.children)
    load = Method(admin_endpoints.load)
    stop_all = Method(operator_endpoints.stop_all)
    resume_all = Method(operator_endpoints.resume_all)
    delegate_as_operator = Method(operator_endpoints.delegate_as_operator)
    send_as_operator = Method(operator_endpoints.send_as_operator)
    broadcast_as_operator = Method(operator_endpoints.broadcast_as_operator)
    answer_as_operator = Method(operator_endpoints.answer_as_operator)
    cancel_as_operator = Method(operator_endpoints.cancel_as_operator)
    respond_as_operator = Method(operator_endpoints.respond_as_operator)
    redrive_all = Method(operator_endpoints.redrive_all)
    rename_agent = Method(operator_endpoints.rename_agent)
    unlock_as_operator = Method(operator_endpoints.unlock_as_operator)
    inbox = Method(operator_endpoints.inbox)
    put_away = Method(operator_endpoints.put_away)
    delegate = Method(endpoints.delegate)
    respond = Method(endpoints.respond)
    tasks = Method(endpoints.tasks)
    task = Method(endpoints.task)
    cancel = Method(endpoints.cancel)
    answer = Method(endpoints.answer)
    send = Method(endpoints.send)
    broadcast = Method(endpoints.broadcast)
    knowledge = Method(endpoints.knowledge)
    poll = Method(mailbox_endpoints.poll)
    ack = Method(mailbox_endpoints.ack)
    nack = Method(mailbox_endpoints.nack)
    extend = Method(mailbox_endpoints.extend)
    dead_letters = Method(mailbox_endpoints.dead_letters)
    redrive = Method(mailbox_endpoints.redrive)
    message = Method(mailbox_endpoints.message)
    unread = Method(mailbox_endpoints.unread)
    woken = Method(mailbox_endpoints.woken)
    find_ids = Method(endpoints.find_ids)
    put_file = Method(file_endpoints.put_file)
    list_files = Method(file_endpoints.list_files)
    get_file = Method(file_endpoints.get_file)
    delete_file = Method(file_endpoints.delete_file)
    put_blob = Method(file_endpoints.put_blob)
    get_blob = Method(file_endpoints.get_blob)
    stat_blob = Method(file_endpoints.stat_blob)
    file_history = Method(file_endpoints.file_history)
    lock_file = Method(file_endpoints.lock_file)
    unlock_file = Method(file_endpoints.unlock_file)
    confirm_read = Method(file_endpoints.confirm_read)
    create_upload = Method(file_endpoints.create_upload)
    upload_offset = Method(file_endpoints.upload_offset)
    upload_part = Method(file_endpoints.upload_part)
    end_upload = Method(file_endpoints.end_upload)
    metrics = Method(endpoints.metrics)
    openapi = Method(endpoints.openapi)

    # -- operations of several calls -----------------------------------------------------------------------------------

    upload = Method(operations.upload)
    download = Method(operations.download)
    attach = Method(operations.attach)
    watch_file = Method(operations.watch_file)
    wait_for = Method(operations.wait_for)
    wait_message = Method(operations.wait_message)
