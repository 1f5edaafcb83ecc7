"""The other way to do a task: an agent that speaks the Agent Client Protocol, a process and a session for each task."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from clawlink.cli import running
from clawlink.cli.command_worker import Done, as_result, failure
from clawlink.client.acp import content
from clawlink.client.acp.lines import Ended, Lines
from clawlink.client.acp.permission import Policy, Question
from clawlink.client.acp.turn import Broken, Turn
from clawlink.errors import ClawLinkError

if TYPE_CHECKING:
    from clawlink import Link
    from clawlink.cli.worker import Told
    from clawlink.client.link.pending import Pending
    from clawlink.client.link.task import Task

# An agent opens its session within this long, and says something this often; then it hangs.
START_SECONDS = 120.0
SILENT_SECONDS = 1800.0
# A cancelled turn has this long for its end, and an agent for its own after its last turn.
_CANCEL_SECONDS = 5.0
_END_SECONDS = 2.0
_STEP_SECONDS = 0.2
_REPORT_SECONDS = 1.0
_TRIES = 3
_SHARE_SECONDS = 300.0


class ByAcp:
    """An agent does each task. Its permissions are decided by a policy, or by the requester."""

    def __init__(self, commands: running.Commands, link: Link, policy: Policy, *, json_result: bool) -> None:
        self._commands = commands
        self._link = link
        self._policy = policy
        self._json_result = json_result

    def do(self, task: Task, environ: Mapping[str, str], told: Told, line: Callable[[str], object]) -> Done | None:
        """Do one task."""
        last = ""

        def heard(text: str) -> None:
            nonlocal last
            last = text.strip() or last
            line(text)

        turn = Turn(content.prompt(task.message), os.getcwd(), self._policy)
        with self._commands.started(environ) as process:
            if process is None:
                return None
            stdin, stdout, stderr = (cast("IO[bytes]", p) for p in (process.stdin, process.stdout, process.stderr))
            lines = Lines(stdin, stdout, line)
            errors = running.in_thread(running.pass_lines, stderr, heard)
            try:
                why = _Talk(self._commands, turn, task, told, lines).run()
            except Ended:
                why = ""
            lines.close()
            by_itself, code = _end(process, 0.0 if why else _END_SECONDS)
            running.close(((stderr, errors), (stdout, lines.reader), (stdin, lines.writer)))
        if self._commands.ending:
            return None
        if why == "":
            how = failure(code, last, "agent") or "exit code 0"
            return Done(code, "the agent " + (f"ended before its task: {how}" if by_itself else "closed its output"))
        if why is not None:
            return Done(code, why)
        try:
            self._share(task, turn)
        except (ClawLinkError, OSError) as error:
            return Done(code, f"a file of the agent could not be shared: {error}")
        return Done(code, None, as_result(turn.text, json_result=self._json_result))

    def _share(self, task: Task, turn: Turn) -> None:
        for file in turn.files:
            source: str | io.BytesIO = io.BytesIO(file.data) if file.path is None else file.path  # type: ignore[arg-type]
            task.attachments.append(self._link.attach(source, file.name).result(_SHARE_SECONDS))


class _Talk:
    """A turn with the process of an agent."""

    def __init__(self, commands: running.Commands, turn: Turn, task: Task, told: Told, lines: Lines) -> None:
        self._commands = commands
        self._lines = lines
        self._turn = turn
        self._task = task
        self._told = told
        self._asked: tuple[Question, Pending[Any], int] | None = None
        self._began = self._heard = time.monotonic()
        self._reported = 0.0
        self._last: tuple[float | None, str | None] = (None, None)

    def run(self) -> str | None:
        """Return the reason for a failure, None if the turn came to its end. Raises Ended if the agent ended."""
        lines = self._lines
        turn, given_up, why = self._turn, 0.0, None
        try:
            lines.send(turn.begin())
            while turn.end is None:
                self._told.go_on()
                if why is None and (why := self._over()) is not None:
                    given_up = time.monotonic() + (_CANCEL_SECONDS if turn.prompting else 0.0)
                    lines.send(turn.cancel())
                if why is not None and time.monotonic() >= given_up:
                    break
                if (message := lines.next(_STEP_SECONDS)) is not None:
                    self._heard = time.monotonic()
                    lines.send(turn.hear(message))
                if why is None:
                    self._report()
                    lines.send(self._answers())
        except Broken as error:
            return why or str(error)
        except Ended:
            if why is None:
                raise
        return why if why is not None or turn.end is None else turn.end.why

    def _over(self) -> str | None:
        """Return the reason to stop early, if there is any."""
        now, timeout, turn = time.monotonic(), self._commands.timeout, self._turn
        if self._commands.ending:
            return running.ENDING
        if self._task.cancelled:
            return "no agent waits for the result any more"
        if timeout is not None and now >= self._began + timeout:
            return f"the agent did not end its turn within {timeout:g} s"
        if not turn.prompting and now >= self._began + START_SECONDS:
            return f"the agent did not answer {turn.waits_for} within {START_SECONDS:g} s"
        if self._asked is not None:
            self._heard = now
        if now >= self._heard + SILENT_SECONDS:
            return f"the agent said nothing for {SILENT_SECONDS:g} s"
        return None

    def _report(self) -> None:
        now, state = time.monotonic(), (self._turn.percent, self._turn.note)
        if state != self._last and now >= self._reported + _REPORT_SECONDS and self._asked is None:
            self._last, self._reported = state, now
            self._told.progress(*state)

    def _answers(self) -> list[dict[str, Any]]:
        """Ask the requester about the first permission that waits, and return its answer once it is there."""
        turn = self._turn
        if self._asked is None:
            if turn.questions:
                question = turn.questions[0]
                self._asked = question, self._task.ask(question.text), 1
            return []
        question, pending, tries = self._asked
        if not pending.done():
            return []
        self._asked = None
        with contextlib.suppress(ClawLinkError):  # there is no answer, so there is no permission
            messages = turn.answer(question, pending.result(0))
            if messages is not None:
                return messages
            if tries < _TRIES:
                again = f"That is no answer to the question.\n{question.text}"
                self._asked = question, self._task.ask(again), tries + 1
                return []
        return turn.refuse(question)


def _end(process: subprocess.Popen[bytes], patience: float) -> tuple[bool, int]:
    """Let an agent whose input is closed end by itself, else end it; return whether it did, and its exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    by_itself = process.poll() is not None
    if not by_itself:
        running.stop(process)
    code = process.wait()
    running.kill(process)
    return by_itself, code
