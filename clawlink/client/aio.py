"""The client for asyncio, on aiohttp: a thin shell over ``endpoints``."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing
from functools import cached_property, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from yarl import URL

from clawlink.client import endpoints
from clawlink.client.address import no_address
from clawlink.client.base_client import LEAVE_SECONDS, BaseClient, piecemeal
from clawlink.client.calls import Call, Reply
from clawlink.client.connection_errors import may_have_left
from clawlink.client.operations import Operation
from clawlink.client.wait_steps import (
    FINAL,
    ConnectionState,
    Event,
    RunBlocking,
    Sleep,
    Step,
    TaskGroupWaiter,
    about_task,
    distinct,
)
from clawlink.errors import ClawLinkError
from clawlink.protocol.replies import Registered, TaskView

if TYPE_CHECKING:
    from clawlink.client.stream import Stream

T = TypeVar("T")

# The errors that aiohttp raises before there is an answer. A timeout is an OSError of its own only from Python 3.11 on.
# A UnicodeError is of a host that DNS can have no name for, as with an empty label.
NO_ANSWER = (aiohttp.ClientError, OSError, asyncio.TimeoutError, UnicodeError)

# The clock is checked every this many seconds.
_ALARM_SECONDS = 3600.0


class AsyncClient(BaseClient):
    """Talks to one relay, as one agent, from asyncio.

        async with AsyncClient("http://192.168.1.5:9077", token="...") as client:
            await client.register("researcher", capabilities=["search"])
            done = await client.delegate("writer", "Summarise the findings", context={"format": "markdown"})
            print((await client.wait_for(done.message_id, timeout=600)).result)

    It has the methods of ``Client``, to be awaited, with the same arguments, answers, retries and errors. One client
    is for one event loop, and there for as many tasks as there are. ``keep``, and leaving at the end of ``async with``,
    are those of ``Client``.
    """

    @staticmethod
    def _method(make: Callable[..., Call[Any] | Operation[Any]]) -> Callable[..., Any]:
        @wraps(make)
        async def method(self: AsyncClient, *args: Any, **kwargs: Any) -> Any:
            if make is endpoints.register and self.keep:
                return await self._register_and_keep(*args, **kwargs)
            work = make(self.identity, *args, **kwargs)
            return await (self.run(work) if isinstance(work, Operation) else self.perform(work))

        return method

    async def _register_and_keep(self, *args: Any, **said: Any) -> Registered:
        """Register by the blocking client, in a thread: most of it is work on files."""
        from clawlink.client.sync import Client

        def register() -> tuple[Client, Registered]:
            twin = Client(**self._arguments(), keep=True)
            with contextlib.closing(twin):
                return twin, twin.register(*args, **said)

        twin, done = await asyncio.to_thread(register)
        vars(self.identity).update(vars(twin.identity))
        self.token, self.ca = twin.token, twin.ca
        return done

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession()
        # Only this class decides about repeats; aiohttp would send a DELETE again after a lost answer.
        session._retry_connection = False
        return session

    async def close(self) -> None:
        """Close the connections."""
        session: aiohttp.ClientSession | None = self.__dict__.pop("_session", None)
        if session is not None:
            await session.close()

    async def __aenter__(self) -> AsyncClient:
        self._inside = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if (leaving := self._leaving()) is not None:
                await self._send(leaving, min(self.timeout, LEAVE_SECONDS))
        except ClawLinkError as refused:
            self._stayed(refused)
        finally:
            await self.close()

    def stream(self, *, lease: float = 60.0, credit: int = 32) -> Stream:
        """Claim messages over a websocket: ``async with client.stream() as stream``, ``async for claimed in stream``.

        Each is held for ``lease`` seconds, and at most ``credit`` of them are under way unacked.
        """
        from clawlink.client.stream import Stream

        return Stream(self, lease=lease, credit=credit)

    async def perform(self, call: Call[T]) -> T:
        """Send a call, again if that is safe and may help, and return its answer. Raises ClawLinkError."""
        attempt, sent = 0, False
        while True:
            attempt += 1
            try:
                answer = await self._send(call, self.timeout)
            except ClawLinkError as error:
                other = None if call.otherwise is None else call.otherwise(error)
                sent = may_have_left(error, sent)
                if other is None:
                    await asyncio.sleep(self._pause(call, error, attempt))
                else:
                    call, attempt = other, 0
            else:
                found = self._learn(call, answer)
                following = None if call.follow is None else call.follow(found)
                if following is None:
                    return found
                call, attempt, sent = following, 0, True

    async def _send(self, call: Call[T], patience: float) -> T:
        try:
            async with self._session.request(
                call.endpoint.method,
                self._url(call.path),
                data=piecemeal(call.body),
                headers=self._headers(call),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience, sock_read=patience + call.wait),
                allow_redirects=False,
                ssl=await self._trusted(),
                proxy=self._proxy_url,
            ) as response:
                reply = Reply(response.status, response.headers, await response.read())
        except NO_ANSWER as error:
            raise self._failure(error, patience) from error
        return self._read(call, reply)

    def _failure(self, error: Exception, patience: float) -> ClawLinkError:
        """Return the error for a request without an answer."""
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError | UnicodeError):
            return no_address(self.relay)
        if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
            return self._untrusted(getattr(error, "os_error", None) or getattr(error, "certificate_error", error))
        if isinstance(error, asyncio.TimeoutError | TimeoutError):
            return self._silent(patience)
        # A failure to connect is a kind of ClientOSError, too.
        broke_off = isinstance(error, aiohttp.ClientError) and not isinstance(error, aiohttp.ClientConnectorError)
        return self._nobody(error, broke_off=broke_off)

    # -- how to get there ----------------------------------------------------------------------------------------------

    def _url(self, path: str) -> URL:
        try:
            url = URL(self.relay + path, encoded=True)
            url.port  # noqa: B018 - which is looked at only when it is asked for
        except ValueError:
            raise no_address(self.relay) from None
        return url

    @property
    def _proxy_url(self) -> str | None:
        """The proxy's address for aiohttp. Its own reading of the environment would let netrc replace the token."""
        return None if self._proxy is None else self._proxy.url

    _tls: ssl.SSLContext | None = None

    async def _trusted(self) -> ssl.SSLContext | bool:
        """Return the TLS context of trusted certificates. Reading certificates takes a while."""
        if not self.relay.lower().startswith("https:"):
            return True
        if self._tls is None:
            self._tls = await asyncio.to_thread(self._certificates)
        return self._tls

    def _certificates(self) -> ssl.SSLContext:
        """Trust the certificates that are given, or else those that the blocking client trusts."""
        path = self.ca
        if path is None:
            from requests.utils import DEFAULT_CA_BUNDLE_PATH

            environ = {} if self._on_loopback else os.environ
            path = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
        try:
            if os.path.isdir(path):
                return ssl.create_default_context(capath=path)
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise self._unreadable(error) from error

    # -- waiting -------------------------------------------------------------------------------------------------------

    async def as_completed(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> AsyncGenerator[TaskView, None]:
        """Give tasks as they become final, each once; otherwise as ``wait_for``."""
        ids = distinct(task_ids)
        if len(ids) == 1:
            yield await self.wait_for(ids[0], timeout, on_change, on_away=on_away)
            return
        waiter = TaskGroupWaiter([about_task(self.identity, id) for id in ids], timeout)
        told: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        # Connections of its own: these wait long, and would hold up other calls of the client.
        async with AsyncClient(**self._arguments()) as twin:
            asking = [asyncio.create_task(twin._tell_all(line, told)) for line in waiter.lines]
            try:
                while waiter.going:
                    # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the news.
                    alarm = loop.call_later(min(waiter.left, _ALARM_SECONDS), told.put_nowait, None)
                    said = await told.get()
                    alarm.cancel()
                    if said is None:
                        if waiter.left <= 0:
                            raise waiter.late()
                        continue
                    if isinstance(said, Exception):
                        raise said
                    news = waiter.hear(said)
                    if isinstance(news, ConnectionState):
                        await _tell(on_away, news.error)
                    elif news is not None:
                        await _tell(on_change, news)
                        if news.status in FINAL:
                            yield news
            finally:
                for one in asking:
                    one.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    async def wait_any(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        on_change: Callable[[TaskView], object] | None = None,
        *,
        on_away: Callable[[ClawLinkError | None], object] | None = None,
    ) -> TaskView:
        """Wait until one of the tasks is completed, and return it; else return the last that ended in another way."""
        last = None
        async with aclosing(self.as_completed(task_ids, timeout, on_change, on_away=on_away)) as results:
            async for last in results:
                if last.status == "completed":
                    break
        if last is None:
            raise AssertionError("at least one task is followed to its end")
        return last

    async def run(self, operation: Operation[T]) -> T:
        """Run the steps of an operation, call its listeners, and return its result."""
        try:
            async with aclosing(self._drive(operation.steps)) as driven:
                async for said in driven:
                    await _tell(operation.hear(said.news))
        finally:
            # Close at once, not when the failure is collected: a half-written file goes with it.
            operation.steps.close()
        return operation.result

    async def _tell_all(self, line: Generator[Step, Any, None], told: asyncio.Queue[Event | Exception | None]) -> None:
        try:
            async with aclosing(self._drive(line)) as driven:
                async for said in driven:
                    told.put_nowait(said)
        except Exception as error:
            told.put_nowait(error)

    async def _drive(self, steps: Generator[Step, Any, None]) -> AsyncGenerator[Event, None]:
        """Do the steps of a wait, and yield its news."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Event):
                    yield step
                elif isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, RunBlocking):
                    try:
                        done = await asyncio.to_thread(step.work)
                    except Exception as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(done)
                    continue
                else:
                    try:
                        answer = await self._send(step.call, min(step.patience, self.timeout))
                    except ClawLinkError as error:
                        step = steps.throw(error)
                    else:
                        step = steps.send(answer)
                    continue
                step = next(steps)
        except StopIteration:
            return


async def _tell(listener: Callable[..., object] | None, *news: object) -> None:
    """Tell a listener, which may be a plain function or an async one."""
    if listener is not None:
        done = listener(*news)
        if inspect.isawaitable(done):
            await done
