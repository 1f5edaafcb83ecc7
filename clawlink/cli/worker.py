"""A worker whose tasks a process does: its reports on the way, and the worker's own lines."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clawlink import Link
    from clawlink.cli.command_worker import Way
    from clawlink.cli.context import Context
    from clawlink.client.link.pending import Pending
    from clawlink.client.link.task import Received, Task
    from clawlink.domain.message import KnowledgeBroadcast

# The last lines of output have this many seconds, if they have no reader.
_LAST_LINES_SECONDS = 2.0


class CommandFailed(Exception):
    """The answer to the requester of a task if the command failed."""


class Worker:
    """Has tasks done, and prints the progress. Each task has a thread of its own."""

    def __init__(self, ctx: Context, way: Way, link: Link) -> None:
        self._ctx = ctx
        self._way = way
        self._link = link
        self._lock = threading.Lock()
        self._ends: SimpleQueue[tuple[str, int, float, str | None] | None] = SimpleQueue()

    def do(self, task: Task) -> Any:
        """Do one task. Raises CommandFailed with the sentence for its requester."""
        began = time.monotonic()
        self._say_began(task)
        told = Told(task)
        try:
            done = self._way.do(task, self._environ(task), told, lambda text: self._say_of(task.id, text))
        except OSError as error:
            raise CommandFailed(f"the worker cannot run its command: {error.strerror or error}") from None
        if done is None:
            # Not for us to answer any more: the task goes back when the connection ends, and this thread with us.
            threading.Event().wait()
            return None
        told.finish()
        code, sentence, seconds = done.code, done.why, time.monotonic() - began

        def over(status: str | None, why: str | None) -> None:
            if status != "completed":
                why = why or sentence or "no agent waits for the result any more"
            self._ends.put((task.id, code, seconds, why))

        # Only the relay's word counts: a good result may still be too large for it, or too late.
        task.when_over(over)
        if sentence is not None:
            raise CommandFailed(sentence)
        return done.result

    def _environ(self, task: Task) -> dict[str, str]:
        """Return the command's environment: a ``clawlink`` that it runs is the same agent, and works on this task."""
        ours = {"CLAWLINK_PARENT_TASK": task.id, "CLAWLINK_RELAY": self._link.relay}
        if self._link.agent_id is not None:
            ours["CLAWLINK_AGENT"] = self._link.agent_id
        return {**self._ctx.environ, **ours}

    # -- other messages ------------------------------------------------------------------------------------------------

    def hear(self, message: Received) -> None:
        """Show a plain message, because no handler takes it here."""
        self._quote(f"message {message.id}", message.from_name, message.from_agent, message.content)

    def hear_all(self, message: KnowledgeBroadcast) -> None:
        """Show a broadcast."""
        self._quote(f"broadcast {message.message_id}", message.from_name, message.from_agent, message.content)

    # -- output --------------------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        """Print the ends of tasks in a thread of its own, so that a stuck reader does not hold up the link's thread."""
        while (end := self._ends.get()) is not None:
            self._tell(*end)

    def _tell(self, task_id: str, code: int, seconds: float, sentence: str | None) -> None:
        """Print the end of a task on standard output, which may have no reader."""
        from clawlink.domain.terminal import cell

        ctx = self._ctx
        with self._lock, contextlib.suppress(OSError):
            if ctx.json:
                facts = {"task_id": task_id, "exit_code": code, "seconds": round(seconds, 3), "error": sentence}
                ctx.out.json(facts, one_line=True)
            else:
                came = "done" if sentence is None else f"failed: {sentence}"
                ctx.out.line(f"task {cell(task_id)} {cell(came)} ({seconds:.1f} s)")
            ctx.out.flush()

    def _say_began(self, task: Task) -> None:
        from clawlink.cli.render import named
        from clawlink.domain.terminal import cell

        self.say(f"task {cell(task.id)} began, from {named(task.from_name, task.from_agent)}")

    def _say_of(self, task_id: str, text: str) -> None:
        """Pass a command's output on. It may repeat foreign text, so it is made harmless."""
        from clawlink.domain.terminal import cell, lines

        with self._lock, contextlib.suppress(OSError):
            self._ctx.err.line(f"{cell(task_id)}: {''.join(lines(text))}")
            self._ctx.err.flush()

    def _quote(self, what: str, name: str, agent_id: str, content: Any) -> None:
        from clawlink.cli.messages import as_text
        from clawlink.cli.render import named
        from clawlink.domain.terminal import cell

        err = self._ctx.err
        with self._lock, contextlib.suppress(OSError):
            if self._ctx.json:
                err.json({"message": {"from_agent": agent_id, "from_name": name, "content": content}}, one_line=True)
            else:
                err.line(f"{cell(what)} from {named(name, agent_id)}")
                err.quote(as_text(content))
            err.flush()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Show the ends of tasks, and the link's messages about its connection, a line each."""
        log = logging.getLogger("clawlink.link")
        handler = _Lines(self)
        before = log.level, log.propagate
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        teller = threading.Thread(target=self._tell_all, daemon=True)
        teller.start()
        try:
            yield
        finally:
            self._ends.put(None)
            teller.join(_LAST_LINES_SECONDS)
            log.removeHandler(handler)
            log.level, log.propagate = before

    def say(self, sentence: str) -> None:
        """Say something beside the work, on standard error."""
        with self._lock, contextlib.suppress(OSError):
            self._ctx.warn(sentence)
            self._ctx.err.flush()


class _Lines(logging.Handler):
    """Prints log lines. A failed command is no defect, and has its own line already."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, CommandFailed):
            self._worker.say(record.getMessage() if error is None else f"{record.getMessage()}: {error}")


class Told:
    """The reports to the requester on the way. While a report is under way, the newest of the next waits."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._next: tuple[float | None, str | None] | None = None
        self._under_way: Pending[Any] | None = None

    def progress(self, percent: float | None, note: str | None) -> None:
        """Report this, now or a moment later."""
        from clawlink.domain.limits import MAX_NOTE_LENGTH

        with self._lock:
            self._next = percent, note[:MAX_NOTE_LENGTH] if note else None
            self._send()

    def go_on(self) -> None:
        """Send the waiting report."""
        with self._lock:
            self._send()

    def finish(self) -> None:
        """Report the last, before the result."""
        with self._lock:
            self._under_way = None
            self._send()

    def _send(self) -> None:
        from clawlink.errors import ClawLinkError

        if self._next is not None and (self._under_way is None or self._under_way.done()):
            percent, note = self._next
            self._next = None
            with contextlib.suppress(ClawLinkError):  # the link has ended, or the relay takes no such note
                self._under_way = self._task.progress(percent, note)
