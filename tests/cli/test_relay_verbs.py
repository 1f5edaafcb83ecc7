"""Scan and serve."""

from __future__ import annotations

import re
import signal
import subprocess
from dataclasses import fields

import pytest

from clawlink import lan
from clawlink.doors.registry import doors
from clawlink.lan import Found
from clawlink.version import extra_command
from tests.cli.conftest import COMMAND, Run
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE


def pretend(monkeypatch: pytest.MonkeyPatch, *found: Found, error: Exception | None = None) -> list[float]:
    """Put a network of our own in the place of the real one; return how long each scan was."""
    asked: list[float] = []

    def scan(seconds: float) -> list[Found]:
        asked.append(seconds)
        if error is not None:
            raise error
        return list(found)

    monkeypatch.setattr(lan, "scan", scan)
    return asked


def test_scan_lists_who_answers(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Found("\x1b[31mvm", "http://192.0.2.7:9077", "1.0.2", "vm", True)
    asked = pretend(monkeypatch, relay)
    shown = call("scan").ok().out
    assert "␛[31mvm" in shown
    assert "http://192.0.2.7:9077" in shown
    assert "asked for" in shown
    told = call("scan", "--json", "--timeout", "0.5").ok().json
    assert told == {"relays": [relay._asdict()], "count": 1}
    assert asked == [3.0, 0.5]


def test_scan_finds_nobody(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert "No relay answered" in call("scan").ok().out
    assert call("scan", "--json").ok().json["count"] == 0


def test_scan_without_zeroconf_or_network(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, error=OSError(101, "Network is unreachable"))
    assert "Network is unreachable" in call("scan").failed(1).err
    pretend(monkeypatch, error=ImportError("zeroconf"))
    assert extra_command("lan") in call("scan").failed(1).err


def test_serve_runs_a_relay(call: Run) -> None:
    process = Popen(
        [*COMMAND, "serve", "--port", "0", "--token", "t"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"listening on (\S+)", process.stdout.readline())
        assert found is not None
        assert "--token t register" in process.stdout.readline()
        call("--relay", found[1], "info").failed(4)
        assert call("--relay", found[1], "--token", "t", "info", "--json").ok().json["auth_required"] is True
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert process.stdout is not None
        process.stdout.close()


def test_serve_in_process(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[int, str | None, int]] = []

    def run(config: object) -> int:
        served.append((config.port, config.token, config.limits.max_agents))  # type: ignore[attr-defined]
        return 1

    monkeypatch.setattr("clawlink.server.run.run", run)
    monkeypatch.setenv("CLAWLINK_TOKEN", "from the environment")
    assert call("serve", "--port", "1234", "--max-agents", "7").code == 1
    assert call("--token", "flag", "serve").code == 1
    assert served == [(1234, "from the environment", 7), (9077, "flag", 100_000)]


def test_no_handler_of_the_command_line_raises_within_a_relay(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay handles signals itself once it has begun; until then they end it."""
    found: list[object] = []

    def run(config: object) -> int:
        found.append(signal.getsignal(signal.SIGTERM))
        return 0

    monkeypatch.setattr("clawlink.server.run.run", run)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        assert call("serve").code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == [signal.SIG_DFL]


def test_the_help_of_serve_groups_flags_by_subject(call: Run) -> None:
    sections = dict(re.findall(r"^(\S[^\n]*):\n((?:  .*\n)+)", call("serve", "--help").ok().out, re.MULTILINE))
    subjects = [title for title in sections if not title.startswith("the door ")]
    assert subjects == [
        "options",
        "with every command, before or after its name",
        "what the relay keeps, and where",
        "page, log and event loop",
        "limits",
        "examples",
    ]
    for flag, title in {"--token": "options", "--data": subjects[2], "--log-json": subjects[3]}.items():
        assert f"  {flag} " in sections[title]
    for door in doors():
        for field in fields(door.settings):
            title = f"the door {door.name}" if field.metadata["unit"] is None else "limits"
            assert re.search(rf"^  {field.metadata['flag']}\b", sections[title], re.MULTILINE)
    assert "(default 1048576 bytes, 1 MiB)" in sections["limits"]


@each(
    "args",
    [["--port", "x"], ["--tls-cert", "c"], ["--no-auth", "--token", "t"], ["--max-agents", "-1"], ["--nonsense"]],
)
def test_serve_refuses_what_makes_no_sense(call: Run, args: list[str]) -> None:
    assert "clawlink serve --help" in call("serve", *args).failed(2).err
