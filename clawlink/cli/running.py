"""Running a command for a task: its input and output, how long it may take, and an end for all that it started.

A small shell beside each command ends it if the worker is killed, where the system has process groups.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, NamedTuple, cast

_WINDOWS = os.name == "nt"
# How often it is looked whether the task is still wanted; a command that ends is noticed at once.
_STEP_SECONDS = 0.2
# A command that is told to end has this long, before it is killed.
_GRACE_SECONDS = 2.0
# Processes that it left running may hold its output open this long, and are killed then.
_LAST_WORDS_SECONDS = 1.0
_CHUNK_BYTES = 64 * 1024
# The worker's word ends the guard. Without it, at the end of the worker, the guard ends the group of the command.
_GUARD = 'read -r _ || { kill -s TERM -- "-$1"; sleep 2; kill -s KILL -- "-$1"; }'
MOST_OUTPUT_BYTES = 16 * 1024 * 1024
# Reasons to stop a command that are not its own fault.
ENDING = "the worker is ending"


class Ended(NamedTuple):
    """The end of a command: its exit code (negative: the signal), and ``why`` the worker stopped it, if it did."""

    code: int
    output: bytes
    why: str | None


class Commands:
    """Runs one command again and again, for several tasks at once if need be."""

    def __init__(self, command: str | list[str], *, shell: bool, timeout: float | None) -> None:
        self._command = command
        self._shell = shell
        self._timeout = timeout
        self._lock = threading.RLock()  # a signal may come while it is held
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(
        self,
        given: bytes,
        environ: Mapping[str, str],
        *,
        line: Callable[[str], object],
        wanted: Callable[[], bool],
    ) -> Ended:
        """Run it once with ``given`` as its input, and return its output. Each line of its errors goes to ``line``.

        It is asked now and then whether the result is still ``wanted``. Raises OSError if it cannot be started.
        """
        with self.started(environ) as process:
            if process is None:
                return Ended(-signal.SIGTERM, b"", ENDING)
            return self._follow(process, given, line, wanted)

    @property
    def ending(self) -> bool:
        """Return True if the worker ends, and with it all commands."""
        return self._over

    @property
    def timeout(self) -> float | None:
        """The longest time of a task in seconds."""
        return self._timeout

    @contextlib.contextmanager
    def started(self, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes] | None]:
        """Start it, with pipes; None if the worker is ending. Its user ends it. Raises OSError."""
        with self._lock:
            process = None if self._over else self._start(environ)
            if process is not None:
                self._running.add(process)
        guard = None if process is None else _guard(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running -= {process}
            _dismiss(guard)

    def _start(self, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # A process group of its own: its children end with it, and Ctrl-C at the terminal is for the worker alone.
        return subprocess.Popen(  # noqa: S603 - what its operator typed, and nothing that came from others
            self._command,
            shell=self._shell,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            start_new_session=not _WINDOWS,
        )

    def end_all(self) -> None:
        """Kill all running commands, and start no more."""
        with self._lock:
            self._over = True
            for process in self._running:
                kill(process)

    def _follow(
        self,
        process: subprocess.Popen[bytes],
        given: bytes,
        line: Callable[[str], object],
        wanted: Callable[[], bool],
    ) -> Ended:
        stdin, stdout, stderr = (cast("IO[bytes]", pipe) for pipe in (process.stdin, process.stdout, process.stderr))
        output = _Output(stdout)
        pipes = [
            (stdin, in_thread(_feed, stdin, given)),
            (stdout, in_thread(output.read)),
            (stderr, in_thread(pass_lines, stderr, line)),
        ]
        until = None if self._timeout is None else time.monotonic() + self._timeout
        why: str | None = None
        while process.poll() is None:
            if until is not None and time.monotonic() >= until:
                why = f"the command did not end within {self._timeout:g} s"
            elif output.size > MOST_OUTPUT_BYTES:
                why = f"the command printed more than {MOST_OUTPUT_BYTES} bytes"
            elif not wanted():
                why = "no agent waits for the result any more"
            if why is not None:
                stop(process)
                break
            left = _STEP_SECONDS if until is None else max(0.0, min(_STEP_SECONDS, until - time.monotonic()))
            if not output.ended.wait(left):
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output, and goes on
                process.wait(left)
        code = process.wait()
        if self._over:
            why = ENDING
        patience = time.monotonic() + (_LAST_WORDS_SECONDS if why is None else 0.0)
        for _, thread in pipes:
            thread.join(max(0.0, patience - time.monotonic()))
        kill(process)
        close(pipes)
        return Ended(code, bytes(output.data), why)


class _Output:
    """The output of a command, up to a bound; the rest is only counted."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.data = bytearray()
        self.size = 0
        self.ended = threading.Event()
        self._pipe = pipe

    def read(self) -> None:
        """Read until the end."""
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(self._pipe.fileno(), _CHUNK_BYTES):
                self.size += len(chunk)
                if self.size <= MOST_OUTPUT_BYTES:
                    self.data += chunk
        self.ended.set()


def _guard(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
    """Have the group of a command end if this process ends without a word, as by SIGKILL."""
    if _WINDOWS:
        return None
    with contextlib.suppress(OSError):  # a system without a shell has no guard
        return subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _GUARD, "sh", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
    return None


def _dismiss(guard: subprocess.Popen[bytes] | None) -> None:
    if guard is not None and guard.stdin is not None:
        with contextlib.suppress(OSError):
            guard.stdin.write(b"\n")
            guard.stdin.close()
        guard.wait()


def _feed(pipe: IO[bytes], given: bytes) -> None:
    """Give a command its input; it need not read it."""
    with contextlib.suppress(OSError):
        pipe.write(given)
        pipe.flush()
    with contextlib.suppress(OSError):
        pipe.close()


def pass_lines(pipe: IO[bytes], line: Callable[[str], object]) -> None:
    """Pass on each line of a pipe until its end."""
    with contextlib.suppress(OSError, ValueError):
        while read := pipe.readline(_CHUNK_BYTES):
            line(read.decode(errors="replace").rstrip("\r\n"))


def in_thread(target: Callable[..., None], *args: object) -> threading.Thread:
    """Run a function in a thread that ends with the process."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def close(pipes: Iterable[tuple[IO[bytes], threading.Thread]]) -> None:
    """Close the pipes of a command that has ended, each after its thread has read or written the last."""
    for pipe, thread in pipes:
        thread.join(_LAST_WORDS_SECONDS)
        if not thread.is_alive():  # else something that left the group has it open still
            with contextlib.suppress(OSError):
                pipe.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a command and its children to end; kill those that do not."""
    if not _WINDOWS:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and its children, which may be there although the command itself has ended."""
    if not _WINDOWS:
        _signal(process, signal.SIGKILL)
        return
    if process.poll() is None:
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        process.kill()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal the group of a command, which may be there although the command itself has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
