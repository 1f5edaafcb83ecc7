"""Agent Link for Python: send and receive messages as ``instance/agent``, from asyncio and from plain threads.

    link = AgentLink("ws://relay:9077/agentlink", secret, "my-instance", "assistant")

    @link.on_message
    def reply(from_agent, message):
        link.send(from_agent, "got it")

    link.send("other-instance/assistant", "hello")     # in a thread: returns once the relay has it
    await link.send("other-instance/assistant", "hello")  # on an event loop

A link runs on a thread of its own, so that it answers the relay whatever the program does.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from clawlink.client.identity import home
from clawlink.doors.agentlink.client.connecting import Connected, Connecting
from clawlink.doors.agentlink.client.engine import Engine
from clawlink.doors.agentlink.client.message import Message
from clawlink.doors.agentlink.client.sent import Pending, Sent, require_text
from clawlink.doors.agentlink.client.thread import LoopThread, here
from clawlink.doors.agentlink.wire import signing
from clawlink.doors.agentlink.wire.files import LinkFile, read_link, require_interval
from clawlink.errors import BadRequest

__all__ = ["CONFIG_NAME", "AgentLink", "Message", "Pending", "Sent", "default_config"]

CONFIG_NAME = "agent-link-config.json"
_LOOK_SECONDS = 0.5
_log = logging.getLogger("clawlink.agentlink")

# The link whose handler runs here, if one does.
_handling: contextvars.ContextVar[AgentLink | None] = contextvars.ContextVar("clawlink_agentlink", default=None)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def default_config() -> Path:
    """Return where the configuration is if none is named: in the working directory, or with ClawLink's own files."""
    here = Path(CONFIG_NAME)
    return here if here.exists() else home() / CONFIG_NAME


class AgentLink:
    """An agent of an instance. Arguments that are not given come from the configuration file."""

    def __init__(
        self,
        relay_url: str | None = None,
        secret: str | None = None,
        instance_id: str | None = None,
        agent_id: str | None = None,
        *,
        config_path: str | os.PathLike[str] | None = None,
        auto_reconnect: bool | None = None,
        reconnect_interval: float | None = None,
        end_to_end: dict[str, str] | None = None,
        ca: str | None = None,
        drain: float = 10.0,
    ) -> None:
        """Make a link; it connects when it is told to, or when it first sends.

        ``end_to_end`` holds secrets by instance, each shared with that instance alone. Messages to it are sealed, and
        messages from it must be sealed. ``ca`` is a file with the certificate to trust for wss. ``drain`` is the time
        in seconds for a handler to return when the link is disconnected. ``reconnect_interval`` is the longest pause in
        seconds before the link connects again (default 30). Raises BadRequest for invalid arguments, FileNotFoundError
        for a missing configuration.
        """
        given = {
            "relay_url": relay_url,
            "secret": secret,
            "instance_id": instance_id,
            "agent_id": agent_id,
            "auto_reconnect": auto_reconnect,
            "reconnect_interval": reconnect_interval,
            "end_to_end": end_to_end,
            "ca": ca,
        }
        known = {name: value for name, value in given.items() if value is not None}
        if config_path is not None or not {"relay_url", "secret", "instance_id"} <= set(known):
            file = read_link(default_config() if config_path is None else config_path)
            config = msgspec.structs.replace(file, **known)
        else:
            config = LinkFile(**known)  # type: ignore[arg-type]
        signing.require_instance(config.instance_id)
        if config.agent_id is None:
            raise BadRequest("say which agent this is: agent_id", field="agent_id")
        require_interval(config.reconnect_interval)
        signing.require_agent(config.agent_id)
        self._config = config
        self._numbers = itertools.count(1)
        self._handlers: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._watchers: list[Callable[[str], Any]] = []
        self._receivers: list[Callable[[Sent], Any]] = []
        self._state = "disconnected"
        self._why: str | None = None
        self._drain = drain
        self._lock = threading.Lock()
        self._name = f"agentlink {self.address}"
        self._made: tuple[LoopThread, Engine] | None = None
        self._closing: Future[None] | None = None
        self._users_loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] = CONFIG_NAME) -> AgentLink:
        """Make a link from a configuration file."""
        return cls(config_path=path)

    @property
    def address(self) -> str:
        """This agent, as others write to it: ``instance/agent``."""
        return f"{self._config.instance_id}/{self._config.agent_id}"

    @property
    def state(self) -> str:
        """Where the connection stands: ``disconnected``, ``connecting``, ``connected`` or ``closed``."""
        return self._state

    @property
    def connected(self) -> bool:
        """Return True while there is a connection."""
        return self._state == "connected"

    @property
    def reconnect_interval(self) -> float | None:
        """The longest pause in seconds before the link comes back; None for 30. Set it before the link connects."""
        return self._config.reconnect_interval

    @reconnect_interval.setter
    def reconnect_interval(self, seconds: float | None) -> None:
        require_interval(seconds)
        self._config = msgspec.structs.replace(self._config, reconnect_interval=seconds)

    def sign_message(self, message: str) -> str:
        """Return the HMAC-SHA256 of a text with the instance's secret, in hex, as the old form signs."""
        return signing.digest(self._config.secret.encode(), require_text(message, "message").encode())

    @property
    def why(self) -> str | None:
        """Why there is no connection, if there was one or an attempt at one."""
        return self._why

    # -- connect and send --------------------------------------------------------------------------------------------

    def connect(self) -> Connected | Connecting:
        """Connect: awaited on an event loop; in a thread it returns once it is done.

        Raises RelayUnreachable if no relay answers, NotAllowed if the signature is refused. Later the link connects
        again by itself, unless ``auto_reconnect`` is off.

        As a task, by ``asyncio.create_task(link.connect())`` or ``asyncio.run(link.connect())``, it raises the same and
        otherwise ends when the link is disconnected. Cancelling the task disconnects the link.
        """
        thread, engine = self._running()
        attempt = thread.run(engine.connect())

        async def stay() -> None:
            await self._stay(engine, attempt)

        if here() is not None:
            return Connecting(attempt, stay)
        attempt.result()
        return Connected(attempt, stay)

    async def _stay(self, engine: Engine, attempt: Future[None]) -> None:
        """Return when the connection that this attempt makes has ended for good."""
        self._users_loop = here()
        try:
            await asyncio.shield(asyncio.wrap_future(attempt))
            with self._lock:
                if self._made is None or self._made[1] is not engine:  # it is disconnected already
                    return
                ended = self._made[0].run(engine.ended())
            await asyncio.wrap_future(ended)
        except asyncio.CancelledError:
            await self.disconnect()
            raise

    def send(
        self,
        to: str | None = None,
        message: str | None = None,
        *,
        to_agent: str | None = None,
        timeout: float | None = None,
    ) -> Sent:
        """Send a text to ``instance/agent``, a neighbour's bare id, or any agent of the relay.

        Awaited, or in a thread, it returns when the relay has the message, and raises the relay's refusal. Without a
        connection it waits for one: in a thread for ``timeout`` seconds, then it raises TimeoutError, and the message
        stays queued. ``receipt()`` of the result tells when it was read. Raises BadRequest at once for a value that is
        no text. ``to_agent`` is another name of ``to``.
        """
        if to is not None and to_agent is not None:
            raise BadRequest("to and to_agent name the same thing: give one of them", field="to_agent")
        to = require_text(to_agent if to is None else to, "to")
        message = require_text(message, "message")
        if not to:
            raise BadRequest("to is empty: name the recipient, as instance/agent", field="to")
        thread, engine = self._running()
        sent = Sent(to, message)
        thread.run(_send(engine, sent))
        if here() is None:
            sent.result(timeout)
        return sent

    def respond(self, task_id: str, result: str = "", status: str = "completed") -> Pending[str]:
        """Answer a task that a message brought, or report on it with ``status="in_progress"``; gives its new status."""
        thread, engine = self._running()
        return self._wait_for(Pending(thread.run(engine.respond(task_id, result, status))))

    def disconnect(self) -> Pending[None]:
        """Disconnect for good.

        Handlers get no more messages. A running handler has ``drain`` seconds to return, and its message is acked if it
        does. Messages that the relay has not acknowledged by then fail. Called by a handler this returns at once, and
        the link disconnects when the handler has returned.
        """
        with self._lock:
            closing = self._closing
            if self._made is not None and closing is None:
                thread, engine = self._made
                closing = self._closing = thread.stop_after(self._close(engine))
        if closing is None or _handling.get() is self:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return Pending(nothing)
        return self._wait_for(Pending(closing))

    async def _close(self, engine: Engine) -> None:
        try:
            await engine.close(self._drain)
        finally:
            with self._lock:
                self._made = self._closing = None

    def __enter__(self) -> AgentLink:
        try:
            self.connect()
        except BaseException:
            self.disconnect()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    async def __aenter__(self) -> AgentLink:
        try:
            await self.connect()
        except BaseException:
            await self.disconnect()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    # -- handlers ----------------------------------------------------------------------------------------------------

    def on_message(self, handler: F) -> F:
        """Call ``handler`` for each message, and return it: so it can stand as a decorator.

        It takes a ``Message``, or ``(from_agent, message)``. A plain function runs on a thread, an async one on the
        loop that connected. Handlers run one after the other, in order. A message is acked when all have returned, and
        comes again if any raises.
        """
        self.add_handler(handler)
        return handler

    def add_handler(self, handler: Callable[..., Any]) -> int:
        """Call ``handler`` for each message; return the id for its removal. Raises TypeError if it cannot be called."""
        takes_two = _takes_two(handler)
        number = next(self._numbers)
        with self._lock:
            self._handlers[number] = (handler, takes_two)
            self._say_what_is_wanted()
        return number

    def remove_handler(self, handler: int | Callable[..., Any]) -> bool:
        """Remove a handler, by its id or itself; return True if there was one.

        Without a handler, messages stay with the relay.
        """
        with self._lock:
            found = [n for n, (function, _) in self._handlers.items() if handler in (n, function)]
            for number in found:
                del self._handlers[number]
            self._say_what_is_wanted()
        return bool(found)

    def _say_what_is_wanted(self) -> None:
        """Tell the engine whether there are handlers; under the lock, so that the last word is the true one."""
        if self._made is not None:
            thread, engine = self._made
            thread.run(engine.want(bool(self._handlers)))

    def on_state(self, watcher: F) -> F:
        """Call ``watcher`` with the connection's state whenever it changes, on the link's own thread."""
        self._watchers.append(watcher)
        return watcher

    def on_delivered(self, receiver: F) -> F:
        """Call ``receiver`` with each message sent that was read, on the link's own thread."""
        self._receivers.append(receiver)
        return receiver

    # -- the link's own thread ---------------------------------------------------------------------------------------

    def _running(self) -> tuple[LoopThread, Engine]:
        """Return the link's thread and what runs on it, which are made if need be."""
        if threading.current_thread().name != self._name:
            self._users_loop = here() or self._users_loop
        with self._lock:
            if self._made is None:
                engine = Engine(
                    self._config, deliver=self._deliver, on_state=self._changed, on_delivered=self._delivered
                )
                self._made = LoopThread(self._name), engine
                self._made[0].run(engine.want(bool(self._handlers)))
            return self._made

    def _wait_for(self, pending: Pending[T]) -> Pending[T]:
        """Wait for something, unless the caller is on an event loop and may await it."""
        if here() is None:
            pending.result()
        return pending

    async def _deliver(self, message: Message) -> bool:
        """Call the handlers one after the other; return False if there are none."""
        handlers = list(self._handlers.values())
        for handler, takes_two in handlers:
            given = (message.from_agent, message.message) if takes_two else (message,)
            if inspect.iscoroutinefunction(handler):
                await self._on_users_loop(handler(*given))
            else:
                outcome = await asyncio.get_running_loop().run_in_executor(None, self._call, handler, given)
                if inspect.isawaitable(outcome):
                    await self._on_users_loop(outcome)
        return bool(handlers)

    def _call(self, handler: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        token = _handling.set(self)
        try:
            return handler(*given)
        except (StopIteration, SystemExit, KeyboardInterrupt) as error:  # no event loop can pass these on
            raise RuntimeError(f"the handler raised {error!r}") from error
        finally:
            _handling.reset(token)

    async def _awaited(self, work: Awaitable[Any]) -> None:
        _handling.set(self)
        try:
            await work
        except SystemExit as error:  # it would end the loop, and with it all else that runs there
            raise RuntimeError(f"the handler raised {error!r}") from error

    async def _on_users_loop(self, work: Awaitable[Any]) -> None:
        loop = self._users_loop
        if loop is None or loop.is_closed() or not loop.is_running():
            loop = asyncio.get_running_loop()
        ended = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._awaited(work), loop))
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=_LOOK_SECONDS)
                if not ended.done() and loop.is_closed():
                    raise RuntimeError("the event loop was closed before the handler had ended")
            ended.result()
        finally:
            if not loop.is_closed():
                ended.cancel()

    def _changed(self, state: str, why: str | None) -> None:
        self._state, self._why = state, why
        self._tell(self._watchers, state)

    def _delivered(self, sent: Sent) -> None:
        self._tell(self._receivers, sent)

    def _tell(self, whom: list[Callable[[T], Any]], what: T) -> None:
        for function in list(whom):
            try:
                function(what)
            except (Exception, asyncio.CancelledError, SystemExit):  # none of these is to end the link
                _log.exception("a callback failed")


async def _send(engine: Engine, sent: Sent) -> None:
    try:
        await engine.connect()
        await engine.send(sent)
    except Exception as error:
        sent.fail(error)


def _takes_two(handler: Callable[..., Any]) -> bool:
    """Return True if a handler takes ``(from_agent, message)`` rather than one ``Message``."""
    signature = inspect.signature(handler)
    for count in (1, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise TypeError("a handler takes one Message, or from_agent and message")
