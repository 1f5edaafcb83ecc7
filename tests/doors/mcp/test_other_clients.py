"""``/mcp`` and ``clawlink mcp`` with other official clients: for TypeScript, the inspector, the conformance tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.sync import Client
from clawlink.doors.mcp.wire import prompts, tools
from tests import mcp_programs as programs
from tests import processes
from tests.conftest import Start
from tests.doors.mcp.test_bridge import _COMMAND, environ
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(programs.missing() is not None, reason="the programs are not here")

# Scenarios that a server can pass without the tools of the conformance tool's own example server.
SCENARIOS = {
    "2025-11-25": (
        *("server-initialize", "ping", "tools-list", "resources-list", "prompts-list"),
        *("dns-rebinding-protection", "server-session-lifecycle", "server-sse-multiple-streams"),
    ),
    "2026-07-28": (
        *("server-stateless", "tools-list", "resources-list", "prompts-list", "caching", "http-header-validation"),
        *("dns-rebinding-protection", "sep-2164-resource-not-found", "server-sse-multiple-streams"),
    ),
}
# Checks that need those tools.
UNTESTABLE = {
    "sep-2575-server-rejects-undeclared-capability",
    "sep-2575-missing-capability-http-400",
    "sep-2575-http-server-no-independent-requests-on-stream",
    "sep-2575-server-no-log-without-loglevel",
}


def node(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    done = processes.run([str(programs.NODE), *map(str, arguments)], timeout=120, **options)
    assert isinstance(done, subprocess.CompletedProcess)
    return done


def test_the_official_clients_for_typescript(start_relay: Start) -> None:
    relay = start_relay("--token", "t0ken")
    with Client(relay.url, token="t0ken") as ann, Client(relay.url, token="t0ken") as bob:
        ann.register("Ann", claim=True)
        bob.register("Bob", claim=True)
        script = Path(__file__).with_name("clients.mjs")
        done = node(script, programs.MODULES, relay.url + "/mcp", ann.agent_key)
        assert done.returncode == 0, done.stderr.decode()
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["name"] for one in told] == ["sdk", "client legacy", "client auto"]
        for one in told:
            assert one["tools"] == [tool.name for tool in tools.TOOLS if not tool.local]
            assert (one["state"], one["read"]) == ("queued", f"from {one['name']}")
            assert f"clawlink://tasks/{one['task_id']}" in one["uris"]
            assert one["prompts"] == [prompt.name for prompt in prompts.PROMPTS]
            assert one["prompt"].endswith("tides")
            assert (one["refused"], one["cancelled"]) == (True, True)
        bob.send("Ann", "kept")
        (kept,) = [one for one in ann.poll(wait=5) if one.raw["type"] == "message"]
        assert kept.attempt == 1  # no cancelled wait has claimed it


def test_the_official_client_of_the_extension_for_tasks(start_relay: Start) -> None:
    relay = start_relay()
    with Client(relay.url) as ann, Client(relay.url) as bob:
        ann.register("Ann", claim=True)
        bob.register("Bob", claim=True)
        script = Path(__file__).with_name("tasks.mjs")
        command = [str(programs.NODE), str(script), str(programs.MODULES), relay.url + "/mcp", str(ann.agent_key)]
        with processes.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            (task,) = bob.poll(wait=60)
            bob.respond(task.message_id, 'In which base?"}', status="input_required")
            (answer,) = bob.poll(wait=60)
            assert answer.raw["content"] == "ten"
            bob.respond(task.message_id, "4")
            out, err = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0, err.decode()
        told = json.loads(out)
        assert told["methods"][:3] == ["tools/call", "tasks/get", "tasks/update"]
        assert ('In which base?\\"}' in told["asked"][0], len(told["asked"])) == (True, 1)
        assert (told["error"], json.loads(told["text"])["untrusted"]["result"]) == (False, "4")


def test_the_inspector(start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    env = environ(tmp_path / "home", relay.url)
    done = processes.run([*_COMMAND[:-1], "register", "--name", "Bob", "--json"], env=env, timeout=PATIENCE)
    key = json.loads(Path(json.loads(done.stdout)["identity_file"]).read_text())["agent_key"]
    call = ("--method", "tools/call", "--tool-name", "relay_agents")
    http = (relay.url + "/mcp", "--transport", "http", "--header", f"Authorization: Bearer {key}")
    passed = [word for name, value in env.items() if name.startswith("CLAWLINK") for word in ("-e", f"{name}={value}")]
    for server in (http, (*_COMMAND, *passed)):
        done = node(programs.INSPECTOR, "--cli", *server, *call, env=env)
        assert done.returncode == 0, done.stderr.decode()
        (content,) = json.loads(done.stdout)["content"]
        assert json.loads(content["text"])["you"]["name"] == "Bob"


@pytest.mark.parametrize("revision", SCENARIOS)
def test_the_conformance_tool(revision: str, start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    select = ("--requirements", revision) if revision == "2026-07-28" else ("--spec-version", revision)
    node(programs.CONFORMANCE, "server", "--url", relay.url + "/mcp", *select, "-o", tmp_path / "out")
    for scenario in SCENARIOS[revision]:
        (folder,) = (tmp_path / "out").glob(f"server-{scenario}-20*")
        checks = json.loads((folder / "checks.json").read_text())
        wrong = {check["id"]: check.get("errorMessage") for check in checks if check["status"] == "FAILURE"}
        assert set(wrong) <= UNTESTABLE, (scenario, wrong)
