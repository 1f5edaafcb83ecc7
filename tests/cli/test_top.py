"""``top``: the relay at a glance in a terminal of any width, through a cut, and out again with Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime

import pytest
import requests
from msgspec.structs import replace

from clawlink.cli.relay.dashboard import Tail, facts, screen
from clawlink.client.live import overviews
from clawlink.client.sync import Client
from clawlink.errors import ClawLinkError, NotARelay, RelayUnreachable
from clawlink.protocol.admin import Overview
from clawlink.protocol.replies import Stop
from tests.cli.conftest import COMMAND, Relays, Run
from tests.client.conftest import Scripted, http
from tests.processes import Popen
from tests.waiting import PATIENCE, wait_until

HOSTILE = "\x1b[2J\x1b]0;title\x07\u202eevil\r\n[red]x[/red]"
NAME = "wide " + "w" * 100


def drawn(overview: Overview | None, tail: list[str], width: int, height: int, away: str | None = None) -> list[str]:
    """Return the lines of a screen as a terminal of this size gets them."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, color_system=None, legacy_windows=False)
    console.print(screen(overview, tail, width, height, away=away))
    return stream.getvalue().rstrip("\n").split("\n")


def test_it_fits_each_terminal_and_shows_text_of_agents_harmless(own_relay: Relays) -> None:
    url = own_relay("--admin-token", "boss")
    with Client(url) as agent, Client(url, token="boss") as boss:
        agent.register(NAME)
        agent.send(str(agent.agent_id), "hello")
        task = agent.delegate(str(agent.agent_id), HOSTILE).message_id
        tail = Tail(boss)
        first = boss.overview()
        (line,) = tail.news(first)
        assert task[:8] in line
        assert f'"{NAME}" -> "{NAME}"' in line, "agents have names, not ids"
        assert "␛[2J" in line
        assert "<U+202E>" in line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", line)
        assert tail.news(first) == []  # nothing has changed
        (row,) = boss.all_tasks(status="queued").tasks
        later = replace(first, server_time="2099-01-01T00:00:00.000Z")
        (line,) = Tail(boss).news(later)
        begun = datetime.fromisoformat(row.created_at.replace("Z", "+00:00")).astimezone()
        assert line.startswith(f"{begun:%Y-%m-%d %H:%M:%S}"), "a task that was there before has its own time"
        agent.respond(task, "done")
        wait_until(lambda: not boss.overview().open_tasks["queued"])  # the relay makes one four times a second
        (line,) = tail.news(boss.overview())
        assert "completed" in line
        overview = boss.overview()
        for width, height in ((20, 5), (40, 10), (80, 24), (200, 60), (20, 1)):
            lines = drawn(overview, [*tail.lines] * 50, width, height, away="gone" if height > 5 else None)
            assert len(lines) <= height, (width, height)
            assert max(map(len, lines)) <= width, (width, height)
        shown = "\n".join(drawn(overview, list(tail.lines), 120, 40))
        for part in ("agents: 1 online", "needs you: nothing", "mailboxes", "completed"):
            assert part in shown
        gone = "the connection broke: Response ended prematurely"
        shown = " ".join(" ".join(drawn(None, [], 40, 10, away=gone)).split())
        assert gone in shown, "a reason is not cut"
        assert "waits for the relay" in shown
        agent.woken(
            agent.send(str(agent.agent_id), "wake up").message_id, "session", "failed", note="no \u202e evil screen"
        )
        wait_until(lambda: boss.overview().needs_you.unwoken_agents)
        unwoken = facts(boss.overview())
        assert any(line.startswith("needs you: ") and "1 agent not woken" in line for line in unwoken)
        (line,) = [line for line in unwoken if line.startswith("not woken: ")]
        assert f"{NAME}, " in line
        assert "evil" in line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", line)
        shown = " ".join(" ".join(drawn(boss.overview(), [], 30, 40)).split())
        assert "needs you: 1 agent not woken" in shown, "what needs a person is not cut"
        assert "screen" in shown
        overview = boss.overview()
        for width in (30, 50):
            shown = " ".join(" ".join(drawn(overview, [], width, 40)).split())
            named = ("needs you: ", "not woken: ")
            cut = [fact for fact in facts(overview) if not fact.startswith(named) and fact not in shown]
            assert not cut, width
        assert any("oldest" in line and "…" in line for line in drawn(boss.overview(), [], 60, 40))
        boss.stop_all()
        wait_until(lambda: any("ALL WORK IS STOPPED" in line for line in facts(boss.overview())))


def test_all_that_needs_a_person_is_there(own_relay: Relays) -> None:
    with Client(own_relay("--admin-token", "boss"), token="boss") as boss:
        found = boss.overview()
    stops = [Stop(found.server_time, code, ["a", HOSTILE]) for code in ("loop_stopped", "rate_limited")]
    shown = facts(replace(found, names={"a": NAME}, needs_you=replace(found.needs_you, stuck_records=2, stops=stops)))
    assert "needs you: 2 stuck records" in shown
    circle, fast = [line for line in shown if line.startswith("stopped: ")]
    assert circle.startswith("stopped: work in a circle, now: ") or "s ago" in circle
    assert f"{NAME} -> " in circle
    assert "too fast" in fast
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", circle)


def test_once_is_for_scripts(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAWLINK_RELAY", own_relay("--token", "t", "--admin-token", "boss"))
    assert "agents: 0 online" in call("top", "--once", "--admin-token", "boss").ok().out
    assert call("top", "--once", "--admin-token", "boss", "--json").ok().json["agents_online"] == 0
    assert "admin token" in call("top", "--once", "--token", "t").failed(4).err


@contextmanager
def followed(*words: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_pipe_gets_a_line_for_each_step_and_json_an_object_for_each_overview(own_relay: Relays) -> None:
    url = own_relay("--admin-token", "boss")
    env = {"CLAWLINK_RELAY": url, "CLAWLINK_ADMIN_TOKEN": "boss"}
    with Client(url) as agent, followed("top", env=env) as plain, followed("top", "--json", env=env) as objects:
        agent.register("a")
        assert objects.stdout is not None
        assert plain.stdout is not None
        while json.loads(objects.stdout.readline())["agents_online"] != 1:
            pass
        task = agent.delegate("a", "sum\nit").message_id
        line = plain.stdout.readline()
        assert task[:8] in line
        assert "sum it" in line
        agent.poll()
        agent.respond(task, status="in_progress", progress=20)
        while "in progress 20 %" not in (line := plain.stdout.readline()):
            assert line
        agent.respond(task, "done")
        while "completed" not in (line := plain.stdout.readline()):
            assert line
        assert "%" not in line


class Screen:
    """A program in a terminal of its own."""

    def __init__(self, *words: str, env: dict[str, str]) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.shown = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **env},
        )
        os.close(slave)

    def until(self, text: str) -> None:
        """Read until this is shown from now on."""
        import select

        before, end = len(self.shown), time.monotonic() + PATIENCE
        while text not in self.shown[before:]:
            assert time.monotonic() < end, self.shown[-2000:]
            if select.select([self._master], [], [], 0.5)[0]:
                try:
                    self.shown += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:  # the program has ended
                    assert text in self.shown[before:], self.shown[-2000:]

    def type(self, text: str) -> None:
        """Type this."""
        os.write(self._master, text.encode())

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_in_a_terminal_it_follows_the_relay_through_a_restart_and_ends_clean(own_relay: Relays) -> None:
    url = own_relay("--admin-token", "boss")
    screen = Screen("top", env={"CLAWLINK_RELAY": url, "CLAWLINK_ADMIN_TOKEN": "boss"})
    try:
        screen.until("agents: 0 online")
        assert "\x1b[?1049h" in screen.shown  # the screen is another, so the terminal is as before in the end
        with Client(url) as agent:
            agent.register("a")
            screen.until("agents: 1 online")
            task = agent.delegate("a", "x").message_id
            screen.until(task[:8])
        own_relay.stop(url)
        screen.until("tries again")
        own_relay("--port", url.rpartition(":")[2], "--admin-token", "boss")
        screen.until("agents: 0 online")
        screen.process.send_signal(signal.SIGINT)
        screen.until("\x1b[?1049l")
        assert screen.process.wait(PATIENCE) == 130
        assert "Traceback" not in screen.shown
    finally:
        screen.close()


def test_a_proxy_that_answers_for_an_absent_relay_is_borne_once_a_relay_was_there(own_relay: Relays) -> None:
    headers = {"Authorization": "Bearer boss"}
    reply = requests.get(own_relay("--admin-token", "boss") + "/admin/overview", headers=headers, timeout=PATIENCE)
    event = http("200 OK", f"event: overview\ndata: {reply.text}\n\n", "Content-Type: text/event-stream")
    proxy = http("502 Bad Gateway", "<html>", "Content-Type: text/html")
    away: list[ClawLinkError] = []
    with closing(Scripted()) as server, Client(server.url) as client:
        server.script = [event, proxy, proxy, event]
        found = overviews(client, on_away=away.append, rest=lambda seconds: None)
        assert next(found).revision == next(found).revision
        assert [type(error) for error in away] == [RelayUnreachable, NotARelay, NotARelay]
        server.script = [proxy]
        with pytest.raises(NotARelay):
            next(overviews(client, rest=lambda seconds: None))
