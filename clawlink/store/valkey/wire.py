"""The connections to the server. The commands of one turn of the event loop leave together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as NoAnswer

from clawlink.store.base import Failed, Full
from clawlink.store.valkey.primary import NoPrimary, Primary
from clawlink.store.valkey.scripts import Script

# Batches of commands that are under way at a time, each on a connection of its own.
_CONNECTIONS = 4
_BATCH = 256
# While the server is away it is looked for this often.
_PROBE_SECONDS = 0.25
# Replicas have this long to say that they have a commit.
_REPLICAS_SECONDS = 1.0
# Another server takes the writes now.
_ELSEWHERE = (ReadOnlyError, MovedError, ClusterDownError, MasterDownError)
_log = logging.getLogger("clawlink.store")


class _Command:
    """A command and its answer. One that changes nothing may be sent ``again`` after a connection was lost.

    The answer to a ``commit`` waits for the replicas.
    """

    __slots__ = ("again", "answer", "commit", "script", "words")

    def __init__(self, words: tuple[Any, ...], script: Script | None, again: bool, commit: bool = False) -> None:
        self.words = words
        self.script = script
        self.again = again
        self.commit = commit
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Wire:
    """Sends commands to the server that takes the writes of a mesh. Call ``close`` at the end."""

    def __init__(self, url: str, tag: str = "clawlink", replicas: int = 0) -> None:
        """``tag`` is the hash tag of all keys. A commit is answered when this number of ``replicas`` has it.

        Raises ValueError for an address that is none.
        """
        self.primary = Primary(url, tag)
        self.replicas = replicas
        self._idle: list[Any] = []
        self._waiting: list[_Command] = []
        self._scheduled = False
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.away: str | None = None
        """The reason why the server does not answer; None while it does."""
        self.on_back: list[Callable[[], None]] = []

    def connection(self) -> Any:
        """Return a new connection, which the caller opens and closes."""
        return self.primary.connection()

    async def open(self) -> None:
        """Look for the server. Raises Failed."""
        try:
            await self.primary.find()
        except NoPrimary as none:
            raise Failed(str(none)) from None

    async def call(self, *words: Any, again: bool = True) -> Any:
        """Send a command and return its answer. Raises Failed."""
        return await self.begin(*words, again=again)

    def begin(self, *words: Any, again: bool = False) -> asyncio.Future[Any]:
        """Send a command with the others of this turn. Return the future of its answer."""
        return self._add(_Command(words, None, again))

    def run(self, script: Script, *words: Any, again: bool = True) -> asyncio.Future[Any]:
        """Run a script as ``begin`` sends a command."""
        return self._add(_Command(("EVALSHA", script.sha, *words), script, again))

    def commit(self, script: Script, *words: Any) -> asyncio.Future[Any]:
        """Run a script once. The future has its answer when the replicas have what it wrote."""
        return self._add(_Command(("EVALSHA", script.sha, *words), script, False, True))

    def _add(self, command: _Command) -> asyncio.Future[Any]:
        if self._closed:
            self._fail([command], Failed("the store is closed"))
            return command.answer
        if self.away is not None:
            self._fail([command], Failed(f"the store is away: {self.away}"))
            return command.answer
        self._waiting.append(command)
        self._schedule()
        return command.answer

    def _schedule(self) -> None:
        if not self._scheduled and self._waiting and self._under_way < _CONNECTIONS:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        if batch:
            self._under_way += 1
            self._spawn(self._send(batch), batch)
        self._schedule()

    def _spawn(self, work: Coroutine[Any, Any, None], batch: Sequence[_Command] = ()) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # maybe before it began
                self._fail(batch, Failed("the store was not asked"))

        task.add_done_callback(ended)

    async def _send(self, batch: Sequence[_Command]) -> None:
        connection: Any = None
        unanswered = list(reversed(batch))
        held: list[tuple[_Command, Any]] = []  # commits whose answers wait for the replicas
        try:
            connection = self._idle.pop() if self._idle else self.connection()
            words = [command.words for command in batch]
            waits = self.replicas > 0 and any(command.commit for command in batch)
            if waits:
                words.append(("WAIT", self.replicas, int(_REPLICAS_SECONDS * 1000)))
            await connection.send_packed_command(connection.pack_commands(words), check_health=False)
            while unanswered:
                answer = error = None
                try:
                    answer = await connection.read_response(disable_decoding=True)
                except ResponseError as refused:
                    error = refused
                command = unanswered.pop()
                if error is not None:
                    self._refused(command, error)
                elif waits and command.commit:
                    held.append((command, answer))
                elif not command.answer.done():
                    command.answer.set_result(answer)
            if waits:
                self._replicated(held, await connection.read_response(disable_decoding=True))
            if self.away is None:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            if connection is not None:
                with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                    await connection.disconnect(nowait=True)
            self._lost(unanswered + [command for command, _ in held], error)
        except BaseException as error:  # a word that cannot be sent, or the end of the program
            if connection is not None:
                with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                    await connection.disconnect(nowait=True)
            self._fail(unanswered + [command for command, _ in held], Failed(f"the store was not asked: {error!r}"))
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way -= 1
            self._schedule()

    def _replicated(self, held: Sequence[tuple[_Command, Any]], replicas: int) -> None:
        """Answer commits, or fail them if too few ``replicas`` have them."""
        if replicas < self.replicas:
            why = f"the commit is on the server, and on {replicas} of the {self.replicas} replicas that must have it"
            self._fail([command for command, _ in held], Failed(why))
        for command, answer in held:
            if not command.answer.done():
                command.answer.set_result(answer)

    def _refused(self, command: _Command, error: ResponseError) -> None:
        said = str(error)
        if command.script is not None and said.startswith(("NOSCRIPT", "No matching script")):
            words = ("EVAL", command.script.text, *command.words[2:])
            self._waiting.append(again := _Command(words, None, command.again, command.commit))
            again.answer = command.answer
        elif isinstance(error, OutOfMemoryError) or said.startswith("OOM"):
            self._fail([command], Full("the server of the store has reached its maxmemory"))
        else:
            self._fail([command], Failed(f"the store: {said}"))
            if isinstance(error, _ELSEWHERE) or said.startswith("READONLY"):
                self.lost(said)

    def _lost(self, unanswered: list[_Command], error: Exception) -> None:
        """Send again what may be sent again, once, and fail the rest."""
        self.forget_idle()
        again = [command for command in reversed(unanswered) if command.again]
        for command in again:
            command.again = False
        self._waiting[:0] = again
        self._fail([command for command in unanswered if command not in again], Failed(f"the store: {error}"))
        if not again or isinstance(error, asyncio.TimeoutError | TimeoutError | NoAnswer):
            self.lost(str(error))

    def forget_idle(self) -> None:
        """Close the connections that nobody uses: the server they lead to is gone."""
        idle, self._idle = self._idle, []
        for connection in idle:
            self._spawn(connection.disconnect(nowait=True))

    def lost(self, reason: str) -> None:
        """Note that the server is away: commands fail at once until it answers again."""
        if self.away is None and not self._closed:
            self.away = reason
            _log.error("the store is away", extra={"reason": reason})
            waiting, self._waiting = self._waiting, []
            self._fail(waiting, Failed(f"the store is away: {reason}"))
            self.forget_idle()
            self._spawn(self._probe())

    async def _probe(self) -> None:
        while not self._closed:
            try:
                await self.primary.find()
                break
            except NoPrimary as none:
                self.away = str(none)
            await asyncio.sleep(_PROBE_SECONDS)
        self.away = None
        if not self._closed:
            _log.warning("the store is back")
            for tell in self.on_back:
                tell()

    @staticmethod
    def _fail(commands: Sequence[_Command], failure: Failed) -> None:
        for command in commands:
            if not command.answer.done():
                command.answer.set_exception(failure)
                command.answer.exception()  # whoever asked may have been cancelled

    async def close(self) -> None:
        """Close all connections. What is under way fails."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail(self._waiting, Failed("the store is closed"))
        for connection in self._idle:
            await connection.disconnect(nowait=True)
        self._idle = []
