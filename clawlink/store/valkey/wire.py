"""The connections to the server. The commands of one turn of the event loop leave together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from redis.exceptions import TimeoutError as NoAnswer

from clawlink.store.base import Failed, Full
from clawlink.store.valkey.link import Link, LinkError, ReplyError
from clawlink.store.valkey.primary import ANSWER_SECONDS, NoPrimary, Primary
from clawlink.store.valkey.scripts import Script

# Batches of commands that are under way at a time, each on a connection of its own.
_CONNECTIONS = 4
_BATCH = 256
# While the server is away it is looked for this often.
_PROBE_SECONDS = 0.25
# Replicas have this long to say that they have a commit.
_REPLICAS_SECONDS = 1.0
# The first words of a server that takes no writes at this moment, or no commands of this relay.
_ELSEWHERE = ("READONLY", "MOVED", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "NOAUTH")
_log = logging.getLogger("clawlink.store")


class _Decided(asyncio.Future[Any]):
    """An answer that nobody can give up: a cancelled waiter is cancelled once it is there."""

    def cancel(self, msg: Any = None) -> bool:
        return False


class _Command:
    """A command and its answer. One that changes nothing may be sent ``again`` after a connection was lost.

    The answer to a ``commit`` waits for the replicas, and a cancelled waiter for the answer.
    """

    __slots__ = ("again", "answer", "commit", "script", "words")

    def __init__(self, words: tuple[Any, ...], script: Script | None, again: bool, commit: bool = False) -> None:
        self.words = words
        self.script = script
        self.again = again
        self.commit = commit
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = _Decided(loop=loop) if commit else loop.create_future()


class Wire:
    """Sends commands to the server that takes the writes of a mesh. Call ``close`` at the end."""

    def __init__(self, url: str, tag: str = "clawlink", replicas: int = 0) -> None:
        """``tag`` is the hash tag of all keys. A commit is answered when this number of ``replicas`` has it.

        Raises ValueError for an address that is none.
        """
        self.primary = Primary(url, tag)
        self.replicas = replicas
        self._idle: list[Link] = []
        self._links: set[Link] = set()
        self._waiting: list[_Command] = []
        self._scheduled = False
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.away: str | None = None
        """The reason why the server does not answer; None while it does."""
        self.on_back: list[Callable[[], None]] = []

    async def link(self) -> Link:
        """Return a new connection, which the caller closes. Raises what ``LinkError`` names."""
        return await Link.open(self.primary.connection())

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
            self.fail([command], Failed("the store is closed"))
            return command.answer
        if self.away is not None:
            self.fail([command], Failed(f"the store is away: {self.away}"))
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
            if self._idle:
                _Exchange(self, self._idle.pop(), batch).begin()
            else:
                self._spawn(self._send(batch), batch)
        self._schedule()

    def _spawn(self, work: Coroutine[Any, Any, None], batch: Sequence[_Command] = ()) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # maybe before it began
                self.fail(batch, Failed("the store was not asked"))

        task.add_done_callback(ended)

    async def _send(self, batch: Sequence[_Command]) -> None:
        """Open a connection, and send a batch there."""
        try:
            link = await self.link()
        except LinkError as error:
            self.ended(None, list(reversed(batch)), error)
        except BaseException as error:
            self._under_way -= 1
            self.fail(batch, Failed(f"the store was not asked: {error!r}"))
            raise
        else:
            self._links.add(link)
            _Exchange(self, link, batch).begin()

    def ended(self, link: Link | None, unanswered: list[_Command], error: Exception | None = None) -> None:
        """Go on after a batch: use its connection again, or send again what an ``error`` left unanswered."""
        self._under_way -= 1
        if link is not None and error is None and self.away is None and not self._closed:
            link.ended = partial(self._unused, link)
            self._idle.append(link)
        elif link is not None:
            self._drop(link)
        if error is not None:
            self._lost(unanswered, error)
        self._schedule()

    def _unused(self, link: Link, _: Exception) -> None:
        """Forget a connection that ended while nobody used it."""
        self._idle = [idle for idle in self._idle if idle is not link]
        self._drop(link)

    def _drop(self, link: Link) -> None:
        link.ended = lambda error: None
        self._spawn(self._close(link))

    async def _close(self, link: Link) -> None:
        await link.close()
        self._links.discard(link)  # not before: ``Wire.close`` may cancel this task, and closes the listed links

    def replicated(self, held: Sequence[tuple[_Command, Any]], replicas: int) -> None:
        """Answer commits, or fail them if too few ``replicas`` have them."""
        if replicas < self.replicas:
            why = f"the commit is on the server, and on {replicas} of the {self.replicas} replicas that must have it"
            self.fail([command for command, _ in held], Failed(why))
        for command, answer in held:
            if not command.answer.done():
                command.answer.set_result(answer)

    def refused(self, command: _Command, said: str) -> None:
        """Fail a command that the server refused. A script that it does not know is sent whole."""
        if command.script is not None and said.startswith("NOSCRIPT"):
            words = ("EVAL", command.script.text, *command.words[2:])
            self._waiting.append(again := _Command(words, None, command.again, command.commit))
            again.answer = command.answer
        elif said.startswith("OOM"):
            self.fail([command], Full("the server of the store has reached its maxmemory"))
        else:
            self.fail([command], Failed(f"the store: {said}"))
            if said.startswith(_ELSEWHERE):
                self.lost(said)

    def _lost(self, unanswered: list[_Command], error: Exception) -> None:
        """Send again what may be sent again, once, and fail the rest."""
        self.forget_idle()
        again = [command for command in reversed(unanswered) if command.again and not self._closed]
        for command in again:
            command.again = False
        self._waiting[:0] = again
        self.fail([command for command in unanswered if command not in again], Failed(f"the store: {error}"))
        if not again or isinstance(error, asyncio.TimeoutError | TimeoutError | NoAnswer):
            self.lost(str(error))

    def forget_idle(self) -> None:
        """Close the connections that nobody uses: the server they lead to is gone."""
        idle, self._idle = self._idle, []
        for link in idle:
            self._drop(link)

    def lost(self, reason: str, *, for_good: bool = False) -> None:
        """Note that the server is away: commands fail at once until it answers again, or ``for_good``."""
        if self.away is None and not self._closed:
            self.away = reason
            _log.error("the store is away", extra={"reason": reason})
            waiting, self._waiting = self._waiting, []
            self.fail(waiting, Failed(f"the store is away: {reason}"))
            self.forget_idle()
            if not for_good:
                self._spawn(self._probe())

    async def _probe(self) -> None:
        while not self._closed:
            try:
                await self.primary.find()
                break
            except NoPrimary as none:
                self.away = str(none)
            except Exception:  # else the store would stay away until the relay starts again
                _log.exception("the server cannot be looked for")
            await asyncio.sleep(_PROBE_SECONDS)
        self.away = None
        if not self._closed:
            _log.warning("the store is back")
            for tell in self.on_back:
                tell()

    @staticmethod
    def fail(commands: Sequence[_Command], failure: Failed) -> None:
        """Answer commands by a failure."""
        for command in commands:
            if not command.answer.done():
                command.answer.set_exception(failure)
                command.answer.exception()  # whoever asked may have been cancelled

    async def close(self) -> None:
        """Close all connections. What is under way fails."""
        self._closed = True
        self._idle, links, self._links = [], self._links, set()
        for link in links:
            link.end(ConnectionError("the store is closed"))
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.fail(self._waiting, Failed("the store is closed"))
        for link in links:
            await link.close()


class _Exchange:
    """A batch of commands on a connection, and what came of it so far."""

    __slots__ = ("_alarm", "_held", "_link", "_unanswered", "_waits", "_wire")

    def __init__(self, wire: Wire, link: Link, batch: Sequence[_Command]) -> None:
        self._wire = wire
        self._link = link
        self._unanswered = list(reversed(batch))
        self._held: list[tuple[_Command, Any]] = []  # commits whose answers wait for the replicas
        self._waits = wire.replicas > 0 and any(command.commit for command in batch)

    def begin(self) -> None:
        link = self._link
        link.take, link.ended = self._take, self._done
        words = [command.words for command in reversed(self._unanswered)]
        if self._waits:
            words.append(("WAIT", self._wire.replicas, int(_REPLICAS_SECONDS * 1000)))
        self._alarm = asyncio.get_running_loop().call_later(link.timeout or ANSWER_SECONDS, self._late)
        try:
            link.send(words)
        except Exception as error:  # a word that cannot be sent
            self._wire.fail(self._unanswered, Failed(f"the store was not asked: {error!r}"))
            self._done(None)

    def _take(self, answer: Any) -> None:
        if not self._unanswered:
            self._replicated(answer)
            return
        command = self._unanswered.pop()
        if type(answer) is ReplyError:
            self._wire.refused(command, str(answer))
        elif self._waits and command.commit:
            self._held.append((command, answer))
        elif not command.answer.done():
            command.answer.set_result(answer)
        if not self._unanswered and not self._waits:
            self._done(None)

    def _replicated(self, answer: Any) -> None:
        if type(answer) is ReplyError:
            self._wire.fail([command for command, _ in self._held], Failed(f"the store: {answer}"))
        else:
            self._wire.replicated(self._held, answer)
        self._done(None)

    def _late(self) -> None:
        self._link.end(TimeoutError("the server did not answer in time"))

    def _done(self, error: Exception | None) -> None:
        self._alarm.cancel()
        left = self._unanswered + [command for command, _ in self._held] if error is not None else []
        self._wire.ended(self._link, left, error)
