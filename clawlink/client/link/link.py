"""The link of an agent to its relay, as its author sees it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar, overload

from clawlink.client import endpoints, mailbox_endpoints, operations
from clawlink.client.address import address
from clawlink.client.base_client import Method, turn_into_methods
from clawlink.client.calls import Call, Identity
from clawlink.client.files import file_endpoints
from clawlink.client.identity import Identities, home
from clawlink.client.link import runner
from clawlink.client.link.delegation import Delegation
from clawlink.client.link.engine import Engine
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.outbox import LinkEnded, Outbox
from clawlink.client.link.pending import Pending
from clawlink.client.link.settings import Settings
from clawlink.client.operations import Operation
from clawlink.config import DEFAULT_RELAY, from_environment
from clawlink.domain.limits import MAX_LEASE_SECONDS, MIB, MIN_LEASE_SECONDS
from clawlink.domain.message import Attachment
from clawlink.domain.terminal import cell
from clawlink.errors import ClawLinkError
from clawlink.loop_run import woken_by_signals

F = TypeVar("F", bound=Callable[..., Any])

# Calls that wait if the relay is away. All others are asked at once, and fail without an answer.
_KEPT = frozenset({"send", "broadcast", "answer"})
# The recipient of what goes to no single agent: an id has no star.
_ALL = "*"


def _method(make: Callable[..., Call[Any] | Operation[Any]]) -> Callable[..., Any]:
    """Make a method of a link from the function in ``endpoints`` or ``operations`` that describes it."""
    parameters = list(inspect.signature(make).parameters)[1:]
    led = "parent_task" in parameters
    recipient = next((at for at, name in enumerate(parameters) if name in ("to", "task_id")), None)

    @wraps(make)
    def method(self: Link, *args: Any, **kwargs: Any) -> Pending[Any]:
        if led and kwargs.get("parent_task") is None and kwargs.get("in_reply_to") is None:
            kwargs["parent_task"] = runner.parent_task.get()
        engine = self._running()
        work = make(self._identity(), *args, **kwargs)
        what = f"the answer to {make.__name__}"
        if isinstance(work, Operation):
            return engine.run(work, what)
        if work.endpoint.name not in _KEPT:
            return engine.perform(work, what)
        if recipient is None:
            return engine.post(work, _ALL, what)
        return engine.post(work, args[recipient] if recipient < len(args) else kwargs[parameters[recipient]], what)

    return method


class Link:
    """An agent: handlers for incoming messages, and methods to send.

        link = Link("researcher", capabilities=["search"])

        @link.on_task
        def search(task):
            task.progress(50, "half of it read")
            return {"found": task.text.split()}

        link.run()

    Handlers are plain functions, which run in threads, or async ones. Inside ``async with link`` they run in the
    author's event loop, else in one of the link's own. The link's own work goes on in a thread of its own, whatever the
    handlers do. Methods return a ``Pending``: ``await`` it, or call ``result(timeout)``.

    ``relay``, ``token`` and ``ca`` (the path of a certificate in PEM) are else taken from CLAWLINK_RELAY,
    CLAWLINK_TOKEN and CLAWLINK_CA. ``concurrency`` handlers run at once; each message is held under a ``lease`` in
    seconds, 5 to 3600, which is lengthened while its handler runs. After ``handler_timeout`` seconds a task is reported
    as failed; without it a handler may take as long as it likes. At the end handlers have ``drain`` seconds. Up to
    ``outbox_messages`` messages and ``outbox_bytes`` are kept while the relay is away. The folder ``identities`` (else
    CLAWLINK_HOME or ~/.clawlink) keeps the agent's identity and key. So it is the same agent after a restart. With None
    nothing is kept, and each run is a new agent.
    """

    def __init__(
        self,
        name: str,
        *,
        capabilities: Sequence[str] | None = None,
        description: str | None = None,
        relay: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        concurrency: int = 8,
        lease: float = 60.0,
        handler_timeout: float | None = None,
        drain: float = 10.0,
        timeout: float = 10.0,
        outbox_messages: int = 1000,
        outbox_bytes: int = 8 * MIB,
        identities: str | Path | None = "",
    ) -> None:
        if not 1 <= concurrency <= 1000:
            raise ValueError(f"concurrency is 1 to 1000, and not {concurrency}")
        if not MIN_LEASE_SECONDS <= lease <= MAX_LEASE_SECONDS:
            raise ValueError(f"a lease is {MIN_LEASE_SECONDS:g} to {MAX_LEASE_SECONDS:g} seconds, and not {lease:g}")
        folder = home() if identities == "" else identities
        self.name = name
        self._settings = Settings(
            name=name,
            relay=address(relay or from_environment("--relay") or DEFAULT_RELAY),
            token=token or from_environment("--token"),
            ca=ca or from_environment("--ca"),
            capabilities=None if capabilities is None else list(capabilities),
            description=description,
            identities=None if folder is None else Identities(Path(folder)),
            concurrency=concurrency,
            lease=lease,
            handler_timeout=handler_timeout,
            drain=drain,
            timeout=timeout,
            handlers=Handlers(name),
            outbox=Outbox(outbox_messages, outbox_bytes),
        )
        self._engine: Engine | None = None
        self._signalled = False

    # -- handlers ------------------------------------------------------------------------------------------------------

    def on_task(self, handler: F) -> F:
        """Let this function do the tasks: it gets a ``Task``, and returns the result, any JSON.

        An exception makes the task failed, with the exception's sentence.
        """
        self._before_it_runs()
        self._settings.handlers.set_task(handler)
        return handler

    def on_message(self, handler: F) -> F:
        """Have this function take the plain messages: it is given a ``Received``.

        If it raises, the message comes again after a pause, up to the relay's limit of attempts.
        """
        self._before_it_runs()
        self._settings.handlers.set_message(handler)
        return handler

    @overload
    def on_broadcast(self, pattern: F) -> F: ...
    @overload
    def on_broadcast(self, pattern: str = "*") -> Callable[[F], F]: ...
    def on_broadcast(self, pattern: Any = "*") -> Any:
        """Let this function take broadcasts: ``@link.on_broadcast("build.*")``, or all of them without a pattern.

        It gets the message, with ``topic``, ``content``, ``tags``, ``from_agent`` and ``from_name``. The agent
        subscribes only to topics with a handler. The link logs an exception, and the broadcast does not come again.
        """
        self._before_it_runs()
        if callable(pattern):
            self._settings.handlers.add_broadcast(pattern)
            return pattern

        def add(handler: F) -> F:
            self._settings.handlers.add_broadcast(handler, pattern)
            return handler

        return add

    # -- sending -------------------------------------------------------------------------------------------------------

    send = Method(endpoints.send)
    broadcast = Method(endpoints.broadcast)
    answer = Method(endpoints.answer)
    info = Method(endpoints.info)
    discover = Method(endpoints.discover)
    tasks = Method(endpoints.tasks)
    task = Method(endpoints.task)
    cancel = Method(endpoints.cancel)
    knowledge = Method(endpoints.knowledge)
    message = Method(mailbox_endpoints.message)
    put_file = Method(file_endpoints.put_file)
    list_files = Method(file_endpoints.list_files)
    get_file = Method(file_endpoints.get_file)
    delete_file = Method(file_endpoints.delete_file)
    file_history = Method(file_endpoints.file_history)
    lock_file = Method(file_endpoints.lock_file)
    unlock_file = Method(file_endpoints.unlock_file)
    upload = Method(operations.upload)
    download = Method(operations.download)
    attach = Method(operations.attach)
    watch_file = Method(operations.watch_file)
    wait_message = Method(operations.wait_message)

    def delegate(
        self,
        to: str | None = None,
        task: str | None = None,
        *,
        capability: str | Sequence[str] | None = None,
        to_any_of: Sequence[str] | None = None,
        context: dict[str, Any] | None = None,
        priority: str = "normal",
        deadline: float | None = None,
        parent_task: str | None = None,
        attachments: Sequence[Attachment] | None = None,
        key: str | None = None,
        on_progress: Callable[[Delegation], object] | None = None,
        on_question: Callable[[Any], Any] | None = None,
    ) -> Delegation:
        """Delegate a task, as ``Client.delegate`` does, and return a ``Delegation`` for its result.

        ``on_progress`` is called with the delegation at each report. ``on_question`` is called with the assignee's
        question, and returns the answer. Both may be plain or async.
        """
        engine = self._running()
        call = endpoints.delegate(
            self._identity(),
            to,
            task,
            capability=capability,
            to_any_of=to_any_of,
            context=context,
            priority=priority,
            deadline=deadline,
            parent_task=parent_task or runner.parent_task.get(),
            attachments=attachments,
            key=key,
        )
        return engine.delegate(call, _ALL if to is None else to, on_progress, on_question)

    # -- its life ------------------------------------------------------------------------------------------------------

    @property
    def relay(self) -> str:
        """The relay's address."""
        return self._settings.relay

    @property
    def agent_id(self) -> str | None:
        """The agent's id, once it has one."""
        engine = self._engine
        return engine.client.agent_id if engine is not None and engine.started.done() else None

    @property
    def transport(self) -> str | None:
        """The current transport: ``websocket``, ``poll``, or None without a connection."""
        transport = None if self._engine is None else self._engine.transport
        return None if transport is None else transport.name

    def run(self) -> None:
        """Run the agent until ``stop`` is called, or the process gets SIGTERM or SIGINT; then drain.

        A second signal ends at once. Raises an error at the start: RelayUnreachable, NotAuthenticated, NameTaken and
        the like. If nothing catches it, the program ends with its sentence, without a traceback.
        """
        try:
            with self._signals():
                asyncio.run(self._stay())
        except ClawLinkError as error:
            if isinstance(error, LinkEnded):  # it was stopped before it was connected
                return
            _show_in_a_sentence(error)
            raise

    async def _stay(self) -> None:
        # This loop would sleep on if a signal comes just before it sleeps, or comes to another thread.
        with woken_by_signals(asyncio.get_running_loop()):
            async with self:
                await asyncio.shield(asyncio.wrap_future(self._running().ended))

    def stop(self) -> None:
        """End the link: running handlers finish, and ``run`` returns. Any thread and any handler may call this."""
        if self._engine is not None:
            self._engine.stop()

    def __enter__(self) -> Link:
        self._begin(None).started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._running().ended.result()

    async def __aenter__(self) -> Link:
        engine = self._begin(asyncio.get_running_loop())
        try:
            await asyncio.wrap_future(engine.started)
        except asyncio.CancelledError:
            engine.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await asyncio.wrap_future(self._running().ended)

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> Engine:
        if self._engine is not None:
            raise RuntimeError("a link runs once: make another one")
        self._engine = Engine(self._settings, loop)
        if self._signalled:  # it may have come before there was an engine to stop
            self._engine.stop()
        return self._engine

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError(
                "the link does not run yet: use it inside `with link` or `async with link`, or in a handler"
            )
        return self._engine

    def _identity(self) -> Identity:
        return self._running().client.identity

    def _before_it_runs(self) -> None:
        if self._engine is not None:
            raise RuntimeError("register all handlers before the link runs")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Drain at the first signal, even if a handler blocks the event loop; at the second, end as without us."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

        def first(number: int, frame: FrameType | None) -> None:
            restore()
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                # A KeyboardInterrupt would only be waited out together with the handlers.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            self._signalled = True
            self.stop()

        for number in before:
            signal.signal(number, first)
        try:
            yield
        finally:
            restore()


def _show_in_a_sentence(error: ClawLinkError) -> None:
    """Have the interpreter show this error, if nothing catches it, by its sentence alone: it is no defect.

    A program that has a hook of its own keeps that, and is shown the error by it.
    """
    if sys.excepthook is not sys.__excepthook__:
        return

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = sys.__excepthook__
        if value is not error:
            sys.__excepthook__(kind, value, trace)
        elif sys.stderr is not None:
            print(f"clawlink: {cell(str(error))}", file=sys.stderr)

    sys.excepthook = hook


turn_into_methods(Link, vars(Link).copy(), _method)
