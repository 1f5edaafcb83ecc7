"""The log: one event a line, with the names of agents, and never a token, a key or the text of a task."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from clawlink.client.sync import Client
from clawlink.server import logs
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE

TOKEN = "top-secret-token"


def record(message: str = "event", **facts: Any) -> logging.LogRecord:
    made = logging.LogRecord("clawlink.test", logging.INFO, __file__, 1, message, None, None)
    made.created, made.msecs = 1778655060.25, 250.0
    vars(made).update(facts)
    return made


def failed() -> logging.LogRecord:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        made = record()
        made.exc_info = sys.exc_info()
        return made


def test_a_line_of_text_has_time_level_logger_event_and_facts() -> None:
    line = logs.TextLines().format(record("listening", address="127.0.0.1", port=9077))
    assert line == "2026-05-13T06:51:00.250Z info clawlink.test listening address=127.0.0.1 port=9077"


@each("value", ["two words", 'quo"te', "a=b", "line\nbreak", "\x1b[31mred", "☃", "\u202eevil", "tab\t"])
def test_no_value_can_pose_as_another_field_or_line(value: str) -> None:
    line = logs.TextLines().format(record(reason=value, after=1))
    assert line.isprintable()
    assert line.endswith(f" reason={value!r} after=1")


def test_a_line_of_json_has_the_same() -> None:
    line = logs.JsonLines().format(record("listening", port=9077, path=Path("/x"), text="two\nlines"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-05-13T06:51:00.250Z",
        "level": "info",
        "logger": "clawlink.test",
        "event": "listening",
        "port": 9077,
        "path": "/x",
        "text": "two\nlines",
    }


def test_a_failure_is_told_with_its_traceback_in_json_on_one_line() -> None:
    assert "RuntimeError: broken" in logs.TextLines().format(failed())
    line = logs.JsonLines().format(failed())
    assert "\n" not in line
    assert "RuntimeError: broken" in json.loads(line)["exception"]


class Logged(NamedTuple):
    """The log of a relay, and the secrets that went through it."""

    lines: list[str]
    secrets: set[str]


def go_through_everything(url: str) -> set[str]:
    """Use every part of a relay, well and badly; return what must not be in its log."""
    said = {
        f"{word}-said-by-an-agent"
        for word in ("task", "context", "result", "content", "file", "topic", "tag", "thread")
    }
    task, context, result, content, file, topic, tag, thread = sorted(said)
    with Client(url, token=TOKEN) as ann, Client(url, token=TOKEN) as bob:
        ann.register("name-of-ann", description=content, capabilities=[tag])
        bob.register("name-of-bob")
        ann.delegate("name-of-bob", task, context={"k": context}, key="idempotency-key-of-ann")
        ann.send("name-of-bob", content, thread=thread)
        ann.broadcast(content, topic=topic, tags=[tag])
        ann.put_file("key-of-the-file", file)
        claimed = bob.poll(lease=60)
        bob.nack([claimed[0].receipt])
        bob.ack([c.receipt for c in claimed])
        bob.respond(next(c.raw["message_id"] for c in claimed if c.raw.get("task") == task), result)
        keys = {str(ann.agent_key), str(bob.agent_key)}
        receipts = {c.receipt for c in claimed}
        agent = str(ann.agent_id)
        bob.leave()

    def ask(method: str, path: str, **options: Any) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
        requests.request(method, url + path, headers=headers, timeout=PATIENCE, **options)

    ask("POST", "/send", data=b'{"content":"' + content.encode())
    ask("POST", "/send", json={"from_agent": agent, "to_agent": content, "content": content})
    ask("GET", f"/poll/{agent}", headers={"ClawLink-Agent-Key": "wrong-agent-key"})
    ask("GET", "/discover", headers={"Authorization": "Bearer wrong-token"})
    ask("GET", "/nowhere/wrong-address?token=wrong-token")
    ask("GET", "/", headers={"Host": "wrong-host.example"})
    ask("GET", "/", headers={"Origin": "https://wrong-origin.example"})
    ask("POST", "/send", data=b"xx", headers={"Content-Encoding": "gzip"})
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\x00\r\n\r\n".encode())
        raw.recv(4096)
    wrong = {"wrong-agent-key", "wrong-token", "wrong-address", "wrong-host", "wrong-origin"}
    return said | keys | receipts | wrong | {TOKEN, "idempotency-key-of-ann", "key-of-the-file"}


@pytest.fixture(scope="module", params=["text", "json"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """Run a relay that logs all it can, use it, end it, and read its log."""
    path = tmp_path_factory.mktemp("log") / "stderr"
    flags = ["--port", "0", "--token", TOKEN, "--log-level", "debug"] + (
        ["--log-json"] if request.param == "json" else []
    )
    with path.open("wb") as stderr:
        process = Popen(
            [sys.executable, "-m", "clawlink.server", *flags], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        with process:
            assert process.stdout is not None
            found = re.search(r"listening on (\S+)", process.stdout.readline())
            try:
                assert found
                secrets = go_through_everything(found[1])
            finally:
                process.terminate()
                process.wait(PATIENCE)
    return Logged(path.read_text().splitlines(), secrets)


def test_no_line_has_a_secret_or_what_an_agent_said(logged: Logged) -> None:
    for secret in logged.secrets:
        assert [line for line in logged.lines if secret in line] == []


def test_there_is_a_line_for_each_request_and_each_step_of_the_relays_life(logged: Logged) -> None:
    text = "\n".join(logged.lines)
    for event in ("listening", "request", "refused", "malformed", "draining", "stopped"):
        assert re.search(rf'(\b{event}\b|"event":"{event}")', text), event
    for fact in ("/delegate", "/poll/{agent_id}", "not_authenticated", "not_allowed"):
        assert fact in text


def test_every_line_is_in_the_form_that_was_asked_for(logged: Logged) -> None:
    if logged.lines[0].startswith("{"):
        for line in logged.lines:
            told = json.loads(line)
            assert set(told) >= {"time", "level", "logger", "event"}
    else:
        for line in logged.lines:
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error) clawlink\S* ", line), (
                line
            )


def test_info_shows_no_single_request(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as stderr:
        process = Popen(
            [sys.executable, "-m", "clawlink.server", "--port", "0"], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        with process:
            assert process.stdout is not None
            found = re.search(r"listening on (\S+)", process.stdout.readline())
            assert found
            requests.get(found[1] + "/discover", timeout=PATIENCE)
            process.terminate()
    lines = (tmp_path / "stderr").read_text().splitlines()
    assert [re.sub(r"^\S+ \S+ \S+ (\w+).*", r"\1", line) for line in lines] == ["listening", "draining", "stopped"]
