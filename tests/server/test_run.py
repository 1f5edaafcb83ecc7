"""Starting a relay: what it prints, and how it ends when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from clawlink import lan
from clawlink.config import ServerConfig
from clawlink.lan import reachable_at
from clawlink.relay.error_mapping import refusal
from clawlink.server import run as running
from clawlink.server.app import App
from clawlink.server.run import banner
from clawlink.store.memory import MemoryStore
from tests.conftest import Serve, Start
from tests.processes import Popen, run
from tests.tables import each
from tests.waiting import PATIENCE, cancelled_after


def joining(lines: list[str]) -> list[str]:
    """Return the command in the second line."""
    return shlex.split(lines[1].partition(":  ")[2])


def test_on_loopback_with_the_default_port_the_join_command_needs_no_address() -> None:
    lines = banner(ServerConfig(), 9077)
    assert lines[0].endswith("is listening on http://127.0.0.1:9077")
    assert joining(lines) == ["clawlink", "register", "--name", "YOUR-NAME"]
    assert "on this machine" in lines[1]
    assert len(lines) == 2


def test_another_port_is_named() -> None:
    assert joining(banner(ServerConfig(), 1234))[:3] == ["clawlink", "--relay", "http://127.0.0.1:1234"]


def test_for_other_machines_address_and_token_are_filled_in() -> None:
    lines = banner(ServerConfig(host="192.168.1.5", token="t$ '\""), 9077)
    told = ["clawlink", "--relay", "http://192.168.1.5:9077", "--token", "t$ '\"", "register", "--name", "YOUR-NAME"]
    assert joining(lines) == told
    assert "from another machine" in lines[1]


def test_the_readme_shows_the_lines_of_a_relay_for_other_machines() -> None:
    config = ServerConfig(host="192.168.1.5", token="2Yp...", kept=Path("/home/you/.clawlink/relays/9077"))
    shown = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    lines = [line.replace(os.sep, "/") for line in banner(config, 9077)]
    assert f"```\n{chr(10).join(lines)}\n```\n" in shown


def test_a_relay_says_where_its_token_is_and_the_flag_for_another_or_none() -> None:
    place = Path("/data/token")
    for config, told in (
        (ServerConfig(host="192.168.1.5", token="t", kept=place.parent), "; --new-token makes another."),
        (ServerConfig(token="t", kept=place.parent), "; --no-auth asks for none."),
        (ServerConfig(token="t", kept=place.parent, public=True), "."),
    ):
        assert f"The token is kept in {place}{told}" in banner(config, 9077)


def test_listening_everywhere_names_an_address_that_others_can_use() -> None:
    for host in ("0.0.0.0", "::"):
        url = joining(banner(ServerConfig(host=host, token="t"), 9077))[2]
        try:
            there = reachable_at(host)
        except OSError:  # this machine has no such address
            there = socket.gethostname()
        assert url == f"http://{f'[{there}]' if ':' in there else there}:9077"
        assert "0.0.0.0" not in url


def test_an_address_of_ip_version_6_is_put_in_brackets() -> None:
    assert joining(banner(ServerConfig(host="fe80::1", token="t"), 80))[2] == "http://[fe80::1]:80"


def test_tls_is_named() -> None:
    told = joining(banner(ServerConfig(tls_cert="c", tls_key="k"), 9077))
    assert told[2:5] == ["https://127.0.0.1:9077", "--ca", "FILE"]


def test_an_open_relay_warns() -> None:
    lines = banner(ServerConfig(host="192.168.1.5", no_auth=True), 9077)
    assert lines[2].startswith("Warning: No token is asked for")
    for closed in (ServerConfig(), ServerConfig(no_auth=True), ServerConfig(host="192.168.1.5", token="t")):
        assert "No token" not in "".join(banner(closed, 9077)), closed


def test_plain_http_and_missing_agent_keys_are_told_beyond_loopback_alone() -> None:
    here, beyond = ServerConfig(token="t"), ServerConfig(host="192.168.1.5", token="t")
    cases = [
        (here, False, False),
        (beyond, True, True),
        (replace(beyond, tls_cert="c", tls_key="k"), False, True),
        (replace(beyond, trust_proxies=("10.0.0.1",)), False, True),
        (replace(beyond, require_agent_keys=True), True, False),
    ]
    for config, plain, keys in cases:
        lines = banner(config, 9077)
        assert any(line.startswith("Warning: Plain HTTP") for line in lines) is plain, config
        assert any("--require-agent-keys" in line for line in lines) is keys, config


def test_without_a_way_out_every_address_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["10.1.2.3", "192.168.7.8", "127.0.0.1", "fe80::1", "fd00::2"]
    adapters = [SimpleNamespace(ips=[SimpleNamespace(ip=(ip, 0, 0) if ":" in ip else ip)]) for ip in own]
    infos = [(None, None, None, "", (ip, 0)) for ip in own]
    monkeypatch.setattr(lan, "way_out", lambda family: None)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: infos)
    for ifaddr in (SimpleNamespace(get_adapters=lambda: adapters), None):  # None: it is not installed
        monkeypatch.setitem(sys.modules, "ifaddr", ifaddr)
        lines = banner(ServerConfig(host="0.0.0.0", token="t", tls_cert="c"), 9077)
        assert joining(lines)[2] == "https://10.1.2.3:9077", ifaddr
        assert lines[2].endswith("other addresses: https://192.168.7.8:9077"), ifaddr
        assert "http://" not in "".join(lines), ifaddr
        assert joining(banner(ServerConfig(host="::", token="t"), 9077))[2] == "http://[fd00::2]:9077", ifaddr


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
    command = [sys.executable, "-m", "clawlink.server", "--store", "redis://127.0.0.1:1"]
    done = run(command, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "needs the package redis (No module named 'what_redis_needs')" in done.stderr
    assert "pip install" in done.stderr


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
        noted = tmp_path / "relays" / port / "data-folder"
        noted.parent.mkdir(parents=True)
        noted.write_text("/of/the/other")
        command = [sys.executable, "-m", "clawlink.server", "--port", port, "--data", str(tmp_path / "data")]
        done = run(command, text=True, timeout=PATIENCE, env={**os.environ, "CLAWLINK_HOME": str(tmp_path)})
    assert noted.read_text() == "/of/the/other"
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "a relay may run there already" in done.stderr
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
