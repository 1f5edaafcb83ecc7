"""The blocking client, on requests: a thin shell over ``endpoints``."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property, wraps
from http import HTTPStatus
from queue import Empty, Queue
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import LocationParseError, ProtocolError

from clawlink.client import endpoints
from clawlink.client.address import no_address
from clawlink.client.base_client import LEAVE_SECONDS, WHO_ASKS, BaseClient, piecemeal
from clawlink.client.calls import Call, Reply, simple_call
from clawlink.client.connection_errors import may_have_left
from clawlink.client.operations import Operation
from clawlink.errors import ClawLinkError, RelayUnreachable, UnknownAgent
from clawlink.protocol import paths
from clawlink.protocol.endpoint import Endpoint
from clawlink.protocol.replies import Registered, TaskView

if TYPE_CHECKING:
    from clawlink.client.wait_steps import Event, Step

T = TypeVar("T")
# An interrupt that comes just before the main thread begins to block wakes it only after this time.
_TICK_SECONDS = 1.0


class Client(BaseClient):
    """Talks to one relay, as one agent.

        with Client("http://192.168.1.5:9077", token="...") as client:
            client.register("researcher", capabilities=["search"])
            done = client.delegate("writer", "Summarise the findings", context={"format": "markdown"})
            print(client.wait_for(done.message_id, timeout=600).result)

    ``timeout`` is in seconds, for connecting and for each answer, on top of a call's intended wait. Failures are raised
    as the classes in ``clawlink.errors``. Safe requests are repeated with backoff; writes carry idempotency keys, so
    they are safe. One client is for one thread.

    An agent that registers inside of ``with`` leaves at its end: its name is free, and its mailbox is gone. With
    ``keep`` it stays, and its key is kept under ~/.clawlink (or CLAWLINK_HOME). The next client with ``keep`` and that
    name is the same agent. A client with a given ``agent_id`` never leaves by itself.
    """

    @staticmethod
    def _method(make: Callable[..., Call[Any] | Operation[Any]]) -> Callable[..., Any]:
        @wraps(make)
        def method(self: Client, *args: Any, **kwargs: Any) -> Any:
            if make is endpoints.register and self.keep:
                return self._register_and_keep(*args, **kwargs)
            work = make(self.identity, *args, **kwargs)
            return self.run(work) if isinstance(work, Operation) else self.perform(work)

        return method

    def _register_and_keep(self, name: str | None = None, **said: Any) -> Registered:
        from clawlink.client.registration import register_and_keep

        def register(key: str | None) -> Registered:
            return self.perform(endpoints.register(self.identity, name, **{"key": key, **said}))

        return register_and_keep(self, name, register, **said)

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.auth = _KeepHeaders()
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(max_retries=0))
        session.trust_env = False
        proxy = self._proxy
        if proxy is not None:
            session.proxies = {"all": proxy.url}
        return session

    @cached_property
    def _certificates(self) -> str | None:
        """The file of trusted certificates; None for the usual ones."""
        environ = {} if self._on_loopback else os.environ
        return self.ca or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")

    def _ask_elsewhere(self, error: ClawLinkError) -> None:
        before = self.relay
        super()._ask_elsewhere(error)
        if self.relay != before:  # another proxy and other certificates may lead there
            self.close()
            for name in ("_session", "_certificates"):
                self.__dict__.pop(name, None)

    def close(self) -> None:
        """Close the connections."""
        if "_session" in self.__dict__:
            self._session.close()

    def __enter__(self) -> Client:
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if (leaving := self._leaving()) is not None:
                self._send(leaving, min(self.timeout, LEAVE_SECONDS))
        except ClawLinkError as refused:
            self._stayed(refused)
        finally:
            self.close()

    def perform(self, call: Call[T]) -> T:
        """Send a call, again if that is safe and may help, and return its answer. Raises ClawLinkError."""
        attempt, sent = 0, False
        while True:
            attempt += 1
            try:
                answer = self._send(call, self.timeout)
            except ClawLinkError as error:
                other = None if call.otherwise is None else call.otherwise(error)
                sent = may_have_left(error, sent)
                if other is None:
                    time.sleep(self._pause(call, error, attempt))
                else:
                    call, attempt = other, 0
            else:
                found = self._learn(call, answer)
                following = None if call.follow is None else call.follow(found)
                if following is None:
                    return found
                call, attempt, sent = following, 0, True

    # Registers again with a relay that has forgotten this agent. The request is then sent once more.
    _on_forgotten: Callable[[], None] | None = None

    def _send(self, call: Call[T], patience: float) -> T:
        try:
            return self._send_once(call, patience)
        except UnknownAgent as error:
            of_itself = call.endpoint in (paths.REGISTER, paths.LEAVE) or error.field not in WHO_ASKS
            if self._on_forgotten is None or of_itself:
                raise
            self._on_forgotten()
            return self._send_once(call, patience)

    def _send_once(self, call: Call[T], patience: float) -> T:
        response = self._request(call, patience, patience + call.wait)
        if broke_off(response):
            raise self._nobody(EOFError("the answer broke off in its head"), broke_off=True)
        return self._read(call, Reply(response.status_code, response.headers, response.content))

    def lines(self, endpoint: Endpoint, *, silence: float) -> Iterator[str]:
        """Give the lines of a reply that goes on, as they come.

        Raises RelayUnreachable when the connection breaks or is silent for that many seconds. Raises the refusal of the
        relay.
        """
        call = simple_call(endpoint, read=bytes)
        response = self._request(call, self.timeout, silence, stream=True)
        with response:
            try:
                if response.status_code != HTTPStatus.OK:
                    self._read(call, Reply(response.status_code, response.headers, response.content))
                for line in response.iter_lines(chunk_size=None):
                    yield line.decode("utf-8", "replace")
            except requests.exceptions.RequestException as error:
                raise RelayUnreachable(f"the connection to {self.relay} broke: {_reason(error)}") from error

    def _request(self, call: Call[Any], patience: float, silence: float, *, stream: bool = False) -> requests.Response:
        # As bytes, since a header's text is latin-1 and a token need not be.
        headers = {name: value.encode() for name, value in self._headers(call).items()}
        try:
            return self._session.request(
                call.endpoint.method,
                self.relay + call.path,
                data=piecemeal(call.body),
                headers=headers,
                timeout=(patience, silence),
                allow_redirects=False,
                verify=self._certificates,
                stream=stream,
            )
        except requests.exceptions.InvalidProxyURL as error:
            raise self._nobody(error, broke_off=False) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise no_address(self.relay) from None
        except (LocationParseError, UnicodeError):  # DNS can have no such name, as with an empty label
            raise no_address(self.relay) from None
        except requests.exceptions.SSLError as error:
            raise self._untrusted(_reason(error)) from error
        except requests.exceptions.Timeout as error:
            raise self._silent(patience) from error
        except requests.exceptions.RequestException as error:
            broke_off = any(isinstance(one, ProtocolError) for one in error.args)
            raise self._nobody(error, broke_off=broke_off) from error
        except OSError as error:  # nothing of the network: requests has names of its own for all that
            raise self._unreadable(error) from error

    # -- waiting -------------------------------------------------------------------------------------------------------

    def as_completed(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> Iterator[TaskView]:
        """Give tasks as they become final, each once; otherwise as ``wait_for``."""
        from clawlink.client.wait_steps import FINAL, ConnectionState, TaskGroupWaiter, about_task, distinct

        ids = distinct(task_ids)
        if len(ids) == 1:
            yield self.wait_for(ids[0], timeout, on_change, on_away=on_away)
            return
        waiter = TaskGroupWaiter([about_task(self.identity, id) for id in ids], timeout)
        threads = _Threads()
        try:
            for line in waiter.lines:
                twin = Client(**self._arguments())
                twin._on_forgotten = self._on_forgotten
                threads.start(twin, line)
            while waiter.going:
                try:
                    said = threads.said.get(timeout=min(waiter.left, _TICK_SECONDS))
                except Empty:
                    if waiter.left <= 0:
                        raise waiter.late() from None
                    continue
                if isinstance(said, BaseException):
                    raise said
                news = waiter.hear(said)
                if isinstance(news, ConnectionState):
                    _tell(on_away, news.error)
                elif news is not None:
                    _tell(on_change, news)
                    if news.status in FINAL:
                        yield news
        finally:
            threads.over.set()

    def wait_any(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> TaskView:
        """Wait until one of the tasks is completed, and return it; else return the last that ended in another way."""
        last = None
        for last in self.as_completed(task_ids, timeout, on_change, on_away=on_away):
            if last.status == "completed":
                break
        if last is None:
            raise AssertionError("at least one task is followed to its end")
        return last

    def run(self, operation: Operation[T]) -> T:
        """Run the steps of an operation, call its listeners, and return its result."""
        try:
            for said in self._drive(operation.steps, lambda seconds: time.sleep(seconds)):
                tell = operation.hear(said.news)
                if tell is not None:
                    tell()
        except KeyboardInterrupt as error:
            self._last_words(operation.steps, error)
            raise
        finally:
            # Close at once, not when the failure is collected: a half-written file goes with it.
            operation.steps.close()
        return operation.result

    def _last_words(self, steps: Generator[Step, Any, None], error: KeyboardInterrupt) -> None:
        """Let steps that rested when they were interrupted clean up after themselves."""
        from clawlink.client.wait_steps import Send

        with contextlib.suppress(StopIteration, ClawLinkError, KeyboardInterrupt):
            step = steps.throw(error)
            while isinstance(step, Send):
                step = steps.send(self._send(step.call, min(step.patience, self.timeout)))

    def _drive(self, steps: Generator[Step, Any, None], rest: Callable[[float], bool | None]) -> Iterator[Event]:
        """Do the steps of a wait, and yield its news; ``rest`` sleeps, and returns True to end it."""
        from clawlink.client.wait_steps import Event, RunBlocking, Send

        try:
            step = next(steps)
            while True:
                if isinstance(step, Event):
                    yield step
                elif isinstance(step, Send):
                    try:
                        answer = self._send(step.call, min(step.patience, self.timeout))
                    except (ClawLinkError, KeyboardInterrupt) as error:  # an interrupted operation may have a last step
                        step = steps.throw(error)
                    else:
                        step = steps.send(answer)
                    continue
                elif isinstance(step, RunBlocking):
                    try:
                        done = step.work()
                    except (Exception, KeyboardInterrupt) as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(done)
                    continue
                elif rest(step.seconds):
                    return
                step = next(steps)
        except StopIteration:
            return


class _Threads:
    """The threads that ask for a crowd. They end with the process, and soon after the last wait."""

    def __init__(self) -> None:
        self.said: Queue[Event | BaseException] = Queue()
        self.over = threading.Event()

    def start(self, client: Client, line: Generator[Step, Any, None]) -> None:
        """Follow a line in a thread with a client of its own. A failure of one ends the waiting of all."""
        threading.Thread(target=self._run, args=(client, line), daemon=True).start()

    def _run(self, client: Client, line: Generator[Step, Any, None]) -> None:
        try:
            with client:
                for said in client._drive(line, self.over.wait):
                    self.said.put(said)
        except BaseException as error:
            self.said.put(error)


def _tell(listener: Callable[[T], object] | None, news: T) -> None:
    if listener is not None:
        listener(news)


def broke_off(response: requests.Response) -> bool:
    """Return True if the connection ended in the head of the reply: http.client takes such a reply for an empty one."""
    if response.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED) or response.request.method == "HEAD":
        return False
    headers = response.headers
    tells_its_end = headers.get("Content-Length", "").isdigit() or "chunked" in headers.get("Transfer-Encoding", "")
    return not tells_its_end and not response.content


def _reason(error: Exception) -> object:
    """Return the underlying fault, without the words of requests and urllib3 around it."""
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", inner)


class _KeepHeaders(requests.auth.AuthBase):
    """Keeps requests from replacing the token by a netrc entry for the host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request
