"""The ways to wake an agent: what each is, and those that run a command. Each takes our own words alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from clawlink.client.hooks.rules import HOSTS
from clawlink.client.hooks.sessions import Session
from clawlink.domain.terminal import cell
from clawlink.timeouts import wait_for
from clawlink.wake import openclaw
from clawlink.wake.openclaw import COUNTED, KEPT, OpenClaw
from clawlink.wake.rules import FAILED, QUEUED, STARTED

MAX_NOTE = 200
COMMAND_SECONDS = 60.0
# A headless run that still goes on after this time has begun its turn.
STARTED_SECONDS = 5.0
_MAX_SAID = 4096
_KILL_SECONDS = 2.0


class Notice(NamedTuple):
    """The words that wake an agent, the messages that they are about, and the key of the attempt."""

    text: str
    ids: tuple[str, ...]
    key: str


class Result(NamedTuple):
    """The outcome of an attempt: ``started``, ``queued`` or ``failed``. With ``again`` it is tried after that time."""

    result: str
    note: str | None = None
    again: float | None = None


class Adapter(Protocol):
    """A way to wake one agent. ``name`` is how the relay shows it.

    ``once`` says that it wakes once, and is closed until the agent has been in a turn and is idle again.
    """

    name: str
    once: bool

    def closed(self) -> str | None:
        """Return why it cannot work now; None if it can."""
        ...

    async def busy(self) -> bool:
        """Return True if the agent is in a turn, as far as the agent's program tells."""
        ...

    async def fire(self, notice: Notice) -> Result:
        """Wake the agent. Never raises for what the agent's program does."""
        ...


class Closed:
    """A way that this program does not have, and why."""

    once = False

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        self._why = why

    def closed(self) -> str | None:
        return self._why

    async def busy(self) -> bool:
        return False

    async def fire(self, notice: Notice) -> Result:
        return Result(FAILED, self._why)


class Unattended(Closed):
    """An identity that no session acts as. ``is_online`` returns True while a program of its own is at the relay."""

    def __init__(self, is_online: Callable[[], Awaitable[bool]]) -> None:
        super().__init__("none", "no session acts as it; set its chain in wake.toml, as to a command of yours")
        self._is_online = is_online

    async def busy(self) -> bool:
        return await self._is_online()  # it reads its mail by itself, in its own time


class Command:
    """A command of the person's. It gets the notice on standard input and in its environment, never from a shell."""

    name = "command"
    once = False

    def __init__(self, words: Sequence[str], agent: str, environ: Mapping[str, str] = os.environ) -> None:
        self._words = words
        self._agent = agent
        self._environ = environ

    def closed(self) -> str | None:
        return None if self._words else "no command is set"

    async def busy(self) -> bool:
        return False

    async def fire(self, notice: Notice) -> Result:
        environ = {
            **self._environ,
            "CLAWLINK_AGENT": self._agent,
            "CLAWLINK_WAKE_KEY": notice.key,
            "CLAWLINK_WAKE_MESSAGES": " ".join(notice.ids),
            "CLAWLINK_WAKE_TEXT": notice.text,
        }
        try:
            process = await _spawn(self._words, environ, None, notice.text)
        except OSError as error:
            return Result(FAILED, f"{cell(self._words[0])} cannot be run: {error.strerror or error}"[:MAX_NOTE])
        code, said = await _ended(process, COMMAND_SECONDS)
        if code is None:
            await _kill(process)
            return Result(FAILED, f"the command did not end within {COMMAND_SECONDS:g} s")
        return Result(QUEUED) if code == 0 else Result(FAILED, _why(code, said))


# Nobody is there to allow a tool. These reach no file: a message must not have one written, or shared.
_TOOLS = ("agents", "delegate", "inbox", "report", "tasks", "tell")
_ALLOWED = ",".join(f"mcp__clawlink__relay_{name}" for name in _TOOLS)
# How each program goes on with a session that has ended, without its screen.
RESUMES: Mapping[str, Callable[[str, str], list[str]]] = {
    "claude": lambda session, text: ["claude", "-p", "--resume", session, text, "--allowedTools", _ALLOWED],
    "codex": lambda session, text: ["codex", "exec", "resume", session, text],
    "gemini": lambda session, text: ["gemini", "--resume", session, "-p", text],
    "cursor": lambda session, text: ["cursor-agent", "--resume", session, "-p", text],
    "opencode": lambda session, text: ["opencode", "run", "--session", session, text],
}


class Resume:
    """A headless run of a session whose screen is closed. Such a run is billed, and nobody watches it.

    ``open`` returns True while the session has a screen: then a second turn in it would be one too many.
    """

    name = "resume"
    once = False

    def __init__(self, session: Session, is_open: Callable[[], bool], environ: Mapping[str, str] = os.environ) -> None:
        self._session = session
        self._is_open = is_open
        self._environ = environ
        self._running: asyncio.subprocess.Process | None = None
        self._reaper: asyncio.Task[object] | None = None

    def closed(self) -> str | None:
        if self._session.host not in RESUMES:
            return f"{self._session.host} has no headless run"
        if self._is_open():
            return "its session is open on a screen"
        program = RESUMES[self._session.host]("", "")[0]
        return None if shutil.which(program, path=self._environ.get("PATH")) else f"{program} is not found"

    async def busy(self) -> bool:
        return self._running is not None and self._running.returncode is None

    async def fire(self, notice: Notice) -> Result:
        words = RESUMES[self._session.host](self._session.session_id, notice.text)
        environ = {**within(self._session, self._environ), "CLAWLINK_AGENT": self._session.name}
        found = shutil.which(words[0], path=self._environ.get("PATH"))
        try:
            process = await _spawn([found or words[0], *words[1:]], environ, self._session.folder, "")
        except OSError as error:
            return Result(FAILED, f"{words[0]} cannot be run: {error.strerror or error}"[:MAX_NOTE])
        self._running = process
        code, said = await _ended(process, STARTED_SECONDS)
        if code is None:
            self._reaper = asyncio.get_running_loop().create_task(_drained(process))
            return Result(STARTED)
        return Result(STARTED) if code == 0 else Result(FAILED, _why(code, said))


def within(session: Session, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the variables of a session's program as the session had them."""
    if session.variables is None:
        return dict(environ)
    host = HOSTS.get(session.host)
    own = () if host is None else host.variables
    return {**{name: value for name, value in environ.items() if name not in own}, **session.variables}


class OverOpenClaw:
    """An agent of OpenClaw, by a line in its main session. Errors that may pass are tried again."""

    name = "openclaw"
    once = False

    def __init__(self, client: OpenClaw | None, why: str | None = None) -> None:
        self._client = client
        self._why = why
        self._failed = 0

    def closed(self) -> str | None:
        return self._why

    async def busy(self) -> bool:
        return False  # it puts the line after the turn that runs

    async def fire(self, notice: Notice) -> Result:
        if self._client is None:
            return Result(FAILED, self._why)
        # Its main session merges texts that repeat, so each has a key of its own.
        found = await self._client.wake(f"{notice.text} (wake {notice.key[:8]})")
        if found.kind == COUNTED:
            self._failed = 0
            return Result(QUEUED)
        self._failed += 1
        why = (found.why or "")[:MAX_NOTE]
        return Result(FAILED, why, None if found.kind == KEPT else openclaw.pause(self._failed, found))


# The loop itself keeps no task alive.
_reading: set[asyncio.Task[int]] = set()


async def _spawn(
    words: Sequence[str], environ: Mapping[str, str], folder: str | None, text: str
) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *words,
        env=dict(environ),
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    if process.stdin is not None:
        with contextlib.suppress(OSError, RuntimeError):  # uvloop raises the latter once the program has ended
            process.stdin.write(text.encode())
            process.stdin.close()
    return process


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> tuple[int | None, bytes]:
    """Return the exit code, None if it runs on, with the beginning of what it said.

    A program that it left running may hold its output open. That is read on then, so that the program never waits.
    """
    said = bytearray()
    try:
        return await wait_for(_drained(process, said), seconds), bytes(said)
    except asyncio.TimeoutError:
        if process.returncode is not None:
            reading = asyncio.get_running_loop().create_task(_drained(process))
            _reading.add(reading)
            reading.add_done_callback(_reading.discard)
        return process.returncode, bytes(said)


async def _drained(process: asyncio.subprocess.Process, said: bytearray | None = None) -> int:
    """Read what a process says to its end, so that it never waits for us; keep a little."""
    while process.stdout is not None and (piece := await process.stdout.read(65536)):
        if said is not None and len(said) < _MAX_SAID:
            said += piece[: _MAX_SAID - len(said)]
    return await process.wait()


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process that runs, and what it started in its group, which is its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(asyncio.TimeoutError):
        await wait_for(_drained(process), _KILL_SECONDS)


def _why(code: int, said: bytes) -> str:
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"it ended with {code}: {cell(lines[-1]) if lines else 'it says nothing'}"[:MAX_NOTE]
