"""The blocking client, on requests: a thin shell over ``calls``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast
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
from clawlink.protocol.replies import MessageStatus, TaskView
from clawlink.version import VERSION

if TYPE_CHECKING:
    from clawlink.client.waiting import Question

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
            print(client.wait_for(done.message_id, timeout=600).result)

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
        self._token = token
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
                answer = call.answer(self._send(call, self.timeout))
            except ClawLinkError as error:
                pause = self.backoff.pause(error, attempt=attempt, repeatable=call.repeatable, random=random.random())
                if pause is None:
                    raise
                time.sleep(pause)
                continue
            if call.learn is not None:
                call.learn(self.identity, answer)
            return answer

    def _once(self, call: Call[T], patience: float) -> T:
        """Send a call a single time, and wait no longer than that for its answer."""
        return call.answer(self._send(call, min(patience, self.timeout)))

    def _send(self, call: Call[T], patience: float) -> bytes:
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
                timeout=(patience, patience + call.wait),
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
            raise RelayUnreachable(f"the relay at {self.relay} did not answer within {patience:.3g} s") from error
        except requests.exceptions.RequestException as error:
            raise RelayUnreachable(
                f"no relay answers at {self.relay}; is it running? start one with: clawlink serve"
            ) from error
        if response.status_code == 200:
            return response.content
        if 300 <= response.status_code < 400:
            raise NotARelay(f"{self.relay} redirects elsewhere (HTTP {response.status_code}); give the relay's own")
        raise failure.from_reply(response.status_code, response.content)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> TaskView:
        """Wait until a task is final, for ``timeout`` seconds or as long as it takes, and return it.

        ``on_change`` is given the task as it is, and then at each change. While the relay is away or restarts, it is
        asked again and again; ``on_away`` is told why, and with None that it is back. Raises StillPending when the time
        is over, and what cannot get better by waiting, as UnknownTask.
        """
        from clawlink.client.waiting import FINAL, Trouble, follow  # a few milliseconds that most commands do not need

        for news in follow(self._about_task(task_id), timeout):
            if isinstance(news, Trouble):
                _tell(on_away, news.error)
                continue
            _tell(on_change, news)
            if news.status in FINAL:
                return news
        raise AssertionError("a task is followed to its end")

    def as_completed(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> Iterator[TaskView]:
        """Give tasks as they become final, each once; otherwise as ``wait_for``."""
        from clawlink.client.waiting import CROWD, FINAL, Trouble, follow_all

        ids = list(dict.fromkeys(task_ids))
        if not ids:
            raise BadRequest("there is no task to wait for", field="task_ids")
        if len(ids) == 1:
            yield self.wait_for(ids[0], timeout, on_change, on_away=on_away)
            return
        twins = [self._twin() for _ in ids[:CROWD]]
        lines = [([twin._about_task(id) for id in ids[at::CROWD]], twin.close) for at, twin in enumerate(twins)]
        for _, news in follow_all(lines, timeout):
            if isinstance(news, Trouble):
                _tell(on_away, news.error)
                continue
            _tell(on_change, news)
            if news.status in FINAL:
                yield news

    def wait_any(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> TaskView:
        """Wait until one of the tasks is completed, and return it; if none of them is, the last to end another way."""
        last = None
        for last in self.as_completed(task_ids, timeout, on_change, on_away=on_away):
            if last.status == "completed":
                break
        if last is None:
            raise AssertionError("at least one task is followed to its end")
        return last

    def wait_message(
        self,
        message_id: str,
        until: str = "acked",
        timeout: float | None = None,
        on_change: Callable[[MessageStatus], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> MessageStatus:
        """Wait until a message is ``until`` (delivered, acked, answered) or will never be; else as ``wait_for``."""
        from clawlink.client.waiting import Trouble, follow, settled

        for news in follow(self._about_message(message_id, until), timeout):
            if isinstance(news, Trouble):
                _tell(on_away, news.error)
                continue
            _tell(on_change, news)
            if settled(news, until):
                return news
        raise AssertionError("a message is followed to its end")

    def _about_task(self, task_id: str) -> Question[TaskView]:
        from clawlink.client.waiting import FINAL, Question

        def ask(last: TaskView | None, wait: float, patience: float) -> TaskView:
            since = None if last is None else last.version
            return self._once(calls.task(self.identity, task_id, wait=wait, since=since), patience)

        return Question(task_id, ask, lambda task: task.status in FINAL, self._check)

    def _about_message(self, message_id: str, until: str) -> Question[MessageStatus]:
        from clawlink.client.waiting import Question, next_stage, settled

        def ask(last: MessageStatus | None, wait: float, patience: float) -> MessageStatus:
            stage = until if last is None else next_stage(last, until)
            return self._once(calls.message(self.identity, message_id, wait=wait, until=stage), patience)

        return Question(message_id, ask, lambda status: settled(status, until), self._check)

    def _check(self, patience: float) -> object:
        return self._once(calls.health(self.identity), patience)

    def _twin(self) -> Client:
        """Return a client that acts as this one, for another thread."""
        me = self.identity
        return Client(
            self.relay,
            token=self._token,
            agent_id=me.agent_id,
            agent_key=me.agent_key,
            timeout=self.timeout,
            backoff=self.backoff,
            ca=self._ca,
        )

    # -- one method for each endpoint ----------------------------------------------------------------------------------

    info = _method(calls.info)
    health = _method(calls.health)
    register = _method(calls.register)
    discover = _method(calls.discover)
    heartbeat = _method(calls.heartbeat)
    leave = _method(calls.leave)
    delegate = _method(calls.delegate)
    respond = _method(calls.respond)
    tasks = _method(calls.tasks)
    task = _method(calls.task)
    cancel = _method(calls.cancel)
    answer = _method(calls.answer)
    send = _method(calls.send)
    broadcast = _method(calls.broadcast)
    knowledge = _method(calls.knowledge)
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


def _tell(listener: Callable[[T], object] | None, news: T) -> None:
    if listener is not None:
        listener(news)


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
