"""A hook with nothing new: the program that wakes agents answers it, and neither a relay nor a client is needed."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.hooks import port, quick_json
from clawlink.client.hooks.sessions import Sessions
from tests import processes
from tests.waiting import PATIENCE

SECRET = "s" * 64


class StandIn:
    """A local port with one answer for all questions; None closes the connection."""

    def __init__(self, home: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, Any] | None = {"nothing": True}
        self._listening = socket.create_server(("127.0.0.1", 0))
        home.mkdir(parents=True)
        (home / port.FILE).write_text(json.dumps({"port": self._listening.getsockname()[1], "secret": SECRET}))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                if not (line := lines.readline()):
                    return
                said = port.checked(SECRET, "", line)
                self.asked.append(said)
                if self.answer is not None:
                    peer.sendall(port.signed(SECRET, said["nonce"], self.answer))

    def close(self) -> None:
        socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(PATIENCE)
        self._listening.close()


@pytest.fixture
def stand_in(clawlink_home: Path) -> Iterator[StandIn]:
    there = StandIn(clawlink_home)
    yield there
    there.close()


def run(*words: str, **said: Any) -> tuple[int, bytes, bytes]:
    return run_with(json.dumps(said).encode(), *words)


def run_with(data: bytes, *words: str) -> tuple[int, bytes, bytes]:
    environ = {**os.environ, "CLAWLINK_RELAY": "http://127.0.0.1:9", "CLAWLINK_NO_MDNS": "yes"}
    command = [sys.executable, "-m", "clawlink", "hook", *words]
    done = processes.run(command, input=data, env=environ, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def test_a_hook_with_nothing_new_asks_no_relay(stand_in: StandIn, clawlink_home: Path) -> None:
    for words, host in ((("PostToolUse",), "claude"), (("Stop", "--host", "codex"), "codex")):
        assert run(*words, session_id="s1") == (0, b"", b"")
        assert stand_in.asked[-1].items() >= {"ask": "hook", "host": host, "session": "s1", "event": words[0]}.items()
    assert run("Stop", "--host", "cursor", conversation_id="c1") == (0, b"", b"")
    assert stand_in.asked[-1]["session"] == "c1"
    count = len(stand_in.asked)
    # Cursor also runs the hooks of Claude Code.
    assert run("PostToolUse", session_id="s1", cursor_version="1") == (0, b"", b"")
    assert len(stand_in.asked) == count
    assert Sessions(clawlink_home).noted() is None, "no relay was asked"


def test_all_else_is_for_the_hook_itself(stand_in: StandIn, clawlink_home: Path) -> None:
    sessions = Sessions(clawlink_home)
    for answer in ({"nothing": False}, {}, {"nothing": 1}, None):
        stand_in.answer = answer
        assert run("PostToolUse", session_id="s1") == (0, b"", b""), answer
        assert "refused" in str(sessions.noted()), answer
        sessions.note(None)
    count = len(stand_in.asked)
    for words in (("SessionStart",), ("SessionEnd",), ("PostToolUse", "--seconds", "0.1")):
        assert run(*words, session_id="s1")[:2] == (0, b""), words
    assert len([one for one in stand_in.asked[count:] if one["ask"] == "hook"]) == 0
    (clawlink_home / port.FILE).write_text("{}")
    sessions.note(None)
    assert run("PostToolUse", session_id="s1") == (0, b"", b"")
    assert "refused" in str(sessions.noted())


def test_no_input_and_no_port_file_fails_a_hook(stand_in: StandIn, clawlink_home: Path) -> None:
    # Some Pythons raise another error of these while ``json`` is not loaded.
    for data in (b'{"session_id": "s1', b'{"session_id": "\n"}', b"", b"[1,]", b"\xff", b"\xef\xbb\xbf{}", b"{} {}"):
        assert run_with(data, "PostToolUse") == (0, b"", b""), data
    whole = (clawlink_home / port.FILE).read_text()
    for text in (
        whole[:-9],
        *(f'{{"port": {number}, "secret": "s"}}' for number in ("1e400", "-1", "99999999", "true")),
    ):
        (clawlink_home / port.FILE).write_text(text)
        assert run("Stop", session_id="s1") == (0, b"", b""), text


def test_a_program_that_answers_a_byte_at_a_time_holds_nobody() -> None:
    told = threading.Event()

    def drip(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer, contextlib.suppress(OSError):
            while not told.wait(0.01):
                peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        there = port.Port(listening.getsockname()[1], SECRET)
        with port.Conversation(there, {"ask": "hook"}, 10.0) as asked, pytest.raises(TimeoutError):
            asked.next(0.1)
        told.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_the_helper_loads_neither_a_client_nor_a_parser(stand_in: StandIn) -> None:
    script = (
        "import sys; before = {*sys.modules}; from clawlink.client.hooks import quick; "
        "print(quick.done(['hook', 'Stop'])); print(*{*sys.modules} - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=b'{"session_id": "s1"}', capture_output=True, check=False, timeout=60
    )
    said, modules = done.stdout.decode().splitlines()
    assert said == "True"
    # Each of the first row costs as much as a third of an interpreter's start.
    heavy = {"typing", "json", "re", "enum", "socket", "hmac", "hashlib", "_hashlib", "pathlib", "importlib"}
    heavy |= {"requests", "aiohttp", "msgspec", "argparse", "asyncio", "clawlink.cli"}
    assert not heavy & set(modules.split())


def test_a_line_has_the_code_that_hmac_makes() -> None:
    for secret in ("", "s" * 64, "s" * 65, "ß" * 90):
        for about, said in (("", {"ask": "hook", "session": 'ü\ud800"\n'}), ("n" * 32, {"nothing": True}), ("ß", [1])):
            line = port.signed(secret, about, said)
            code, _, data = line.rstrip(b"\n").partition(b" ")
            assert json.loads(data) == said
            assert code.decode() == hmac.new(secret.encode(), about.encode() + b"\n" + data, "sha256").hexdigest()
            assert port.checked(secret, about, line) == said
            with pytest.raises(port.NoPort):
                port.checked(secret + "x", about, line)


def test_json_is_read_and_written_as_the_standard_library_does() -> None:
    good = ('{"a": [1, -2.5e3, null, true], "ü": "\\ud83e\\udd80"}', ' \n"x"\t', "NaN", "[]", "12", '{"a": 1, "a": 2}')
    for text in good:
        assert repr(quick_json.read(text.encode())) == repr(json.loads(text)), text
    bad = ("", " ", "{", '{"a": 1} x', "[1,]", "'a'", '"\n"', "nul", '{"a" 1}')
    for text in bad:
        with pytest.raises(json.JSONDecodeError):
            quick_json.read(text.encode())
    with pytest.raises(RecursionError):
        quick_json.read(b"[" * 1_000_000)
    some: tuple[Any, ...] = ({}, {"a": "b"}, {"a": 1}, [], None, {"ü": "\x1b\u2028\ud800"})
    for said in some:
        assert quick_json.written(said) == json.dumps(said).encode()
