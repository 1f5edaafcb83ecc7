"""Start a module of ours as a process in a hundredth of the processor time that Python's start and imports take.

``Popen`` and ``run`` are those of ``subprocess``. On Linux a command ``[sys.executable, "-m", MODULE, ...]``, or with
``"-c", PROGRAM``, is forked from a process that has imported the package already. The new process is a child of the
test's: its signals, its exit code, its standard streams, its environment and its folder are its own. All else starts as
usual: what asks for options that a fork cannot give, other systems, a run that measures coverage, and ``make
test-long``. ``command_in`` makes a program of it, for shells.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import io
import os
import pickle
import pkgutil
import random
import runpy
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clawlink.cli
from tests.effort import LONG

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_BYTES = 1 << 17
_IMPORTS = ("clawlink.server.run", "clawlink.client.sync", "clawlink.client.aio", "clawlink.client.link")
_FORKS = sys.platform == "linux" and not LONG
# The interpreter reads these before a fork could set them.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "COVERAGE_", "TZ")
# The last two tell of the Python of an image of Docker, which it does not read.
_HARMLESS = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHON_VERSION", "PYTHON_SHA256")
_FIRST_ENVIRONMENT = dict(os.environ)
_ONE_AT_A_TIME = threading.Lock()
_COMMAND = [sys.executable, "-m", "clawlink.cli.main"]
# Without site, and on _socket, it starts in a tenth of the time. A shell's locale is that of the tests.
_ASKING = """#!{python} -IS
import _socket, os, struct, sys
environment = {{name: value for name, value in os.environ.items() if name != "LC_ALL"}}
asked = repr((sys.argv[1:], environment, os.getcwd())).encode()
there = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
there.connect({address!r})
there.sendmsg([asked], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("3i", 0, 1, 2))])
os._exit(int(there.recv(16)))
"""


class Popen(subprocess.Popen[Any]):
    """``subprocess.Popen``, by a fork where that is the same."""

    def __init__(self, args: Any, **options: Any) -> None:
        self._forked = _FORKS and _may_fork(args, options)
        super().__init__(args, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if not self._forked:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        cwd, env = rest[4], rest[5]
        theirs_in, ours_in, ours_out, theirs_out, ours_err, theirs_err = rest[9:15]
        streams = [
            theirs if theirs != -1 else standard for standard, theirs in enumerate((theirs_in, theirs_out, theirs_err))
        ]
        self.pid = _fork([os.fspath(part) for part in args], env, cwd, streams)
        self._child_created = True
        for theirs, ours in ((theirs_in, ours_in), (theirs_out, ours_out), (theirs_err, ours_err)):
            if theirs != -1 and ours != -1:
                os.close(theirs)
        with contextlib.suppress(AttributeError):
            if self._devnull is not None:  # type: ignore[attr-defined]
                os.close(self._devnull)  # type: ignore[attr-defined]


def run(args: Any, *, input: Any = None, timeout: float | None = None, **options: Any) -> Any:
    """Run a command to its end, as ``subprocess.run`` does with ``capture_output``."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **{**streams, **options}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(args, process.returncode, out, err)


@contextlib.contextmanager
def command_in(folder: Path) -> Iterator[None]:
    """Put the command ``clawlink`` into a folder, for shells of a test: it starts as ``Popen`` starts it."""
    folder.mkdir(exist_ok=True)
    path = folder / "clawlink"
    if not _FORKS:
        path.write_text(f'#!/bin/sh\nexec {shlex.join(_COMMAND)} "$@"\n')
        path.chmod(0o755)
        yield
        return
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        address = os.path.join(short, "s")
        listener.bind(address)
        listener.listen()
        path.write_text(_ASKING.format(python=sys.executable, address=address))
        path.chmod(0o755)
        started: list[Popen] = []
        answering = threading.Thread(target=_answer, args=(listener, started))
        answering.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for process in started:
                process.kill()
            answering.join()


def _answer(listener: socket.socket, started: list[Popen]) -> None:
    """Start a command for each connection, until the listener is shut down and all commands have ended."""
    commands = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        commands.append(threading.Thread(target=_start_for, args=(connection, started)))
        commands[-1].start()
    for command in commands:
        command.join()


def _start_for(connection: socket.socket, started: list[Popen]) -> None:
    with connection:
        asked, streams, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 3)
        words, environment, folder = ast.literal_eval(asked.decode())
        stdin, stdout, stderr = streams
        process = Popen([*_COMMAND, *words], stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=folder)
        started.append(process)
        for stream in streams:
            os.close(stream)
        code = process.wait()
        with contextlib.suppress(OSError):  # a shell that has ended reads no code
            connection.send(str(code if code >= 0 else 128 - code).encode())


def _may_fork(args: Any, options: dict[str, Any]) -> bool:
    known = {"stdin", "stdout", "stderr", "env", "cwd", "text", "encoding", "bufsize"}
    if isinstance(args, str) or args[0] != sys.executable or args[1] not in ("-m", "-c") or not options.keys() <= known:
        return False
    return _read_at_start(options.get("env") or os.environ) == _read_at_start(_FIRST_ENVIRONMENT)


def _read_at_start(environment: Any) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(_READ_AT_START) and k not in _HARMLESS}


@functools.cache
def _source() -> socket.socket:
    """Start the process that forks, and become the parent of what it forks."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        environment = {k: v for k, v in _FIRST_ENVIRONMENT.items() if k not in _HARMLESS}
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=(theirs.fileno(),), env=environment
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _fork(args: list[str], env: Any, cwd: Any, streams: list[int]) -> int:
    environment = dict(os.environ) if env is None else {os.fspath(k): os.fspath(v) for k, v in env.items()}
    what = pickle.dumps((args[1:], environment, os.fspath(cwd or os.getcwd())))
    with _ONE_AT_A_TIME:
        socket.send_fds(_source(), [what], streams)
        return int(_source().recv(64))


def _serve(connection: socket.socket) -> list[str]:
    """Fork what is asked for. Return in a new process only, with the words of the command behind Python."""
    while True:
        what, streams, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 3)
        if not what:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            os.close(reading)
            pid = os.fork()
            if pid:
                os.write(writing, str(pid).encode())
                os._exit(0)
            os.close(writing)
            connection.close()
            return _become(what, streams)
        os.waitpid(between, 0)  # with its parent gone, the new process is a child of the test's
        os.close(writing)
        connection.send(os.read(reading, 64))
        os.close(reading)
        for stream in streams:
            os.close(stream)


def _become(what: bytes, streams: list[int]) -> list[str]:
    words: list[str]
    words, environment, folder = pickle.loads(what)
    for standard, stream in enumerate(streams):
        os.dup2(stream, standard)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.seed()
    sys.stdin = sys.__stdin__ = _text(0, sys.stdin, mode="r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text(1, sys.stdout, mode="w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(2, sys.stderr, mode="w")  # type: ignore[misc]
    return words


def _text(stream: int, like: Any, *, mode: str) -> Any:
    """Open a standard stream as Python does at its start."""
    if mode == "w" and os.environ.get("PYTHONUNBUFFERED"):
        raw = io.FileIO(stream, "w", closefd=False)
        return io.TextIOWrapper(raw, like.encoding, like.errors, write_through=True)
    return open(
        stream, mode, encoding=like.encoding, errors=like.errors, closefd=False, buffering=1 if stream == 2 else -1
    )


def main() -> None:
    """Import the package, fork on request, and run the requested module or program in each fork."""
    code: list[object] = []
    atexit.register(_end, code)  # first, so that it runs after all others
    commands = [f"clawlink.cli.{module.name}" for module in pkgutil.iter_modules(clawlink.cli.__path__)]
    for name in (*_IMPORTS, *commands):
        if not name.endswith(".main"):  # that is run, not imported
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    how, what, *arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        if how == "-m":
            sys.argv = [what, *arguments]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *arguments]
            sys.path[0] = ""
            program = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), program.__dict__)
    except SystemExit as end:
        code.append(0 if end.code is None else end.code)
        raise
    code.append(0)


def _end(code: list[object]) -> None:
    """End the process, but take no module apart: that would copy each page of memory that the fork shares.

    Return where Python itself has to end it: Python prints the words, or tells of output that cannot be written.
    """
    if not code or not isinstance(code[0], int):
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except (OSError, ValueError):
        return
    os._exit(code[0] & 0xFF)


if __name__ == "__main__":
    main()
