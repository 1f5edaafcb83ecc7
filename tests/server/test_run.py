"""Starting a relay: what it prints, and how it ends when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from clawlink import lan
from clawlink.config import ServerConfig
from clawlink.relay.error_mapping import refusal
from clawlink.server import run as running
from clawlink.server.app import App
from clawlink.store.memory import MemoryStore
from tests.conftest import Serve, Start
from tests.processes import Popen, run
from tests.tables import each
from tests.waiting import PATIENCE, cancelled_after


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_a_person_at_a_terminal_is_warned_once() -> None:
    import pty

    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "clawlink.cli.main", "serve", "--port", "0", "--host", "0.0.0.0", "--no-mdns"]
    with Popen([*command, "--no-auth"], stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal) as relay:
        os.close(terminal)
        with open(screen, encoding="utf-8", errors="replace") as said:
            lines = list(itertools.takewhile(lambda line: " listening " not in line, said))
            relay.terminate()
            with contextlib.suppress(OSError):  # Linux tells so of the end
                lines += said
    assert "".join(lines).count("Plain HTTP") == 1


def test_a_reader_of_both_streams_is_warned_once(tmp_path: Path) -> None:
    """A service manager or ``2>&1`` sends both to one place."""
    flags = ["--port", "0", "--host", "0.0.0.0", "--no-mdns", "--no-auth"]
    command = [sys.executable, "-m", "clawlink.server", *flags]
    with Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as relay:
        assert relay.stdout is not None
        lines = list(itertools.takewhile(lambda line: " listening " not in line, relay.stdout))
        relay.terminate()
        lines += relay.stdout
    assert "".join(lines).count("Plain HTTP") == 1


async def test_all_addresses_of_ip_version_6_are_those_of_version_4_too() -> None:
    app = App(ServerConfig(host="::", port=0, token="t"))
    port = await app.start()
    try:
        for host in ("127.0.0.1", *(["::1"] if socket.has_ipv6 and lan.way_out(socket.AF_INET6) else [])):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    finally:
        await app.stop()


def test_an_open_relay_warns_in_its_log_too() -> None:
    """The log goes on when nobody reads standard output: under systemd, or in a container."""
    for host, warns in (("0.0.0.0", True), ("127.0.0.1", False)):
        flags = ["--port", "0", "--host", host, "--no-mdns", "--no-auth", "--log-json"]
        command = [sys.executable, "-m", "clawlink.server", *flags]
        environment = {**os.environ, "CLAWLINK_TOKEN": ""}
        with Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stderr is not None
            seen = []
            for line in process.stderr:
                seen.append(json.loads(line))
                if seen[-1]["event"] == "listening":
                    process.terminate()
        warnings = [line["event"] for line in seen if line["level"] == "warning"]
        assert any(warning.startswith("No token is asked for") for warning in warnings) is warns, (host, seen)


def test_a_relay_on_all_addresses_makes_a_token_and_asks_for_it(start_relay: Start) -> None:
    relay = start_relay("--host", "0.0.0.0", "--no-mdns", env={"CLAWLINK_TOKEN": ""})
    found = re.search(r"--token (\S+) register --name YOUR-NAME", relay.banner)
    assert found
    assert f"clawlink --relay {relay.url} --token" in relay.banner
    local = f"http://127.0.0.1:{relay.url.rsplit(':', 1)[1]}"
    assert requests.get(local + "/", timeout=PATIENCE).status_code == 401
    with_token = requests.get(local + "/", headers={"Authorization": f"Bearer {found[1]}"}, timeout=PATIENCE)
    assert with_token.json()["auth_required"] is True


def test_no_auth_runs_open_and_says_so(start_relay: Start) -> None:
    relay = start_relay("--host", "0.0.0.0", "--no-mdns", "--no-auth", env={"CLAWLINK_TOKEN": ""})
    assert "--token" not in relay.banner
    assert relay.process.stdout is not None
    assert "No token is asked for" in relay.process.stdout.readline()
    local = f"http://127.0.0.1:{relay.url.rsplit(':', 1)[1]}"
    assert requests.get(local + "/", timeout=PATIENCE).json()["auth_required"] is False


def test_the_token_may_come_from_the_environment(start_relay: Start) -> None:
    relay = start_relay(env={"CLAWLINK_TOKEN": "from-outside"})
    assert "--token from-outside" in relay.banner
    assert requests.get(relay.url, timeout=PATIENCE).status_code == 401


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits of a thread's stack")
def test_a_system_that_gives_no_thread_is_a_sentence() -> None:
    start = "threading.stack_size(1 << 47); runpy.run_module('clawlink.server', run_name='__main__')"
    command = [sys.executable, "-c", f"import runpy, threading; {start}", "--port", "0", "--no-mdns"]
    done = run(command, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.startswith("clawlink: the system gives the relay no thread; raise the limit")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits of a thread's stack")
async def test_a_running_relay_that_gets_no_thread_says_so(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    relay = await serve()
    size = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError) as failed:
            threading.Thread(target=print).start()
    finally:
        threading.stack_size(size)
    refused = refusal(relay.app.relay, failed.value, {}, logging.getLogger("clawlink.request"))
    assert (refused.status, refused.code) == (503, "unavailable")
    assert "TasksMax" in caplog.text
    assert "Traceback" not in caplog.text


@each("host", ["192.0.2.1", "no-such-host.invalid", "::g", "a..b"])
def test_an_address_that_is_not_ours_ends_it_with_a_sentence(host: str) -> None:
    command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--host", host, "--no-mdns"]
    done = run(command, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert f"cannot listen on {host}" in done.stderr
    assert "--host takes an address or a name of this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_without_what_it_needs_names_the_missing_package(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "__init__.py").write_text("import what_redis_needs")
    command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--store", "redis://127.0.0.1:1"]
    done = run(command, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "needs the package redis (No module named 'what_redis_needs')" in done.stderr
    assert "pip install" in done.stderr


def test_a_python_without_sqlite_is_told_as_such(tmp_path: Path) -> None:
    """It runs all else. In ``sys.modules`` None stands for a module that cannot be imported."""
    start = "import sys, runpy; sys.modules['sqlite3'] = None; runpy.run_module('clawlink', run_name='__main__')"
    for command in (
        ("serve", "--port", "0", "--data", str(tmp_path)),
        ("backup", str(tmp_path), str(tmp_path / "copy")),
        ("doctor", "--data", str(tmp_path)),
    ):
        done = run([sys.executable, "-c", start, *command], text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "this Python lacks" in done.stderr, command


def _ends_in_order(process: subprocess.Popen[str]) -> str:
    """Wait for a relay to listen, end it, and return its log."""
    assert process.stderr is not None
    lines = [process.stderr.readline()]
    while lines[-1] and " listening " not in lines[-1]:
        lines.append(process.stderr.readline())
    process.terminate()
    with process:
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    return "".join(lines) + rest


def test_a_relay_whose_standard_output_takes_nothing_says_so_and_goes_on() -> None:
    for command in (["clawlink.server"], ["clawlink", "serve"]):
        unread, full = os.pipe()
        os.close(unread)
        process = Popen([sys.executable, "-m", *command, "--port", "0"], stdout=full, stderr=subprocess.PIPE, text=True)
        os.close(full)
        assert "standard output does not take the lines" in _ends_in_order(process), command


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_end_of_the_terminal_drains_a_relay_unless_that_is_ignored(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    for ignored in (False, True):
        relay = [sys.executable, "-m", "clawlink", "serve", "--port", "0", "--loop", loop]
        command = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *relay] if ignored else relay
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = re.search(r"listening on (\S+)", process.stdout.readline())
        assert url
        assert requests.get(url[1] + "/healthz", timeout=PATIENCE).status_code == 200
        process.send_signal(signal.SIGHUP)
        if ignored:
            assert requests.get(url[1] + "/healthz", timeout=PATIENCE).status_code == 200
            process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "Traceback" in said) == (0, False), (ignored, said)
        assert " draining" in said, ignored


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such numbers of files")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_relay_without_standard_input_and_output_ends_in_order(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    relay = [sys.executable, "-m", "clawlink.server", "--port", "0", "--loop", loop]
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *relay]
    _ends_in_order(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))


@each("found", ["raise ImportError('not installed')", "__version__ = '0.22.1'\nrun = None"], ids=["none", "too old"])
def test_a_loop_that_is_not_installed_ends_it_with_a_sentence(tmp_path: Path, found: str) -> None:
    (tmp_path / "uvloop.py").write_text(found)
    program = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules.pop('uvloop', None); "
    program += "runpy.run_module('clawlink.server', run_name='__main__', alter_sys=True)"
    for loop, wanted in (("uvloop", 1), ("asyncio", None), ("auto", None)):
        process = Popen(
            [sys.executable, "-c", program, "--port", "0", "--loop", loop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if wanted is None:
            assert process.stdout is not None
            assert "listening on" in process.stdout.readline(), loop
            process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
        if wanted is not None:
            assert process.returncode == wanted, loop
            assert "--loop uvloop needs the package uvloop, 0.23 or later" in said
            assert "'.[uvloop]', or use --loop asyncio" in said
            assert "Traceback" not in said


def test_it_may_open_as_many_files_as_the_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    unlimited = resource.RLIM_INFINITY
    for soft, hard, most, wanted in (
        (1024, 524_288, 524_288, 524_288),
        (256, unlimited, 61_440, 24_576),  # as on macOS
        (256, unlimited, 10_240, 10_240),
        (unlimited, unlimited, 10_240, unlimited),
        (4096, 4096, 4096, 4096),
        (512, unlimited, 500, 512),
        (50_000, unlimited, 61_440, 50_000),
    ):
        now = [soft]

        def setrlimit(_: int, to: tuple[int, int], now: list[int] = now, most: int = most) -> None:
            if to[0] > most or to[0] == unlimited:
                raise ValueError("current limit exceeds maximum limit")
            now[:] = to[:1]

        with monkeypatch.context() as patched:
            patched.setattr(resource, "getrlimit", lambda _, now=now, hard=hard: (now[0], hard))
            patched.setattr(resource, "setrlimit", setrlimit)
            patched.setitem(sys.modules, "uvloop", None)
            assert running.run(ServerConfig(loop="uvloop")) == 1, "it ends before it opens anything"
        assert now == [wanted], (soft, hard, most)


@each("host", ["0.0.0.0", "a..b"])
def test_a_start_that_cannot_listen_makes_and_changes_nothing(host: str, tmp_path: Path) -> None:
    home = tmp_path / host
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        kept = home / "relays" / port / "token"
        kept.parent.mkdir(parents=True)
        kept.write_text("of-the-other-relay")
        (home / "empty").mkdir()
        before = sorted(home.rglob("*"))
        for more in (["--data", str(home / "new" / "data")], ["--data", str(home / "empty")], ["--new-token"]):
            command = [sys.executable, "-m", "clawlink.server", "--host", host, "--port", port, "--no-mdns", *more]
            done = run(command, text=True, timeout=PATIENCE, env={**os.environ, "CLAWLINK_HOME": str(home)})
            assert (done.returncode, "cannot listen on" in done.stderr) == (1, True), done.stderr
            assert sorted(home.rglob("*")) == before, more
    assert kept.read_text() == "of-the-other-relay"


def test_a_port_that_is_taken_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        named = [sys.executable, "-m", "clawlink.server", "--host", "localhost", "--port", port]
        refused = run(named, text=True, timeout=PATIENCE)
        noted = tmp_path / "relays" / port / "data-folder"
        noted.parent.mkdir(parents=True)
        noted.write_text("/of/the/other")
        command = [sys.executable, "-m", "clawlink.server", "--port", port, "--data", str(tmp_path / "data")]
        done = run(command, text=True, timeout=PATIENCE, env={**os.environ, "CLAWLINK_HOME": str(tmp_path)})
    assert noted.read_text() == "/of/the/other"
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert f"a relay may run there already (see: clawlink --relay http://127.0.0.1:{port} relay info)" in done.stderr
    assert f"clawlink --relay http://localhost:{port} relay info" in refused.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_relay_opens_and_closes_the_store_that_it_makes_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told(MemoryStore):
        async def open(self) -> None:
            told.append("open")

        async def close(self) -> None:
            told.append("close")

    monkeypatch.setattr("clawlink.server.app.MemoryStore", Told)
    for given, expected in ((None, ["open", "close"]), (Told(), [])):
        app = App(ServerConfig(port=0), store=given)
        await app.start(close_seconds=0.1)
        await app.stop()
        assert told == expected, given
        told.clear()


async def test_a_stop_that_is_cancelled_stops_all_the_same() -> None:
    for turns in itertools.count(1):
        app = App(ServerConfig(port=0))
        port = await app.start()
        over = await cancelled_after(turns, app.stop())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        if over:
            break
