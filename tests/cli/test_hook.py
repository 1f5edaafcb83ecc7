"""``clawlink hook`` as hosts run it: harmless, whatever is wrong. The tools of its session act as the same agent."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.hooks.sessions import Sessions
from clawlink.client.sync import Client
from tests import processes
from tests.cli.conftest import COMMAND, Run
from tests.waiting import PATIENCE


def said(**fields: Any) -> bytes:
    return json.dumps({"session_id": "s1", "cwd": "/x/shop", **fields}).encode()


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_session_works_from_its_first_hook_to_a_poll_of_its_own(run: Run, relay: str, account: Path) -> None:
    begun = run("hook", "SessionStart", "--seconds", "20", stdin=said(hook_event_name="SessionStart")).ok().json
    (session,) = Sessions(account / ".clawlink").all()
    assert session.name in begun["hookSpecificOutput"]["additionalContext"]
    with Client(relay) as ann:
        ann.register("ann-of-hooks")
        ann.send(session.name, "hello")
        ended = run("hook", "Stop", "--host", "claude", "--seconds", "20", stdin=said()).ok().json
        assert ended["decision"] == "block"
        polled = run("poll", "--as", session.name, "--json").ok().json
        assert [message["content"] for message in polled["messages"]] == ["hello"]
        assert run("hook", "Stop", "--seconds", "20", stdin=said()).ok().raw == b""
    assert run("hook", "SessionEnd", "--seconds", "20", stdin=said()).ok().raw == b""
    assert "last hook" not in run("doctor").out


def test_the_plugin_of_openclaw_has_one_agent_for_all_sessions(run: Run, relay: str, account: Path) -> None:
    flags = ("--host", "openclaw", "--seconds", "20")
    begun = run("hook", "SessionStart", *flags, stdin=b"{}").ok().json
    (session,) = Sessions(account / ".clawlink").all()
    assert (begun["agent"], begun["session_id"]) == (session.name, session.session_id)
    assert session.name in begun["text"]
    with Client(relay) as ann:
        ann.register("ann-of-openclaw")
        id = ann.send(session.name, "hello").message_id
    named = json.dumps({"session_id": session.session_id}).encode()
    assert id in run("hook", "PostToolUse", *flags, stdin=named).ok().json["text"]
    assert run("hook", "PostToolUse", *flags, stdin=b"{}").ok().raw == b"", "each message is told once"
    assert [one.session_id for one in Sessions(account / ".clawlink").all()] == [session.session_id]


def test_a_hook_is_silent_whatever_is_wrong_and_doctor_says_why(
    call: Run, deaf: str, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = "http://127.0.0.1:9"
    start = ("hook", "SessionStart")
    cases: list[tuple[tuple[str, ...], str, bytes, str]] = [
        (start, nobody, said(), "refused"),
        (start, deaf, said(), "in time"),
        (start, "gopher://x", said(), "no address of a relay"),
        (start, nobody, b"", "line 1"),
        (start, nobody, b"[1]", "no JSON object"),
        (start, nobody, b"\xff", "codec"),
        (start, nobody, b"{}", "session_id"),
        (start, nobody, said(session_id=5), "session_id"),
        (("hook", "Nothing"), nobody, said(), "'Nothing'"),
        ((*start, "--host", "emacs"), nobody, said(), "'emacs'"),
    ]
    for words, relay, stdin, why in cases:
        monkeypatch.setenv("CLAWLINK_RELAY", relay)
        done = call(*words, stdin=stdin)
        assert (done.code, done.raw, done.err) == (0, b"", ""), (words, relay, stdin)
        noted = Sessions(account / ".clawlink").noted()
        assert noted is not None
        assert why in noted, (words, relay, stdin, noted)
    assert "the last hook of a coding agent did nothing: emacs SessionStart" in call("doctor").out
    # A host takes 2 for a veto, so not even a wrong flag is one.
    for words in (("hook",), ("hook", "Stop", "--nonsense"), ("agent", "hook", "Stop", "--seconds", "x")):
        done = call(*words)
        assert (done.code, done.raw) == (0, b""), words


# A program that stands for Claude Code, after its documents: hooks are shell commands with JSON on standard input, and
# a server of MCP is a child that speaks JSON lines.
_HOST = """
import json, subprocess, sys
command, session = json.loads(sys.argv[1]), sys.argv[2]
if session != "none":
    hook = " ".join(command) + " hook SessionStart --seconds 20"
    given = json.dumps({"session_id": session, "cwd": "/x/shop", "hook_event_name": "SessionStart"})
    subprocess.run(hook, shell=True, input=given.encode(), check=True, stdout=subprocess.DEVNULL)
server = subprocess.Popen([*command, "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "relay_agents", "arguments": {}}}
server.stdin.write(json.dumps(ask).encode() + b"\\n")
server.stdin.flush()
print(json.loads(server.stdout.readline())["result"]["content"][0]["text"])
server.stdin.close()
server.wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no ancestors: CLAWLINK_AGENT names the agent")
def test_the_tools_of_a_session_act_as_the_agent_of_its_hooks(relay: str, account: Path) -> None:
    told = {}
    for session in ("first", "second", "none"):
        command = [sys.executable, "-c", _HOST, json.dumps(COMMAND), session]
        done = processes.run(command, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        told[session] = json.loads(done.stdout)
    kept = Sessions(account / ".clawlink")
    for session in ("first", "second"):
        found = kept.find("claude", session)
        assert found is not None
        assert told[session]["you"] == {"agent_id": found.agent_id, "name": found.name}
    assert "clawlink register" in told["none"]["error"]


def test_a_hook_that_waits_ends_with_the_code_that_wakes_its_host(
    run: Run, relay: str, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("hook", "SessionStart", "--seconds", "20", stdin=said()).ok()
    (session,) = Sessions(account / ".clawlink").all()
    with Client(relay) as ann:
        ann.register("ann-who-wakes")
        ann.send(session.name, "secret words")
    woken = run("hook", "Wait", "--for", "60", stdin=said())
    assert (woken.code, woken.raw) == (2, b"")
    assert woken.err.startswith("ClawLink: 1 new message")
    assert "secret" not in woken.err
    over = run("hook", "Wait", "--for", "0.1", stdin=said())
    assert (over.code, over.raw, over.err) == (0, b"", "")
    # ``claude -p`` runs it in the foreground, and would wait for its end: seen with Claude Code 2.1.332.
    with Client(relay) as ann:
        ann.register("ann-who-writes-again")
        ann.send(session.name, "more")
    monkeypatch.setenv("CLAUDE_CODE_ENTRYPOINT", "sdk-cli")
    assert run("hook", "Wait", "--for", "60", stdin=said()).ok().raw == b""
