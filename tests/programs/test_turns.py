"""Real turns of coding agents, with a stand-in for their model: they are told of mail in mid-turn, and read it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.client.aio import AsyncClient
from clawlink.client.hooks.sessions import Session, Sessions
from tests.conftest import RelayProcess, Start
from tests.ports import free_port
from tests.programs import fetch
from tests.programs.model import Model
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no ancestors")
_PATIENCE = 120.0
_CODEX = """
model = "m"
model_provider = "standin"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.standin]
name = "standin"
base_url = "{}/v1"
wire_api = "responses"
"""
_SLOW = 3 * _PATIENCE  # OpenClaw takes half a minute to start, and on a busy machine minutes
_KEY = "sk-ant-api03-" + "stand-in-" * 4


class Account:
    """An account with one program, a relay, and an agent elsewhere that writes to its sessions."""

    def __init__(self, home: Path, relay: RelayProcess, model: Model, ann: AsyncClient) -> None:
        self.home = home
        self.model = model
        self.ann = ann
        self.project = home / "project"
        (self.project / ".git").mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAWLINK_", "ANTHROPIC"))}
        self.environ = {**kept, "HOME": str(home), "CLAWLINK_RELAY": relay.url, "CLAWLINK_NO_MDNS": "yes"}
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        """Start a command in the project. It ends with the test."""
        streams = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        process = await asyncio.create_subprocess_exec(
            *words, cwd=self.project, env=self.environ, stderr=asyncio.subprocess.STDOUT, **{**streams, **options}
        )
        self._processes.append(process)
        return process

    async def run(self, *words: str) -> str:
        """Run a command in the project to its end, and return what it says."""
        process = await self.start(*words)
        said, _ = await asyncio.wait_for(process.communicate(), _PATIENCE)
        assert process.returncode == 0, said.decode(errors="replace")
        return said.decode(errors="replace")

    async def clawlink(self, *words: str) -> str:
        return await self.run(sys.executable, "-m", "clawlink", *words)

    async def connect(self, program: str) -> None:
        """Connect a program. A busy machine needs more time for a hook than a person would wait."""
        await self.clawlink("connect", program, "--yes")
        for file in self.home.rglob("*"):
            if file.suffix in (".json", ".js") and file.is_file() and "node_modules" not in file.parts:
                text = file.read_text()
                slow = text.replace(f"--host {program}", f"--host {program} --seconds 20")
                slow = slow.replace("const FLAGS = []", 'const FLAGS = ["--seconds", "20"]')
                file.write_text(slow.replace("MOST_MS = 3000", "MOST_MS = 60000"))

    def registered(self, host: str) -> list[Session]:
        """Return the sessions of a program that have an agent."""
        return [one for one in Sessions(self.home / ".clawlink").all() if one.host == host and one.agent_id]

    def session(self, host: str) -> Session:
        """Return the one session of a program."""
        (session,) = self.registered(host)
        return session

    async def begun(self, host: str) -> Session:
        """Return the session of a program once its first hook has registered it."""
        await eventually(
            lambda: _is(any(one.agent_id for one in Sessions(self.home / ".clawlink").all())), seconds=_PATIENCE
        )
        return self.session(host)

    async def close(self) -> None:
        for process in self._processes:
            await self.end(process)

    async def end(self, process: asyncio.subprocess.Process) -> None:
        """End a process that may have started the real one, to which it hands a signal on."""
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20.0)
            except asyncio.TimeoutError:
                process.kill()
                await process.wait()


async def _is(fact: bool) -> bool:
    return fact


@pytest.fixture
async def account(start_relay: Start, tmp_path: Path) -> AsyncIterator[Account]:
    relay = start_relay()
    home = tmp_path / "home"
    home.mkdir()
    async with Model() as model, AsyncClient(relay.url) as ann:
        await ann.register("Ann")
        account = Account(home, relay, model, ann)
        yield account
        await account.close()


def _needs(name: str) -> Callable[[Any], Any]:
    why = f"no {name} under .cache (see tests/programs/fetch.py)"
    return pytest.mark.skipif(not fetch.path(name).exists(), reason=why)


async def _sends_in_mid_turn(account: Account, host: str) -> list[str]:
    """Have mail come while the model's first tool runs. Returns a list that gets the message's id."""
    sent, account.model.on_tool = _sends_once(account, host)
    return sent


async def _is_kept_at_its_end(account: Account, host: str, *words: str) -> None:
    """Run a turn that mail comes to when all is said. The hook at its end has the model go on, and it reads."""
    sent, account.model.on_end = _sends_once(account, host)
    before = len(account.model.answers)
    await account.run(*words)
    tools = [answer.tool for answer in account.model.answers[before:]]
    assert (tools[0], str(tools[1]).rpartition("__")[2], tools[-1]) == (None, "relay_inbox", None), tools
    assert await _has_read(account.ann, sent[0])


def _sends_once(account: Account, host: str) -> tuple[list[str], Callable[[], Awaitable[None]]]:
    sent: list[str] = []

    async def send() -> None:
        if not sent:
            sent.append((await account.ann.send(account.session(host).name, "in mid-turn")).message_id)

    return sent, send


async def _is_read_in_mid_turn(account: Account, host: str, sent: list[str]) -> None:
    model = account.model
    tools = [answer.tool for answer in model.answers]
    assert tools[0] is not None
    assert str(tools[1]).endswith("relay_inbox"), tools
    assert tools[-1] is None
    assert model.shows(f"you are the agent {account.session(host).name}"), "the first hook greets"
    assert model.shows(f'- message {sent[0]} from "Ann": "in mid-turn"'), "the hook after the tool tells"
    assert (await account.ann.message(sent[0])).delivered_at is not None


@_needs("claude")
async def test_claude_code(account: Account) -> None:
    account.environ |= {
        "ANTHROPIC_BASE_URL": account.model.url,
        "ANTHROPIC_API_KEY": _KEY,
        "ENABLE_TOOL_SEARCH": "false",
    }
    account.environ |= {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
    await account.connect("claude")
    sent = await _sends_in_mid_turn(account, "claude")
    prompt = 'CALL Bash {"command": "echo hi", "description": "x"} END'
    claude = str(fetch.path("claude"))
    assert "DONE" in await account.run(claude, "-p", prompt, "--allowedTools", "Bash,mcp__clawlink")
    await _is_read_in_mid_turn(account, "claude", sent)
    await _is_resumed(account, claude)
    # A session that is idle on a screen is woken, and reads.
    for file in (account.home / ".clawlink" / "sessions").iterdir():
        file.unlink()
    settings = account.home / ".claude.json"
    trust = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    seen = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [_KEY[-20:]], "rejected": []},
    }
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), **seen, "projects": {str(account.project): trust}})
    )
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    account.environ["TERM"] = "xterm-256color"
    streams = dict.fromkeys(("stdin", "stdout"), theirs)
    await account.start(claude, "--allowedTools", "mcp__clawlink", start_new_session=True, **streams)
    os.close(theirs)
    reading = asyncio.ensure_future(asyncio.to_thread(_drain, ours))
    session = await account.begun("claude")
    await eventually(lambda: _is(Sessions(account.home / ".clawlink").armed(session) is not None), seconds=_PATIENCE)
    id = (await account.ann.send(session.name, "to an idle one")).message_id
    await eventually(lambda: _has_read(account.ann, id), seconds=_PATIENCE)
    await eventually(lambda: _is_woken(account.ann, id, "claude hook"), seconds=_PATIENCE)
    assert account.model.shows("ClawLink: 1 new message for you")
    await account.close()
    os.close(ours)
    await reading


async def _is_resumed(account: Account, claude: str) -> None:
    """A session whose screen is closed is gone on with. Nobody allows its tools there but the adapter."""
    own = account.home / ".clawlink" / "wake.toml"
    own.write_text('[agents."claude-*"]\nchain = ["resume"]\n')
    account.environ["PATH"] = os.pathsep.join((str(Path(claude).parent), account.environ["PATH"]))
    waking = await account.start(sys.executable, "-m", "clawlink", "wake")
    assert waking.stdout is not None
    assert b"watching" in await asyncio.wait_for(waking.stdout.readline(), _PATIENCE)
    id = (await account.ann.send(account.session("claude").name, "to a closed one")).message_id
    await eventually(lambda: _has_read(account.ann, id), seconds=_PATIENCE)
    await eventually(lambda: _is_woken(account.ann, id, "resume"), seconds=_PATIENCE)
    await eventually(lambda: _is(account.session("claude").ended), seconds=_PATIENCE)
    await account.end(waking)
    own.unlink()


def _drain(screen: int) -> None:
    try:
        while os.read(screen, 65536):
            pass
    except OSError:
        return


async def _has_read(ann: AsyncClient, id: str) -> bool:
    return (await ann.message(id)).delivered_at is not None


async def _is_woken(ann: AsyncClient, id: str, adapter: str) -> bool:
    return [wake.adapter for wake in (await ann.message(id)).woken] == [adapter]


@_needs("codex")
async def test_codex(account: Account) -> None:
    settings = account.home / ".codex" / "config.toml"
    settings.parent.mkdir()
    settings.write_text(_CODEX.format(account.model.url))
    await account.connect("codex")
    sent = await _sends_in_mid_turn(account, "codex")
    codex = str(fetch.path("codex"))
    trusted = ("--skip-git-repo-check", "--dangerously-bypass-hook-trust")
    assert "DONE" in await account.run(codex, "exec", *trusted, 'CALL exec_command {"cmd": "echo hi"} END')
    await _is_read_in_mid_turn(account, "codex", sent)
    for file in (account.home / ".clawlink" / "sessions").iterdir():
        file.unlink()
    await _is_kept_at_its_end(account, "codex", codex, "exec", *trusted, "say hello")


@_needs("codex")
async def test_an_idle_thread_of_codex_is_woken_at_its_app_server(account: Account, tmp_path: Path) -> None:
    settings = account.home / ".codex" / "config.toml"
    settings.parent.mkdir()
    settings.write_text(_CODEX.format(account.model.url))
    await account.connect("codex")
    socket = tmp_path / "codex.sock"
    words = (str(fetch.path("codex")), "app-server", "--listen", f"unix://{socket}")
    server = await account.start(*words, stdout=asyncio.subprocess.DEVNULL)
    await eventually(lambda: _is(socket.exists()), seconds=_PATIENCE)
    # A person trusts the hooks on the screen. It keeps that so.
    async with AppServer(socket) as codex:
        (listed,) = (await codex.ask("hooks/list", {"cwds": [str(account.project)]}))["data"]
    with settings.open("a") as file:
        for hook in listed["hooks"]:
            key, trusted = json.dumps(hook["key"]), json.dumps(hook["currentHash"])
            file.write(f"\n[hooks.state.{key}]\ntrusted_hash = {trusted}\n")
    await account.end(server)
    socket.unlink(missing_ok=True)
    await account.start(*words, stdout=asyncio.subprocess.DEVNULL)
    await eventually(lambda: _is(socket.exists()), seconds=_PATIENCE)
    async with AppServer(socket) as codex:
        thread = (await codex.ask("thread/start", {"cwd": str(account.project)}))["thread"]["id"]
        await codex.ask("turn/start", {"threadId": thread, "input": [{"type": "text", "text": "hello"}]})
        session = await account.begun("codex")
        await eventually(lambda: _is(bool(account.model.answers)), seconds=_PATIENCE)
        own = account.home / ".clawlink" / "wake.toml"
        own.write_text(f'[agents."codex-*"]\ncodex = "unix://{socket}"\n')
        waking = await account.start(sys.executable, "-m", "clawlink", "wake")
        assert waking.stdout is not None
        assert b"watching" in await asyncio.wait_for(waking.stdout.readline(), _PATIENCE)
        id = (await account.ann.send(session.name, "to an idle one")).message_id
        await eventually(lambda: _has_read(account.ann, id), seconds=_PATIENCE)
    await eventually(lambda: _is_woken(account.ann, id, "codex app-server"), seconds=_PATIENCE)


class AppServer:
    """A client of ``codex app-server``, as a screen is one."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(socket)))
        self._number = 0

    async def __aenter__(self) -> AppServer:
        self._socket = await self._session.ws_connect("http://localhost/", max_msg_size=0)
        await self.ask("initialize", {"clientInfo": {"name": "test", "version": "1"}})
        await self._socket.send_json({"method": "initialized"})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._session.close()

    async def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Return the result of a method; news in between are left out."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = json.loads(await asyncio.wait_for(self._socket.receive_str(), _PATIENCE))
            if said.get("id") == self._number and "method" not in said:
                return said["result"]


@_needs("gemini")
async def test_gemini_cli(account: Account) -> None:
    account.environ |= {"GEMINI_API_KEY": "x", "GOOGLE_GEMINI_BASE_URL": account.model.url}
    settings = account.home / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}}))
    await account.connect("gemini")
    sent = await _sends_in_mid_turn(account, "gemini")
    words = ("--skip-trust", "--yolo", "-m", "gemini-2.5-flash", "-p")
    prompt = 'CALL run_shell_command {"command": "echo hi"} END'
    assert "DONE" in await account.run(str(fetch.path("gemini")), *words, prompt)
    await _is_read_in_mid_turn(account, "gemini", sent)
    # A model that does not read is asked a few times, and not without end.
    account.model.reads = False
    account.model.answers.clear()
    sent.clear()
    for file in (account.home / ".clawlink" / "sessions").iterdir():
        file.unlink()
    await account.run(str(fetch.path("gemini")), *words, prompt)
    assert 3 <= len(account.model.answers) <= 6


@_needs("opencode")
async def test_opencode(account: Account) -> None:
    models = {"m": {"name": "m", "tool_call": True, "limit": {"context": 200_000, "output": 8_000}}}
    options = {"baseURL": f"{account.model.url}/v1", "apiKey": "x"}
    provider = {"standin": {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models}}
    settings = account.home / ".config" / "opencode" / "opencode.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"model": "standin/m", "autoupdate": False, "provider": provider}))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        account.environ.pop(name, None)
    await account.connect("opencode")
    sent = await _sends_in_mid_turn(account, "opencode")
    server = await account.start(str(fetch.path("opencode")), "serve", "--port", "0", "--hostname", "127.0.0.1")
    assert server.stdout is not None
    url = ""
    while not url:
        found = re.search(rb"listening on (http://\S+)", await asyncio.wait_for(server.stdout.readline(), _PATIENCE))
        url = "" if found is None else found[1].decode()
    draining = asyncio.ensure_future(server.stdout.read())
    async with aiohttp.ClientSession(url) as http:
        async with http.post("/session", json={}) as answer:
            id = (await answer.json())["id"]
        prompt = {"type": "text", "text": 'CALL bash {"command": "echo hi", "description": "x"} END'}
        async with http.post(f"/session/{id}/message", json={"agent": "plan", "parts": [prompt]}) as answer:
            assert answer.status == 200, await answer.text()
        await _is_read_in_mid_turn(account, "opencode", sent)
        # The session that is idle now is woken, and goes on planning.
        waking = await account.start(sys.executable, "-m", "clawlink", "wake")
        assert waking.stdout is not None
        assert b"watching" in await asyncio.wait_for(waking.stdout.readline(), _PATIENCE)
        note = (await account.ann.send(account.session("opencode").name, "to an idle one")).message_id
        await eventually(lambda: _has_read(account.ann, note), seconds=_PATIENCE)
        await eventually(lambda: _is_woken(account.ann, note, "opencode server"), seconds=_PATIENCE)
        async with http.get(f"/session/{id}") as answer:
            assert (await answer.json())["agent"] == "plan"
    await account.end(server)
    await draining


@_needs("openclaw")
async def test_the_main_session_of_openclaw_is_woken_and_told_behind_a_tool(account: Account) -> None:
    account.environ["PATH"] = fetch.search_path()
    openclaw, settings = str(fetch.path("openclaw")), account.home / ".openclaw" / "openclaw.json"
    settings.parent.mkdir()
    number = free_port()
    costs = dict.fromkeys(("input", "output", "cacheRead", "cacheWrite"), 0)
    model = {"id": "model", "name": "m", "input": ["text"], "cost": costs, "contextWindow": 128_000, "maxTokens": 4000}
    provider = {"baseUrl": f"{account.model.url}/v1", "apiKey": "x", "api": "openai-completions", "models": [model]}
    own = {
        "gateway": {"mode": "local", "port": number, "auth": {"mode": "token", "token": "of-the-gateway"}},
        "agents": {"defaults": {"model": {"primary": "standin/model"}}},
        "models": {"providers": {"standin": provider}},
    }
    settings.write_text(json.dumps(own))
    await account.connect("openclaw")
    assert "valid" in await account.run(openclaw, "config", "validate")
    assert "- clawlink" in await account.run(openclaw, "mcp", "list")
    words = (openclaw, "gateway", "run")
    gateway = await account.start(*words, stdout=asyncio.subprocess.DEVNULL)
    hooks = json.loads(settings.read_text())["hooks"]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{number}") as http:

        async def lives() -> bool:
            nonlocal gateway
            if gateway.returncode is not None:  # on a busy machine a worker of its own is too late for it
                gateway = await account.start(*words, stdout=asyncio.subprocess.DEVNULL)
            try:
                async with http.get("/healthz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(lives, seconds=_SLOW)
        line = {"text": "CALL relay_agents {} END", "mode": "now"}
        async with http.post("/hooks/wake", json=line, headers={"Authorization": f"Bearer {hooks['token']}"}) as answer:
            assert answer.status == 200
        await eventually(lambda: _is(bool(account.registered("openclaw"))), seconds=_SLOW)
        await eventually(
            lambda: _is(bool(account.model.answers) and account.model.answers[-1].tool is None), seconds=_SLOW
        )
        waking = await account.start(sys.executable, "-m", "clawlink", "wake")
        assert waking.stdout is not None
        assert b"watching 1 agent" in await asyncio.wait_for(waking.stdout.readline(), _PATIENCE)
        id = (await account.ann.send(account.session("openclaw").name, "to an idle one")).message_id
        await eventually(lambda: _has_read(account.ann, id), seconds=_SLOW)
        await eventually(lambda: _is_woken(account.ann, id, "openclaw"), seconds=_PATIENCE)
    await account.end(waking)
    await account.end(gateway)
