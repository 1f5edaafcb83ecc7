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
import inspect
import itertools
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from clawlink.client.agentlink.engine import Engine
from clawlink.client.agentlink.message import Message
from clawlink.client.agentlink.outbox import Pending, Sent, require_text
from clawlink.client.agentlink.thread import LoopThread, here
from clawlink.client.identity import home
from clawlink.errors import BadRequest
from clawlink.protocol.agentlink import signing
from clawlink.protocol.agentlink.files import LinkFile, read_link

__all__ = ["CONFIG_NAME", "AgentLink", "Message", "Pending", "Sent", "default_config"]

CONFIG_NAME = "agent-link-config.json"
_log = logging.getLogger("clawlink.agentlink")

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def default_config() -> Path:
    """Return where the configuration is if none is named: in the working directory, or with ClawLink's own files."""
    here = Path(CONFIG_NAME)
    return here if here.exists() else home() / CONFIG_NAME


class AgentLink:
    """One agent of one instance. Everything that is not given comes from the configuration file."""

    def __init__(
        self,
        relay_url: str | None = None,
        secret: str | None = None,
        instance_id: str | None = None,
        agent_id: str | None = None,
        *,
        config_path: str | os.PathLike[str] | None = None,
        auto_reconnect: bool | None = None,
        end_to_end: dict[str, str] | None = None,
        ca: str | None = None,
    ) -> None:
        """Make a link; it connects when it is told to, or when it first sends.

        ``end_to_end`` holds secrets by instance, each shared with that instance alone: messages to it are sealed, and
        messages from it must be. ``ca`` is a file with the certificate to trust for wss. Raises BadRequest for what
        makes no sense, FileNotFoundError for a configuration that is needed and not there.
        """
        given = {
            "relay_url": relay_url,
            "secret": secret,
            "instance_id": instance_id,
            "agent_id": agent_id,
            "auto_reconnect": auto_reconnect,
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
        signing.require_agent(config.agent_id)
        self._config = config
        self._numbers = itertools.count(1)
        self._handlers: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._watchers: list[Callable[[str], Any]] = []
        self._receivers: list[Callable[[Sent], Any]] = []
        self._state = "disconnected"
        self._why: str | None = None
        self._lock = threading.Lock()
        self._name = f"agentlink {self.address}"
        self._made: tuple[LoopThread, Engine] | None = None
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
    def why(self) -> str | None:
        """Why there is no connection, if there was one or an attempt at one."""
        return self._why

    # -- connect and send --------------------------------------------------------------------------------------------

    def connect(self) -> Pending[None]:
        """Connect: awaited on an event loop; in a thread it returns once it is done.

        Raises RelayUnreachable where nobody answers, NotAllowed where the signature is refused. Later the link comes
        back by itself, unless ``auto_reconnect`` is off.
        """
        thread, engine = self._running()
        return self._wait_for(Pending(thread.run(engine.connect())))

    def send(self, to: str, message: str, *, timeout: float | None = None) -> Sent:
        """Send a text to ``instance/agent``, a neighbour's bare id, or any agent of the relay.

        Awaited, or in a thread at once, it returns when the relay has the message, and raises what it refused. While
        there is no connection it waits for that: in a thread for ``timeout`` seconds, then TimeoutError, and the
        message stays on its way. ``receipt()`` of what it returns tells when it was read. Raises BadRequest at once for
        what is no text.
        """
        require_text(to, "to")
        if not to:
            raise BadRequest("to is empty: say whom the message is for, as instance/agent", field="to")
        require_text(message, "message")
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
        """Disconnect for good. What the relay has not acknowledged by then fails."""
        with self._lock:
            running, self._made = self._made, None
        if running is None:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return Pending(nothing)
        thread, engine = running
        return self._wait_for(Pending(thread.stop_after(engine.close())))

    def __enter__(self) -> AgentLink:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    async def __aenter__(self) -> AgentLink:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    # -- who is told -------------------------------------------------------------------------------------------------

    def on_message(self, handler: F) -> F:
        """Call ``handler`` for each message, and return it: so it can stand as a decorator.

        It takes a ``Message``, or ``(from_agent, message)``. A plain function runs on a thread, an async one on the
        loop that connected. One after the other, in order; a message is acked when all handlers have returned, and
        comes again if one raises.
        """
        self.add_handler(handler)
        return handler

    def add_handler(self, handler: Callable[..., Any]) -> int:
        """Call ``handler`` for each message; return the id to remove it by. Raises TypeError for one that cannot be."""
        takes_two = _takes_two(handler)
        number = next(self._numbers)
        with self._lock:
            self._handlers[number] = (handler, takes_two)
            if self._made is not None:
                thread, engine = self._made
                thread.run(engine.want(True))
        return number

    def remove_handler(self, handler: int | Callable[..., Any]) -> bool:
        """Call a handler no more, named by its id or itself; tell whether there was one."""
        found = [n for n, (function, _) in self._handlers.items() if handler in (n, function)]
        for number in found:
            self._handlers.pop(number, None)
        return bool(found)

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

    async def _deliver(self, message: Message) -> None:
        for handler, takes_two in list(self._handlers.values()):
            given = (message.from_agent, message.message) if takes_two else (message,)
            if inspect.iscoroutinefunction(handler):
                await self._on_users_loop(handler(*given))
            else:
                outcome = await asyncio.get_running_loop().run_in_executor(None, handler, *given)
                if inspect.isawaitable(outcome):
                    await self._on_users_loop(_awaited(outcome))

    async def _on_users_loop(self, work: Coroutine[Any, Any, Any]) -> None:
        loop = self._users_loop
        if loop is None or loop.is_closed() or not loop.is_running():
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def _changed(self, state: str, why: str | None) -> None:
        self._state, self._why = state, why
        self._tell(self._watchers, state)

    def _delivered(self, sent: Sent) -> None:
        self._tell(self._receivers, sent)

    def _tell(self, whom: list[Callable[[T], Any]], what: T) -> None:
        for function in list(whom):
            try:
                function(what)
            except Exception:
                _log.exception("a callback failed")


async def _send(engine: Engine, sent: Sent) -> None:
    try:
        await engine.connect()
        await engine.send(sent)
    except Exception as error:
        sent.fail(error)


async def _awaited(outcome: Any) -> Any:
    return await outcome


def _takes_two(handler: Callable[..., Any]) -> bool:
    """Tell whether a handler takes ``(from_agent, message)`` rather than one ``Message``."""
    signature = inspect.signature(handler)
    for count in (1, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise TypeError("a handler takes one Message, or from_agent and message")
