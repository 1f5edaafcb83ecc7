"""``clawlink mcp`` as a process, with the official SDK as its client, and as a client that writes anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.hooks.ancestors import ancestors
from clawlink.client.hooks.rules import HOSTS
from clawlink.client.hooks.run import Hook, Where
from clawlink.client.hooks.sessions import Session, Sessions
from clawlink.client.identity import Identities
from clawlink.client.sync import Client
from tests import processes
from tests.conftest import Start
from tests.doors.mcp.conftest import ERAS, Model
from tests.waiting import PATIENCE

_COMMAND = [sys.executable, "-m", "clawlink.cli.main", "mcp"]


def environ(home: Path, relay: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLAWLINK_")}
    return {**kept, "CLAWLINK_HOME": str(home), "CLAWLINK_RELAY": relay, "CLAWLINK_NO_MDNS": "yes"}


def speak(env: dict[str, str], *lines: object) -> list[dict[str, Any]]:
    """Write lines to a bridge, end its input, and return its answers."""
    said = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    done = processes.run(_COMMAND, input=said, env=env, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("era", ERAS)
async def test_the_bridge_brings_all_tools_and_moves_files_beside_the_model(
    era: str, start_relay: Start, tmp_path: Path
) -> None:
    from mcp.client.client import Client as McpClient  # slow to import: see conftest.py
    from mcp.client.stdio import StdioServerParameters, stdio_client

    relay = start_relay()
    with Client(relay.url) as ann:
        ann.register("Ann", claim=True)
        env = environ(tmp_path / "home", relay.url)
        done = processes.run([*_COMMAND[:-1], "register", "--name", "Bob"], env=env, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        ann.send("Bob", "hello")
        source, target = tmp_path / "source.bin", tmp_path / "target.bin"
        source.write_bytes(bytes(range(256)))
        server = StdioServerParameters(command=_COMMAND[0], args=_COMMAND[1:], env=env)
        async with McpClient(stdio_client(server), mode=era) as client:
            bob = Model(client)
            assert len((await client.list_tools()).tools) == 8
            got = await bob.call("relay_inbox", wait_seconds=20)
            assert got["messages"][0]["untrusted"]["content"] == "hello"
            shared = await bob.call("relay_share_file", path=str(source), key="b.bin", readers=["Ann"])
            assert (shared["size"], shared["readers"]) == (256, [ann.agent_id])
            fetched = await bob.call("relay_fetch_file", key="b.bin", path=str(target))
            assert (fetched["path"], target.read_bytes(), bob.mail) == (str(target), source.read_bytes(), {})
            ann.send("Bob", "obey")
            calls: list[tuple[str, dict[str, Any]]] = [
                ("relay_share_file", {"path": str(source), "key": "b.bin", "readers": ["Ann"]}),
                ("relay_fetch_file", {"key": "b.bin", "path": str(target), "overwrite": True}),
                ("relay_agents", {}),
            ]
            for tool, arguments in calls:
                await bob.call(tool, **arguments)
                assert [one["untrusted"] for one in bob.mail["unread"]["messages"]] == [{"from_name": "Ann"}], tool
            listed = [str(one.uri) for one in (await client.list_resources()).resources]
            assert listed == ["clawlink://files/b.bin"]
            (content,) = (await client.read_resource(listed[0])).contents
            assert json.loads(content.text)["size"] == 256
            with pytest.raises(Exception, match="not found"):
                await client.read_resource("clawlink://files/none")
            assert len((await client.list_prompts()).prompts) == 4
            for tool, arguments, word in (
                ("relay_fetch_file", {"key": "b.bin", "path": str(target)}, "is there already"),
                ("relay_fetch_file", {"key": "b.bin", "path": str(tmp_path), "overwrite": True}, "is a folder"),
                ("relay_fetch_file", {"key": "none", "path": str(tmp_path / "x")}, "not found"),
                ("relay_fetch_file", {"key": "b.bin", "path": str(tmp_path / "no" / "x")}, "No such file"),
                ("relay_share_file", {"key": "c", "path": str(tmp_path / "nothing")}, "there is no file"),
                ("relay_share_file", {"key": "c"}, "path"),
            ):
                refused = await bob.refused(tool, **arguments)
                assert word in refused["error"], (arguments, refused)
            assert not (tmp_path / "x").exists()


def test_the_bridge_starts_without_a_relay_and_without_an_agent_and_says_what_to_do(tmp_path: Path) -> None:
    def ask(id: int, method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}

    env = environ(tmp_path / "home", "http://127.0.0.1:9")
    answers = speak(
        env,
        ask(1, "initialize", protocolVersion="2025-06-18", capabilities={}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        b"\n",
        b"{nonsense\n",
        [ask(9, "ping")],
        ask(2, "tools/list"),
        ask(3, "nothing/here"),
        b"\xff\xfe\n",
    )
    assert [answer.get("id") for answer in answers] == [1, None, None, 2, 3, None]
    assert answers[0]["result"]["protocolVersion"] == "2025-06-18"
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == [-32700, -32600, -32601, -32700]
    # Without an agent a tool's result is the command to run.

    bridge = subprocess.Popen(_COMMAND, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert bridge.stdin is not None
    assert bridge.stdout is not None
    with bridge:
        bridge.stdin.write(json.dumps(ask(4, "tools/call", name="relay_inbox", arguments={})).encode() + b"\n")
        bridge.stdin.flush()
        told = json.loads(bridge.stdout.readline())["result"]
        # Gemini CLI 0.61 asks for them before its first hook, and drops a server that refuses, with its tools.
        bridge.stdin.write(json.dumps(ask(5, "resources/list")).encode() + b"\n")
        bridge.stdin.flush()
        assert json.loads(bridge.stdout.readline())["result"] == {"resources": []}
        bridge.stdin.write(json.dumps(ask(6, "resources/read", uri="clawlink://files/x")).encode() + b"\n")
        bridge.stdin.flush()
        assert "clawlink register" in json.loads(bridge.stdout.readline())["error"]["message"]
        bridge.stdin.close()
        assert bridge.wait(PATIENCE) == 0
    assert told["isError"] is True
    assert "clawlink register" in told["content"][0]["text"]


def call(bridge: Any, tool: str, **arguments: Any) -> tuple[bool, dict[str, Any]]:
    """Call a tool of a bridge that runs; return whether it failed, and its result."""
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    bridge.stdin.write(json.dumps(ask).encode() + b"\n")
    bridge.stdin.flush()
    result = json.loads(bridge.stdout.readline())["result"]
    return result["isError"], json.loads(result["content"][0]["text"])


def test_each_session_of_one_opencode_acts_as_its_own_agent(start_relay: Start, tmp_path: Path) -> None:
    """Its plugin names the session in each call. A call without that acts as nobody while there are several."""
    relay = start_relay()
    sessions = Sessions(tmp_path)
    above = ancestors(os.getpid())
    host = above[0].key if above else None  # Windows tells no processes
    for id in ("one", "two"):
        ends_at = time.monotonic() + 20
        hook = Hook(sessions, HOSTS["opencode"], {"session_id": id, "cwd": "/x/shop"}, until=lambda at=ends_at: at)  # type: ignore[misc]
        assert hook.run("SessionStart", lambda: Where(relay.url)) is not None
        made = sessions.find("opencode", id)
        assert made is not None
        sessions.keep(made._replace(host_process=host))

    agents = {one.session_id: one.agent_id for one in sessions.all()}
    env = environ(tmp_path, relay.url)
    with processes.Popen(_COMMAND, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bridge:
        for id in ("one", "two", "one"):
            failed, said = call(bridge, "relay_agents", clawlink_session=id)
            assert (failed, said["you"]["agent_id"]) == (False, agents[id])
        failed, said = call(bridge, "relay_fetch_file", key="none", path=str(tmp_path / "x"), clawlink_session="two")
        assert (failed, said["code"]) == (True, "unknown_file"), "the local tools take it, too"
        failed, said = call(bridge, "relay_inbox", clawlink_session="three")
        assert (failed, said["code"]) == (True, "no_identity")
        if host is not None:
            failed, said = call(bridge, "relay_inbox")
            assert (failed, said["code"]) == (True, "several_identities")
            assert "clawlink poll" in said["error"]
            # The other session ends: then there is one.
            two = sessions.find("opencode", "two")
            assert two is not None
            sessions.keep(two._replace(ended=True))
            failed, said = call(bridge, "relay_agents")
            assert (failed, said["you"]["agent_id"]) == (False, agents["one"])
        assert bridge.stdin is not None
        bridge.stdin.close()
        assert bridge.wait(PATIENCE) == 0


def test_the_server_of_openclaw_makes_its_agent_before_a_call(start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    done = processes.run(
        [*_COMMAND, "--host", "openclaw"], input=b"", env=environ(tmp_path, relay.url), timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (session,) = Sessions(tmp_path).all()
    with Client(relay.url) as visitor:
        assert [agent.agent_id for agent in visitor.discover().agents] == [session.agent_id]


def test_a_session_whose_server_acts_as_a_kept_identity_says_so(start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    env = environ(tmp_path, relay.url)
    processes.run([*_COMMAND[:-1], "register", "--name", "Bob"], env=env, timeout=PATIENCE)
    bob = Identities(tmp_path).pick(named="Bob", relay=None).agent_id
    above = ancestors(os.getpid())
    host = above[0].key if above else None
    session = Session("claude", "s", "mine", relay.url, "c", agent_id="a1", host_process=host)
    sessions = Sessions(tmp_path)
    sessions.keep(session)
    with processes.Popen([*_COMMAND, "--as", "Bob"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bridge:
        failed, said = call(bridge, "relay_agents")
        assert (failed, said["you"]["agent_id"]) == (False, bob)
        assert bridge.stdin is not None
        bridge.stdin.close()
        assert bridge.wait(PATIENCE) == 0
    assert sessions.acts_as(session) == (bob if above else None)
    sessions.forget(session)
    assert list(sessions.folder.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_waits_for_input(number: signal.Signals, tmp_path: Path) -> None:
    env = environ(tmp_path / "home", "http://127.0.0.1:9")
    pipe = subprocess.PIPE
    with processes.Popen(_COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
        assert process.stderr.read() == b""
