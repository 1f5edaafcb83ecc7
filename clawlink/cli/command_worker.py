"""How a worker does a task: by a command that is its input and output. ``acp_worker.py`` has the other way."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from clawlink.cli.running import Commands
    from clawlink.cli.worker import Told
    from clawlink.client.link.task import Task

_PROGRESS = re.compile(r"progress\s+(\d+(?:\.\d+)?)\s*%?(?:\s+(.*))?")
_MOST = 100.0
_SENTENCE_LENGTH = 1000


@dataclass(frozen=True)
class Done:
    """The end of a task: the exit code of its process, the reason for a failure, and the result."""

    code: int
    why: str | None
    result: Any = None


class Way(Protocol):
    """How tasks are done. ``line`` takes what a process says beside its work."""

    def do(self, task: Task, environ: Mapping[str, str], told: Told, line: Callable[[str], object]) -> Done | None:
        """Do a task; None if the worker ends. Raises OSError if the process cannot start."""


class ByCommand:
    """A command does each task: the task is its standard input, its output the result."""

    def __init__(self, commands: Commands, *, json_result: bool) -> None:
        self._commands = commands
        self._json_result = json_result

    def do(self, task: Task, environ: Mapping[str, str], told: Told, line: Callable[[str], object]) -> Done | None:
        """Do one task."""
        import msgspec

        from clawlink.cli.running import ENDING

        last = ""

        def heard(text: str) -> None:
            nonlocal last
            found = _progress(text)
            if found is not None:
                told.progress(*found)
                return
            last = text.strip() or last
            line(text)

        def wanted() -> bool:
            told.go_on()
            return not task.cancelled

        given = msgspec.json.encode(task.message) + b"\n"
        ended = self._commands.run(given, environ, line=heard, wanted=wanted)
        if ended.why == ENDING:
            return None
        why = ended.why or failure(ended.code, last, "command")
        if why is not None:
            return Done(ended.code, why)
        try:
            return Done(ended.code, None, as_result(ended.output.decode(), json_result=self._json_result))
        except UnicodeDecodeError as error:
            return Done(ended.code, f"what the command printed is not UTF-8 (at byte {error.start})")


def as_result(text: str, *, json_result: bool) -> Any:
    """Return a text as a result, without its last line end."""
    text = text.removesuffix("\n").removesuffix("\r")
    if json_result:
        import msgspec

        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(text)
    return text


def failure(code: int, last: str, what: str) -> str | None:
    """Return the reason for a failed process: its last line on standard error, if there was any."""
    if code == 0:
        return None
    how = f"exit code {code}" if code > 0 else f"signal {_name_of(-code)}"
    if not last:
        return f"the {what} failed ({how})"
    last = last[:_SENTENCE_LENGTH]
    return last if " " in last else f"{last} ({how})"


def _progress(line: str) -> tuple[float, str | None] | None:
    """Return the progress that a line of a command reports: percent, and a note; None for all other lines."""
    found = _PROGRESS.fullmatch(line)
    return None if found is None or float(found[1]) > _MOST else (float(found[1]), found[2])


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
