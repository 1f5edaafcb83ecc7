"""The blocking client, on requests: a thin shell over ``calls``."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property, wraps
from queue import Empty, Queue
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError

from clawlink.client.calls import Call, Reply
from clawlink.client.shell import Shell, piecemeal
from clawlink.errors import ClawLinkError
from clawlink.protocol.replies import FileHistory, FileSaved, MessageStatus, TaskView

if TYPE_CHECKING:
    from clawlink.client.blob_calls import FileFacts
    from clawlink.client.waiting import Said, Step
    from clawlink.domain.message import Attachment

T = TypeVar("T")


class Client(Shell):
    """Talks to one relay, as one agent.

        with Client("http://192.168.1.5:9077", token="...") as client:
            client.register("researcher", capabilities=["search"])
            done = client.delegate("writer", "Summarise the findings", context={"format": "markdown"})
            print(client.wait_for(done.message_id, timeout=600).result)

    ``timeout`` is in seconds, for connecting and for each answer, on top of what a call waits on purpose. Failures are
    raised as the classes in ``clawlink.errors``. What is safe to repeat is repeated with backoff; writes carry
    idempotency keys, so they are. One client is for one thread.
    """

    @staticmethod
    def _method(make: Callable[..., Call[Any]]) -> Callable[..., Any]:
        @wraps(make)
        def method(self: Client, *args: Any, **kwargs: Any) -> Any:
            return self.perform(make(self.identity, *args, **kwargs))

        return method

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.auth = _KeepHeaders()
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(max_retries=0))
        session.trust_env = not self._on_loopback
        return session

    def close(self) -> None:
        """Close the connections."""
        if "_session" in self.__dict__:
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
                answer = self._send(call, self.timeout)
            except ClawLinkError as error:
                time.sleep(self._pause(call, error, attempt))
            else:
                return self._learn(call, answer)

    def _send(self, call: Call[T], patience: float) -> T:
        # As bytes, since a header's text is latin-1 and a token need not be.
        headers = {name: value.encode() for name, value in self._headers(call).items()}
        try:
            response = self._session.request(
                call.endpoint.method,
                self.relay + call.path,
                data=piecemeal(call.body),
                headers=headers,
                timeout=(patience, patience + call.wait),
                allow_redirects=False,
                verify=self.ca,  # here and not at the session, where REQUESTS_CA_BUNDLE would go before it
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise self._no_address() from None
        except requests.exceptions.SSLError as error:
            raise self._untrusted(_reason(error)) from error
        except requests.exceptions.Timeout as error:
            raise self._silent(patience) from error
        except requests.exceptions.RequestException as error:
            broke_off = any(isinstance(one, ProtocolError) for one in error.args)
            raise self._nobody(broke_off=broke_off) from error
        except OSError as error:  # nothing of the network: requests has names of its own for all that
            raise self._unreadable(error) from error
        return self._read(call, Reply(response.status_code, response.headers, response.content))

    # -- files of any size ---------------------------------------------------------------------------------------------

    def upload(
        self,
        file_key: str,
        source: str | os.PathLike[str] | IO[bytes],
        *,
        content_type: str | None = None,
        file_type: str | None = None,
        if_version: int | None = None,
        ttl: float | None = None,
        burn: bool = False,
        force: bool = False,
        key: str | None = None,
        patience: float = 60.0,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> FileSaved:
        """Write a shared file from a path, a folder (as a tar), or a file object that is open for reading bytes.

        What is large goes in pieces, none of which is sent twice if it has arrived. Failures that pass by themselves
        are borne for ``patience`` seconds after the last success; ``on_away`` is told why, and with None that it goes
        on. ``on_progress`` is given how many bytes are there, and of how many, if that is known. With the idempotency
        ``key`` of an upload that broke off it goes on with that one. For all else see ``put_blob``.
        """
        from clawlink.client import transfer
        from clawlink.client.blob_calls import Terms

        terms = Terms(content_type, file_type, if_version, ttl, burn, force)
        steps = transfer.upload(self.identity, file_key, source, terms, key=key, patience=patience)
        return self._transferred(steps, FileSaved, on_progress, on_away)

    def download(
        self,
        file_key: str,
        target: str | os.PathLike[str] | IO[bytes],
        *,
        version: int | None = None,
        sha256: str | None = None,
        patience: float = 60.0,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> FileFacts:
        """Read a shared file to a path, whole or not at all, or into a file object that is open for writing bytes.

        Its SHA-256 is compared before it is there; an object has it all before that is known. If it is not the
        ``sha256`` asked for, nothing is read: DigestMismatch. What breaks off goes on where it was; ``patience``,
        ``on_progress`` and ``on_away`` are those of ``upload``.
        """
        from clawlink.client import transfer
        from clawlink.client.blob_calls import FileFacts

        sink = transfer.sink(target)
        steps = transfer.download(self.identity, file_key, sink, version=version, sha256=sha256, patience=patience)
        return self._transferred(steps, FileFacts, on_progress, on_away)

    def attach(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        name: str | None = None,
        *,
        on_progress: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> Attachment:
        """Share a file or a folder under a key of its own, and return what ``delegate``, ``respond`` and ``send`` take.

        ``name`` is what it is called there; of a path it is the last part. What is there already is not sent again.
        ``on_progress`` and ``on_away`` are those of ``upload``.
        """
        from clawlink.client import transfer
        from clawlink.domain.message import Attachment

        return self._transferred(transfer.attach(self.identity, source, name), Attachment, on_progress, on_away)

    def watch_file(
        self,
        file_key: str,
        since: int | None = None,
        timeout: float | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> FileHistory:
        """Wait until a shared file is at another version than ``since``, or than now; else as ``wait_for``.

        A deletion counts, and so does the first version of a file that is not there yet.
        """
        from clawlink.client.waiting import about_file, follow

        return self._last(follow(about_file(self.identity, file_key, since), timeout), None, on_away)

    def _transferred(
        self,
        steps: Generator[Step, Any, None],
        kind: type[T],
        on_progress: Callable[[int, int | None], object] | None = None,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> T:
        """Do what a transfer takes, and return what came of it."""
        from clawlink.client.transfer import Moved
        from clawlink.client.waiting import Trouble

        done: object = None
        try:
            for said in self._drive(steps, lambda seconds: time.sleep(seconds)):
                if isinstance(said.news, Trouble):
                    _tell(on_away, said.news.error)
                elif not isinstance(said.news, Moved):
                    done = said.news
                elif on_progress is not None:
                    on_progress(*said.news)
        finally:
            steps.close()  # now, and not when nobody looks at the failure any more: a half-written file goes with it
        if not isinstance(done, kind):
            raise AssertionError("a transfer ends with what came of it")
        return done

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
        from clawlink.client.waiting import about_task, follow  # a few milliseconds that most commands do not need

        return self._last(follow(about_task(self.identity, task_id), timeout), on_change, on_away)

    def as_completed(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> Iterator[TaskView]:
        """Give tasks as they become final, each once; otherwise as ``wait_for``."""
        from clawlink.client.waiting import FINAL, Crowd, Trouble, about_task, distinct

        ids = distinct(task_ids)
        if len(ids) == 1:
            yield self.wait_for(ids[0], timeout, on_change, on_away=on_away)
            return
        crowd = Crowd([about_task(self.identity, id) for id in ids], timeout)
        threads = _Threads()
        try:
            for line in crowd.lines:
                threads.start(Client(**self._arguments()), line)
            while crowd.going:
                try:
                    said = threads.said.get(timeout=min(crowd.left, threading.TIMEOUT_MAX))
                except Empty:
                    raise crowd.late() from None
                if isinstance(said, BaseException):
                    raise said
                news = crowd.hear(said)
                if isinstance(news, Trouble):
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
        from clawlink.client.waiting import about_message, follow

        return self._last(follow(about_message(self.identity, message_id, until), timeout), on_change, on_away)

    def _last(
        self,
        steps: Generator[Step, Any, None],
        on_change: Callable[[T], object] | None,
        on_away: Callable[[ClawLinkError | None], object] | None,
    ) -> T:
        """Tell all news of one task or message, and return the last of it."""
        from clawlink.client.waiting import Trouble

        last: T | None = None
        for said in self._drive(steps, lambda seconds: time.sleep(seconds)):
            if isinstance(said.news, Trouble):
                _tell(on_away, said.news.error)
            else:
                last = said.news
                _tell(on_change, said.news)
        if last is None:
            raise AssertionError("what is followed to its end was seen")
        return last

    def _drive(self, steps: Generator[Step, Any, None], rest: Callable[[float], bool | None]) -> Iterator[Said]:
        """Do what waiting takes, and give what it says; ``rest`` sleeps, and returns true to end it."""
        from clawlink.client.waiting import Ask, Do, Said

        try:
            step = next(steps)
            while True:
                if isinstance(step, Said):
                    yield step
                elif isinstance(step, Ask):
                    try:
                        answer = self._send(step.call, min(step.patience, self.timeout))
                    except (ClawLinkError, KeyboardInterrupt) as error:  # who is interrupted may have a last word
                        step = steps.throw(error)
                    else:
                        step = steps.send(answer)
                    continue
                elif isinstance(step, Do):
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
    """The threads that ask for a crowd. They end with the process, and soon after nobody waits for them any more."""

    def __init__(self) -> None:
        self.said: Queue[Said | BaseException] = Queue()
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


def _reason(error: Exception) -> object:
    """Return what went wrong underneath, without what requests and urllib3 say around it."""
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", inner)


class _KeepHeaders(requests.auth.AuthBase):
    """Keeps requests from replacing our token by what a netrc file has for the host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request
