"""Shared by the tests of the command line: a relay a module, an account a test, and two ways to run a command."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from clawlink.cli.main import main
from clawlink.client.hooks.rules import HOSTS
from clawlink.client.sync import Client
from tests import processes
from tests.waiting import PATIENCE, wait_until

COMMAND = [sys.executable, "-m", "clawlink.cli.main"]


@dataclass
class Result:
    """How a command ended, and what it printed."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    def ok(self) -> Result:
        """Fail the test unless the command is done."""
        assert self.code == 0, (self.code, self.raw, self.err)
        return self

    def failed(self, code: int) -> Result:
        """Fail the test unless the command ended with this code, and one line said why."""
        assert self.code == code, (self.code, self.raw, self.err)
        assert "Traceback" not in self.err
        assert len(self.err.splitlines()) == 1, self.err
        return self


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an account of its own for every test: no identity, no settings, a home that is empty, no neighbours."""
    others = {"REQUESTS_CA_BUNDLE", *(name for host in HOSTS.values() for name in host.variables)}
    for name in [name for name in os.environ if name.startswith(("CLAWLINK_", "PYTHON")) or name in others]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLAWLINK_NO_MDNS", "yes")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    return home


@pytest.fixture
def run() -> Run:
    """Run a command as a process of its own: ``run("poll", "--json", stdin=b"", env={...})``."""

    def run(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
        done = processes.run([*COMMAND, *args], input=stdin, env={**os.environ, **(env or {})}, timeout=PATIENCE)
        return Result(done.returncode, done.stdout, done.stderr.decode())

    return run


@pytest.fixture
def call(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, which is faster and counts for coverage."""

    def call(*args: str, stdin: bytes = b"") -> Result:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main(list(args))
        raw, err = capfdbinary.readouterr()
        return Result(code, raw, err.decode())

    return call


def until_polled(url: str, polls: int = 1) -> None:
    """Wait until this many polls wait at the relay."""

    def polled() -> bool:
        shown = requests.get(url + "/metrics", timeout=PATIENCE).text
        return int(re.findall(r"^clawlink_waiting_polls (\d+)$", shown, re.MULTILINE)[0]) >= polls

    wait_until(polled)


def _start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    process = processes.Popen(
        [sys.executable, "-m", "clawlink.server", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("CLAWLINK_")},
    )
    assert process.stdout is not None
    found = re.search(r"listening on (\S+)", process.stdout.readline())
    assert found is not None
    return process, found[1]


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def module_relay() -> Iterator[str]:
    """Run one relay for all tests of a module: agents are told apart by their names."""
    process, url = _start()
    yield url
    _stop(process)


@pytest.fixture
def relay(module_relay: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let every command of the test find the module's relay."""
    monkeypatch.setenv("CLAWLINK_RELAY", module_relay)
    return module_relay


class Relays:
    """Relays of one test: ``own_relay("--token", "t")`` starts one and returns its address."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __call__(self, *flags: str) -> str:
        process, url = _start(*flags)
        self._running[url] = process
        return url

    def pid(self, url: str) -> int:
        """Return the process of the relay at that address."""
        return self._running[url].pid

    def stop(self, url: str) -> None:
        """Kill the relay at that address."""
        _stop(self._running.pop(url))

    def terminate(self, url: str) -> None:
        """Send SIGTERM to the relay at that address, and wait until it is gone."""
        process = self._running[url]
        process.terminate()
        process.wait(PATIENCE)
        self.stop(url)

    def restart(self, url: str, *flags: str) -> None:
        """Start another one at the same address: it remembers nothing."""
        assert self("--port", url.rpartition(":")[2], *flags) == url

    def stop_all(self) -> None:
        """Kill what still runs."""
        for url in list(self._running):
            self.stop(url)


@pytest.fixture
def own_relay() -> Iterator[Relays]:
    """Start relays of the test's own."""
    relays = Relays()
    yield relays
    relays.stop_all()


_counter = iter(range(1_000_000))


@pytest.fixture
def fresh() -> Callable[[str], str]:
    """Make a name that no other test has used: ``fresh("ada")``."""
    return lambda name: f"{name}-{next(_counter)}"


@pytest.fixture
def peer(relay: str, fresh: Callable[[str], str]) -> Iterator[Client]:
    """Register another agent, which is not of this account."""
    with Client(relay) as client:
        client.register(fresh("peer"), capabilities=["peering"])
        yield client
