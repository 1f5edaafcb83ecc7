"""``clawlink connect`` on an account of its own: the settings of six programs, before and after."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clawlink
from clawlink import private
from clawlink.client.hooks.sessions import Sessions
from clawlink.client.programs.json_text import Unmergeable
from clawlink.client.programs.places import Place
from clawlink.client.programs.programs import PROGRAMS, Program, apply, plan
from clawlink.errors import Conflicted
from clawlink.service import own_command
from clawlink.wake.openclaw import Gateway, find
from tests.cli.conftest import Run
from tests.waiting import PATIENCE

TITLES = ("Claude Code", "Codex", "Gemini CLI", "Cursor", "opencode", "OpenClaw")


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, without the copies and marks."""
    found = (path for path in folder.rglob("*") if path.is_file() and "-clawlink" not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_all_programs_are_connected_and_undone(call: Run, account: Path) -> None:
    for program in PROGRAMS.values():
        (account / program.folder).mkdir(parents=True)
    (account / ".claude.json").write_text('{"projects": {}}')
    (account / ".codex" / "config.toml").write_text("model = 'x'  # mine\n")
    before = everything(account)
    shown = call("connect", "all", "--dry-run").ok().out
    assert everything(account) == before
    assert "+" in shown
    assert shown.endswith("\nNothing was written.\n")
    assert "no question can be asked" in call("connect", "all").failed(2).err
    assert everything(account) == before
    assert "Connected." in call("connect", "all", "--yes").ok().out
    after = everything(account)
    assert set(after) == {
        *(".claude.json", ".claude/settings.json", ".codex/config.toml", ".codex/hooks.json"),
        *(".gemini/settings.json", ".cursor/hooks.json", ".cursor/mcp.json"),
        *(".config/opencode/opencode.json", ".config/opencode/plugins/clawlink.js"),
        *(".openclaw/openclaw.json", ".openclaw/skills/clawlink/SKILL.md"),
        *(f".openclaw/extensions/clawlink/{name}" for name in ("index.js", "openclaw.plugin.json", "package.json")),
        *(".claude/skills/clawlink/SKILL.md", ".agents/skills/clawlink/SKILL.md"),
    }
    assert json.loads(after[".claude.json"])["projects"] == {}
    assert set(json.loads(after[".gemini/settings.json"])) == {"hooks", "mcpServers"}
    assert call("connect", "all", "--yes").ok().out == "Connected already.\n"
    rows = {row["program"]: (row["connected"], row["skill"]) for row in call("connect", "--json").ok().json}
    assert rows == dict.fromkeys(TITLES, ("user", "yes"))
    assert "Undone." in call("connect", "all", "--undo", "--yes").ok().out
    assert everything(account) == before
    assert call("connect", "all", "--undo", "--yes").ok().out == "Nothing to undo.\n"
    assert {(row["connected"], row["skill"]) for row in call("connect", "--json").ok().json} == {("no", "no")}


def test_a_flag_of_a_change_needs_a_program(call: Run, account: Path) -> None:
    call("connect", "claude", "--yes").ok()
    before = everything(account)
    for flags in (["--undo"], ["--yes"], ["--dry-run"], ["--project"], ["--dry-run", "--undo", "--yes"]):
        done = call("connect", *flags).failed(2)
        assert done.err.strip().endswith(f"name the program, or all: clawlink connect all {' '.join(flags)}"), done.err
    assert everything(account) == before
    assert "Undone." in call("connect", "all", "--undo", "--yes").ok().out
    assert not everything(account)


def test_undo_on_an_account_without_programs_leaves_no_trace(
    call: Run, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    before = sorted(account.rglob("*"))
    assert "clawlink connect claude" in call("connect", "all").ok().out
    for program in PROGRAMS.values():
        said = call("connect", program.name, "--yes").ok().out
        assert f"{program.title} is not installed here: it counts once it is." in said
        undone = call("connect", program.name, "--yes", "--undo").ok().out
        assert undone.splitlines()[-1] == "Undone.", "no copy of a file that was made here"
        assert sorted(account.rglob("*")) == before, program.name
    rows = call("connect", "--json").ok().json
    assert {(row["version"], row["why_not"]) for row in rows} == {("not found", "not installed here")}
    call("connect", "codex", "--yes").ok()
    (account / ".codex" / "auth.json").write_text("{}")  # what somebody else has put there stays
    call("connect", "codex", "--yes", "--undo").ok()
    assert list(everything(account)) == [".codex/auth.json"]


def test_opencode_gets_a_plugin_and_a_local_server(call: Run, account: Path) -> None:
    folder = account / ".config" / "opencode"
    folder.mkdir(parents=True)
    settings, plugin = folder / "opencode.json", folder / "plugins" / "clawlink.js"
    before = '{\n  "model": "x/y",\n  "mcp": {"other": {"type": "local", "command": ["x"]}}\n}\n'
    settings.write_text(before)
    call("--relay", "http://10.0.0.1:9077", "connect", "opencode", "--yes").ok()

    def servers() -> dict[str, Any]:
        (found,) = [value for key, value in json.loads(settings.read_text()).items() if key != "model"]
        return dict(found)

    server = servers()
    words = [*own_command(), "mcp", "--relay", "http://10.0.0.1:9077"]
    assert server["clawlink"] == {"enabled": True, "type": "local", "command": words}
    assert server["other"] == {"type": "local", "command": ["x"]}
    text = plugin.read_text()
    assert f"const COMMAND = {json.dumps(own_command())}\n" in text
    assert 'const FLAGS = ["--relay", "http://10.0.0.1:9077"]\n' in text
    # The person's own choices stay, and the rest goes again.
    settings.write_text(settings.read_text().replace('"enabled": true', '"enabled": false'))
    call("connect", "opencode", "--yes").ok()
    assert servers()["clawlink"]["enabled"] is False
    call("connect", "opencode", "--undo", "--yes").ok()
    assert json.loads(settings.read_text()) == json.loads(before)
    assert not plugin.exists()
    plugin.write_text("export const Mine = 5\n")
    assert "another plugin" in call("connect", "opencode", "--yes").err
    assert plugin.read_text() == "export const Mine = 5\n"


def test_settings_are_where_the_variables_of_their_program_say(
    call: Run, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = account / "moved"
    for program, name, value, files in (
        ("claude", "CLAUDE_CONFIG_DIR", "c", ("c/settings.json", "c/.claude.json", "c/skills/clawlink/SKILL.md")),
        ("codex", "CODEX_HOME", "x", ("x/hooks.json", "x/config.toml")),
        ("gemini", "GEMINI_CLI_HOME", "g", ("g/.gemini/settings.json", "g/.agents/skills/clawlink/SKILL.md")),
        ("opencode", "XDG_CONFIG_HOME", "o", ("o/opencode/opencode.json", "o/opencode/plugins/clawlink.js")),
        ("openclaw", "OPENCLAW_STATE_DIR", "w", ("w/openclaw.json", "w/extensions/clawlink/index.js")),
    ):
        monkeypatch.setenv(name, str(moved / value))
        call("connect", program, "--yes").ok()
        assert all((moved / file).is_file() for file in files), program
        (row,) = (row for row in call("connect", "--json").ok().json if row["program"] == PROGRAMS[program].title)
        assert (row["connected"], row["skill"]) == ("user", "yes"), program
        monkeypatch.setenv(name, str(account / "elsewhere"))
        (row,) = (row for row in call("connect", "--json").ok().json if row["program"] == PROGRAMS[program].title)
        assert row["connected"] == "no", program
        monkeypatch.setenv(name, str(moved / value))
        call("connect", program, "--undo", "--yes").ok()
        assert not any((moved / file).exists() for file in files), program
        monkeypatch.delenv(name)
    assert everything(account) == {}


# A stand-in for opencode 1.18, by its types and its bundle: all sessions share a plugin and an MCP server.
_OPENCODE = """
import { pathToFileURL } from "node:url"
const { ClawLink } = await import(pathToFileURL(process.argv[2]))
const prompts = []
const client = {
  session: {
    get: async () => ({ data: { agent: "plan", model: { id: "m", providerID: "p" } } }),
    promptAsync: async (prompt) => (prompts.push(prompt), {}),
  },
}
const plugin = await ClawLink({ client, directory: "/x/shop", serverUrl: new URL("http://127.0.0.1:4096") })
const call = async (tool, sessionID) => {
  const output = { args: { a: 1 } }
  await plugin["tool.execute.before"]({ tool, sessionID, callID: "c" }, output)
  return output.args
}
const after = async (sessionID, output) => {
  await plugin["tool.execute.after"]({ tool: "x", sessionID, callID: "c", args: {} }, output)
  return output
}
const message = async (sessionID) => {
  const output = { message: {}, parts: [{ id: "prt_1", sessionID, messageID: "m1", type: "text", text: "hi" }] }
  await plugin["chat.message"]({ sessionID }, output)
  return output.parts.slice(1)
}
const event = (type, properties) => plugin.event({ event: { type, properties } })
const created = (id, parentID) => event("session.created", { info: { id, parentID } })
const said = {}
created("s1")
await created("child", "s1")
said.of_s1 = await call("clawlink_relay_inbox", "s1")
said.of_child = await call("clawlink_relay_inbox", "child")
said.of_another_server = await call("other_tool", "s1")
said.message = await message("s2")
said.of_mcp = await after("s2", { content: [{ type: "text", text: "got" }] })
said.of_tool = await after("s2", { title: "t", output: "got", metadata: {} })
said.of_child_tool = await after("child", { title: "t", output: "got", metadata: {} })
said.of_nothing = [await after("s2", undefined), await after("s2", { odd: 1 })]
await plugin["chat.message"]({ sessionID: "s2" }, {})
said.kept = (await message("s2")).map((part) => part.text)
await message("child")
const shell = { env: {} }
await plugin["shell.env"]({ cwd: "/", sessionID: "child" }, shell)
said.env = shell.env
await event("session.idle", { sessionID: "s1" })
said.prompts = prompts
await message("s1")
await event("session.idle", { sessionID: "child" })
await event("session.deleted", { info: { id: "s2" } })
console.log(JSON.stringify(said))
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="the plugin runs in JavaScript")
def test_the_plugin_of_opencode_names_the_session_of_each_call_and_tells_what_came(call: Run, account: Path) -> None:
    call("connect", "opencode", "--yes").ok()
    plugin, seen = account / ".config" / "opencode" / "plugins" / "clawlink.js", account / "seen"
    shim = account / "shim.js"
    shim.write_text(
        "const { readFileSync, appendFileSync } = require('fs')\n"
        "const said = JSON.parse(readFileSync(0))\n"
        "const event = process.argv[3]\n"
        f"appendFileSync({json.dumps(str(seen))}, event + ' ' + said.session_id + '\\n')\n"
        "const text = event + ' of ' + said.session_id\n"
        "const answers = { SessionStart: { agent: 'agent-' + said.session_id, text }, Stop: { go_on: text },\n"
        "  UserPromptSubmit: { text }, PostToolUse: { text } }\n"
        "console.log(JSON.stringify(answers[event]) ?? 'no JSON')\n"
    )
    command = json.dumps(own_command())
    text = plugin.read_text()
    assert command in text
    module = account / "clawlink.mjs"
    module.write_text(text.replace(command, json.dumps(["node", str(shim)])))
    stand_in = account / "opencode.mjs"
    stand_in.write_text(_OPENCODE)
    done = subprocess.run(["node", str(stand_in), str(module)], capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    words = {"type": "text", "text": "SessionStart of s2\nUserPromptSubmit of s2", "synthetic": True}
    prompt = {"agent": "plan", "model": {"providerID": "p", "modelID": "m"}}
    assert json.loads(done.stdout) == {
        "of_s1": {"a": 1, "clawlink_session": "s1"},
        "of_child": {"a": 1, "clawlink_session": "s1"},
        "of_another_server": {"a": 1},
        "message": [{"id": "prt_1c", "sessionID": "s2", "messageID": "m1", **words}],
        "of_mcp": {"content": [{"type": "text", "text": "got"}, {"type": "text", "text": "PostToolUse of s2"}]},
        "of_tool": {"title": "t", "output": "got\n\nPostToolUse of s2", "metadata": {}},
        "of_child_tool": {"title": "t", "output": "got", "metadata": {}},
        "of_nothing": [None, {"odd": 1}],
        "kept": ["UserPromptSubmit of s2\nUserPromptSubmit of s2"],
        "env": {"CLAWLINK_AGENT": "agent-s1"},
        "prompts": [{"path": {"id": "s1"}, "body": {"parts": [{"type": "text", "text": "Stop of s1"}], **prompt}}],
    }
    assert seen.read_text().splitlines() == [
        *("SessionStart s1", "SessionStart s2", "UserPromptSubmit s2", "PostToolUse s2", "PostToolUse s2"),
        *("UserPromptSubmit s2", "UserPromptSubmit s2"),
        *("Stop s1", "UserPromptSubmit s1", "SessionEnd s2"),
    ]


@pytest.mark.skipif(shutil.which("node") is None, reason="the plugin runs in JavaScript")
def test_the_plugin_of_opencode_goes_on_where_no_hook_can_be_run(call: Run, account: Path) -> None:
    call("connect", "opencode", "--yes").ok()
    text = (account / ".config" / "opencode" / "plugins" / "clawlink.js").read_text()
    module, stand_in = account / "clawlink.mjs", account / "opencode.mjs"
    command = json.dumps(own_command())
    stand_in.write_text(_OPENCODE)
    for broken in (
        ["/no/such/program"],
        ["node", "-e", "console.log('null')"],
        ["node", "-e", "setTimeout(() => {}, 1e6)"],
    ):
        module.write_text(text.replace(command, json.dumps(broken)).replace("MOST_MS = 3000", "MOST_MS = 300"))
        done = subprocess.run(["node", str(stand_in), str(module)], capture_output=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b""), broken
        said = json.loads(done.stdout)
        assert (said["message"], said["env"], said["prompts"], said["of_tool"]["output"]) == ([], {}, [], "got"), broken


def test_openclaw_gets_a_server_hooks_and_a_skill(call: Run, account: Path) -> None:
    """OpenClaw 2026.9.6 was run with these: ``config validate``, ``mcp list``, ``mcp doctor --probe``, a wake."""
    settings = account / ".openclaw" / "openclaw.json"
    settings.parent.mkdir()
    before = '{\n  "gateway": {"port": 18999},\n  "mcp": {"servers": {"other": {"url": "https://x"}}}\n}\n'
    settings.write_text(before)
    settings.chmod(0o600)
    shown = call("--relay", "http://10.0.0.1:9077", "connect", "openclaw", "--yes").ok().out
    said = json.loads(settings.read_text())
    token = said["hooks"]["token"]
    assert said["hooks"] == {"enabled": True, "token": token}
    assert said["plugins"] == {"entries": {"clawlink": {"enabled": True}}}
    assert token not in shown, "a secret stands in no diff"
    assert len(token) == len("clawlink-") + 48
    (copy,) = settings.parent.glob("openclaw.json.before-clawlink-*")  # the script of Agent P2P failed at its copy
    assert copy.read_text() == before
    args = [*own_command()[1:], "mcp", "--host", "openclaw", "--relay", "http://10.0.0.1:9077"]
    (servers,) = (value["servers"] for key, value in said.items() if key not in ("gateway", "hooks", "plugins"))
    assert servers == {"other": {"url": "https://x"}, "clawlink": {"command": sys.executable, "args": args}}
    assert find({}, home=account) == Gateway("http://127.0.0.1:18999/hooks", token), "and wakes use it"
    assert call("--relay", "http://10.0.0.1:9077", "connect", "openclaw", "--yes").ok().out == "Connected already.\n"
    call("connect", "openclaw", "--undo", "--yes").ok()
    assert json.loads(settings.read_text()) == json.loads(before)
    # Hooks that a person has set up, or built upon, stay.
    for hooks in (
        {"enabled": False},
        {"enabled": True, "token": "mine"},
        {"enabled": True, "token": token, "path": "/x"},
    ):
        settings.write_text(json.dumps({"hooks": hooks}))
        call("connect", "openclaw", "--yes").ok()
        assert json.loads(settings.read_text())["hooks"] == hooks
        call("connect", "openclaw", "--undo", "--yes").ok()
        assert json.loads(settings.read_text()) == {"hooks": hooks}
    settings.write_text("{gateway: {port: 1}} // JSON5\n")
    done = call("connect", "openclaw", "--yes")
    assert done.code == 1
    assert "add these entries by hand" in done.err
    assert settings.read_text() == "{gateway: {port: 1}} // JSON5\n"
    assert (account / ".openclaw" / "skills" / "clawlink" / "SKILL.md").exists(), "one thing that fails stops no other"


def test_the_plugin_of_openclaw_is_enabled_beside_those_that_are_there(call: Run, account: Path) -> None:
    settings, folder = account / ".openclaw" / "openclaw.json", account / ".openclaw" / "extensions" / "clawlink"
    settings.parent.mkdir()
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"allow": ["other"], "entries": {"other": {"enabled": True}}}, {"allow": ["other", "clawlink"]}),
        ({"allow": []}, {"allow": ["clawlink"]}),
        ({"deny": ["clawlink"]}, {"deny": ["clawlink"]}),
    ]
    for plugins, then in cases:
        settings.write_text(json.dumps({"plugins": plugins}))
        call("connect", "openclaw", "--yes").ok()
        entries = {**plugins.get("entries", {}), "clawlink": {"enabled": True}}
        assert json.loads(settings.read_text())["plugins"] == {**then, "entries": entries}
        call("connect", "openclaw", "--undo", "--yes").ok()
        assert json.loads(settings.read_text()) == {"plugins": plugins}
        assert not folder.exists()
    # A person's own choice stays, at connect and at undo.
    for entry in ({"enabled": False}, {"enabled": True, "config": {}}):
        settings.write_text(json.dumps({"plugins": {"entries": {"clawlink": entry}}}))
        call("connect", "openclaw", "--yes").ok()
        assert json.loads(settings.read_text())["plugins"] == {"entries": {"clawlink": entry}}
        call("connect", "openclaw", "--undo", "--yes").ok()
        assert json.loads(settings.read_text()) == {"plugins": {"entries": {"clawlink": entry}}}
    odds: list[dict[str, Any]] = [{"plugins": []}, {"plugins": {"entries": 1}}, {"plugins": {"allow": "x"}}]
    for odd in odds:
        settings.write_text(json.dumps(odd))
        assert "left as it is" in call("connect", "openclaw", "--yes").failed(1).err, odd
        assert json.loads(settings.read_text()) == odd
        call("connect", "openclaw", "--undo", "--yes")
    # A file of the plugin that was changed by hand stays, and the command says so.
    settings.write_text("{}")
    call("connect", "openclaw", "--yes").ok()
    (folder / "index.js").write_text("// mine\n")
    assert "index.js is left as it is" in call("connect", "openclaw", "--yes").failed(1).err
    assert "changed by hand" in call("connect", "openclaw", "--undo", "--yes").failed(1).err
    assert (folder / "index.js").read_text() == "// mine\n"


# A stand-in for OpenClaw 2026.9, by its types: results of tools pass the plugin on their way to the model.
_OPENCLAW = """
import { pathToFileURL } from "node:url"
const { default: plugin } = await import(pathToFileURL(process.argv[2]))
let add
plugin.register({ registerAgentToolResultMiddleware: (handler, { runtimes }) => (add = handler, runtimes) })
plugin.register({}) // an older one, without the call
const after = async (sessionKey, result) => {
  const event = { toolCallId: "c", toolName: "exec", args: {}, result }
  const changed = await add(event, { runtime: "openclaw", sessionKey })
  return changed ? changed.result : null
}
const got = () => ({ content: [{ type: "text", text: "got" }], details: { exitCode: 0 } })
const said = []
for (const key of ["agent:main:discord:group:1", "agent:main:subagent:2", undefined]) said.push(await after(key, got()))
said.push(await after("agent:main:main", { content: "odd" }), await after("agent:main:main", undefined))
for (const _ of [1, 2, 3]) said.push(await after("agent:main:main", got()))
console.log(JSON.stringify(said))
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="the plugin runs in JavaScript")
def test_the_plugin_of_openclaw_tells_its_main_session_alone(call: Run, account: Path) -> None:
    call("connect", "openclaw", "--yes").ok()
    folder, seen = account / ".openclaw" / "extensions" / "clawlink", account / "seen"
    shim, stand_in = account / "shim.js", account / "openclaw.mjs"
    shim.write_text(
        "const { readFileSync, appendFileSync, existsSync } = require('fs')\n"
        "const said = JSON.parse(readFileSync(0))\n"
        f"const seen = {json.dumps(str(seen))}\n"
        "const before = existsSync(seen) ? readFileSync(seen, 'utf8').split('\\n').length : 1\n"
        "appendFileSync(seen, process.argv[3] + ' ' + JSON.stringify(said) + '\\n')\n"
        "if (process.argv[3] === 'SessionStart') console.log(JSON.stringify({ session_id: 's', text: 'hello' }))\n"
        "else if (before < 3) console.log(JSON.stringify({ text: 'mail' }))\n"
    )
    text = (folder / "index.js").read_text()
    command = json.dumps(own_command())
    assert command in text
    module = account / "clawlink.mjs"
    stand_in.write_text(_OPENCLAW)

    def run(words: list[str]) -> Any:
        module.write_text(text.replace(command, json.dumps(words)).replace("MOST_MS = 3000", "MOST_MS = 300"))
        done = subprocess.run(["node", str(stand_in), str(module)], capture_output=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b"")
        return json.loads(done.stdout)

    def result(word: str) -> dict[str, Any]:
        return {
            "content": [{"type": "text", "text": "got"}, {"type": "text", "text": word}],
            "details": {"exitCode": 0},
        }

    for broken in (["/no/such/program"], ["node", "-e", "console.log('null')"], ["node", "-e", "setInterval(Date, 9)"]):
        assert run(broken) == [None] * 8, broken
    text = text.replace("MOST_MS = 3000", "MOST_MS = 30000")
    assert run(["node", str(shim)]) == [None] * 5 + [result("hello"), result("mail"), None]
    assert seen.read_text().splitlines() == ["SessionStart {}", *['PostToolUse {"session_id":"s"}'] * 2]
    manifest = json.loads((folder / "openclaw.plugin.json").read_text())
    assert (manifest["id"], manifest["contracts"]) == ("clawlink", {"agentToolResultMiddleware": ["openclaw", "codex"]})


def test_the_skill_comes_with_a_program_and_goes_if_it_is_as_it_was(call: Run, account: Path) -> None:
    skill = account / ".agents" / "skills" / "clawlink" / "SKILL.md"
    packaged = Path(clawlink.__file__).with_name("SKILL.md").read_bytes()
    call("connect", "codex", "--yes").ok()
    assert skill.read_bytes() == packaged
    call("connect", "gemini", "--yes").ok()
    call("connect", "codex", "--undo", "--yes").ok()
    assert skill.exists(), "the other program reads it"
    # An older one of ours is renewed.
    skill.write_bytes(b"clawlink 1")
    skill.with_name("SKILL.md.made-by-clawlink").write_text(f"3 {hashlib.sha256(b'clawlink 1').hexdigest()}")
    call("connect", "gemini", "--yes").ok()
    assert skill.read_bytes() == packaged
    call("connect", "gemini", "--undo", "--yes").ok()
    assert everything(account / ".agents") == {}
    # A changed one stays, at connect and at undo.
    call("connect", "gemini", "--yes").ok()
    skill.write_bytes(packaged + b"mine")
    assert "clawlink skill --dir" in call("connect", "gemini", "--yes").failed(1).err
    done = call("connect", "gemini", "--undo", "--yes")
    assert (done.code, "changed by hand" in done.err) == (1, True)
    assert skill.read_bytes() == packaged + b"mine"
    assert {row["connected"] for row in call("connect", "--json").ok().json} == {"no"}
    # The skill that `clawlink skill` or a person put there stays.
    other = account / ".claude" / "skills"
    call("skill", "--install", "claude").ok()
    call("connect", "claude", "--yes").ok()
    call("connect", "claude", "--undo", "--yes").ok()
    assert (other / "clawlink" / "SKILL.md").read_bytes() == packaged


def test_the_home_folder_is_no_project(call: Run, account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(account)
    call("connect", "claude", "--yes").ok()
    assert call("connect", "--json").ok().json[0]["connected"] == "user"


def test_a_project_has_settings_of_its_own(
    call: Run, account: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    call("connect", "claude", "--project", "--yes").ok()
    assert set(everything(project)) == {".claude/settings.json", ".mcp.json", ".claude/skills/clawlink/SKILL.md"}
    assert everything(account) == {}
    assert call("connect", "--json").ok().json[0]["connected"] == "project"
    call("connect", "claude", "--project", "--yes", "--undo").ok()
    assert everything(project) == {}
    assert "no settings of a project" in call("connect", "openclaw", "--project", "--yes").failed(1).err
    (account / ".openclaw").mkdir()
    assert "openclaw" not in call("connect", "all", "--project", "--dry-run").ok().out


def test_the_command_in_the_settings_is_a_hook_that_works(call: Run, relay: str, account: Path) -> None:
    """Run what Claude Code would run: its documents say that a shell runs the command, with JSON on standard input."""
    call("connect", "claude", "--yes", "--relay", relay).ok()
    settings = json.loads((account / ".claude" / "settings.json").read_bytes())
    (group,) = settings["hooks"]["SessionStart"]
    hook, waiter = group["hooks"]
    # By its field list, Claude Code runs a hook with asyncRewake in the background, and exit code 2 wakes the session.
    assert (waiter["asyncRewake"], waiter["timeout"] > 21_000) == (True, True)
    assert "hook Wait --host claude" in waiter["command"]
    assert [len(groups[0]["hooks"]) for groups in settings["hooks"].values()] == [2, 1, 1, 2, 1]
    assert hook["type"] == "command"
    assert f"--relay {relay}" in hook["command"]
    assert (shlex.split(hook["command"])[0] == sys.executable) or os.name == "nt"
    project = account / "project"  # its own modules have names of Python's, and of ClawLink's
    project.mkdir()
    for name in ("functools", "json", "socket", "clawlink"):
        (project / f"{name}.py").write_text("raise SystemExit(2)\n")
    said = json.dumps({"session_id": "s", "cwd": str(project), "hook_event_name": "SessionStart"}).encode()
    env = {name: value for name, value in os.environ.items() if name != "CLAWLINK_RELAY"}
    words = hook["command"] + " --seconds 20"
    done = subprocess.run(words, shell=True, input=said, env=env, cwd=project, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    (session,) = Sessions(account / ".clawlink").all()
    assert session.relay == relay
    assert session.name in json.loads(done.stdout)["hookSpecificOutput"]["additionalContext"]
    server: dict[str, Any] = json.loads((account / ".claude.json").read_bytes())["mcpServers"]["clawlink"]
    assert server == {"command": sys.executable, "args": [*own_command()[1:], "mcp", "--relay", relay]}


def test_cursor_can_read_its_hooks_though_an_address_is_among_them(call: Run, account: Path) -> None:
    """The names of events, ``version``, and commands as entries are those of https://cursor.com/docs/hooks.

    Builds of September 2026 refuse a file with an unknown event as a whole. They cut each line of it at two slashes.
    """
    hooks = account / ".cursor" / "hooks.json"
    hooks.parent.mkdir()
    hooks.write_text('{"version": 1, "hooks": {"stop": [{"command": "x", "see": "https://x.org///a"}]}}')
    connect = ("--relay", "https://relay.example.org:9077", "connect", "cursor", "--yes")
    for _ in range(2):
        call(*connect).ok()
        read = json.loads("\n".join(line.partition("//")[0] for line in hooks.read_text().splitlines()))
        assert read["version"] == 1
        assert set(read["hooks"]) == {"sessionStart", "beforeSubmitPrompt", "postToolUse", "stop", "sessionEnd"}
        assert read["hooks"]["stop"][0] == {"command": "x", "see": "https://x.org///a"}
        for event, entries in read["hooks"].items():
            assert "--host cursor --relay https://relay.example.org:9077" in entries[-1]["command"], event
        assert call(*connect).ok().out == "Connected already.\n"
        # A file that an older ClawLink wrote is mended.
        hooks.write_text(json.dumps(read))
    call("connect", "cursor", "--undo", "--yes").ok()
    assert list(json.loads(hooks.read_text())["hooks"]) == ["stop"]


def test_what_cannot_be_merged_is_left_and_named(call: Run, account: Path) -> None:
    (account / ".gemini").mkdir()
    (account / ".cursor").mkdir()
    file = account / ".gemini" / "settings.json"
    file.write_text("// mine\n{}\n")
    done = call("connect", "all", "--yes")
    assert done.code == 1
    assert str(file) in done.err
    assert "comments" in done.err
    assert file.read_text() == "// mine\n{}\n"
    assert (account / ".cursor" / "hooks.json").exists()
    assert "mend this" in call("connect", "gemini", "--undo", "--yes").failed(1).err


def test_settings_that_are_left_come_with_the_entries_to_add_by_hand(call: Run, account: Path) -> None:
    relay = ("--relay", "http://relay.example:9077")
    for program in PROGRAMS.values():
        files = program.files(Place(account))
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        call("connect", program.name, "--yes", *relay).ok()
        wanted = {file: file.read_text("utf-8") for file in files}
        for file in files:
            file.write_text("[1, 2")
        left = everything(account)
        done = call("connect", program.name, "--yes", *relay).failed(1)
        assert "mend this, and run the command again, or add these entries by hand" in done.err, program.name
        # A secret is shown, for it is stored nowhere, and a placeholder would be copied in its place.
        said, shown = [re.sub("clawlink-[0-9a-f]{48}", "SECRET", text) for text in ("".join(wanted.values()), done.out)]
        assert {f"  {line}".rstrip() for line in said.splitlines()} <= {line.rstrip() for line in shown.splitlines()}
        assert "a new secret" not in done.out
        assert [line for line in done.out.splitlines() if line in {f"{file}:" for file in files}]
        assert everything(account) == left
        undone = call("connect", program.name, "--yes", "--undo").failed(1).err
        assert ("mend this, and run the command again\n" in undone, "by hand" in undone) == (True, False)


def test_undo_deletes_only_a_file_that_connect_made(account: Path) -> None:
    def change(program: Program, *, undo: bool) -> None:
        for change in plan(program, Place(account), undo=undo):
            apply(change, ".before-clawlink-1")

    for program in PROGRAMS.values():
        hooks, servers = program.files(Place(account))
        change(program, undo=False)
        made = {path: path.read_bytes() for path in (hooks, servers)}
        change(program, undo=True)
        assert not any(path.exists() for path in made), program.name
        assert not list(account.rglob("*.made-by-clawlink")), program.name
        if program.plugin:  # all of its file is ours, or none
            continue
        change(program, undo=False)
        hooks.write_bytes(b"{}")  # by a person, in place of that of connect
        change(program, undo=False)
        change(program, undo=True)
        assert hooks.exists(), program.name
        assert not list(account.rglob("*.made-by-clawlink")), program.name
        for path, data in made.items():  # as a person would write them by hand
            path.write_bytes(data)
        change(program, undo=True)
        left = {path: path.read_text() for path in made}
        for path, text in left.items():
            head = dict(program.head) if path in (hooks, servers) else {}
            assert (text == "") if path.suffix == ".toml" else (json.loads(text) in ({}, head)), path
        change(program, undo=False)
        change(program, undo=True)
        assert {path: path.read_text() for path in made} == left, program.name
        for path in made:
            path.unlink()


def test_a_path_that_is_not_utf8_is_refused(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/x/\udcff/python")
    for program in PROGRAMS.values():
        with pytest.raises(Unmergeable, match="is not UTF-8"):
            plan(program, Place(account))


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_a_link_with_the_rights_and_a_copy_of_its_file(account: Path) -> None:
    kept, link = account / "dotfiles.json", account / ".claude.json"
    kept.write_text("{}")
    kept.chmod(0o640)
    link.symlink_to(kept)
    change = next(c for c in plan(PROGRAMS["claude"], Place(account)) if c.path == link)
    copy = apply(change, ".before-clawlink-1")
    assert copy is not None
    assert copy.read_text() == "{}"
    assert link.is_symlink()
    assert json.loads(kept.read_text())["mcpServers"]
    assert kept.stat().st_mode & 0o777 == 0o640


def test_a_file_that_may_not_be_written_is_left_and_named_before_anything_is_written(
    call: Run, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {
        ".claude/settings.json": "{}",
        ".claude.json": "{}",
        ".openclaw/openclaw.json": "{}",
        ".cursor/mcp.json": "{}",
    }
    for name, text in made.items():
        (account / name).parent.mkdir(exist_ok=True)
        (account / name).write_text(text)
    skills = account / ".openclaw" / "skills"
    skills.mkdir()
    real = Path(os.path.realpath(account))  # the command asks the system by this name
    locked = {real / ".claude.json", real / ".cursor", real / ".openclaw" / "skills"}
    # The system's own answer: an account of root may write each file.
    monkeypatch.setattr("clawlink.client.programs.programs.os.access", lambda path, how: Path(path) not in locked)
    for program, sentence in (
        ("claude", f"{account / '.claude.json'} is left as it is: it is read-only"),
        ("cursor", f"the folder {real / '.cursor'} is read-only"),
    ):
        done = call("connect", program, "--yes")
        assert sentence in done.failed(1).err
        assert "Connected" not in done.out
        assert {name: text.decode() for name, text in everything(account).items() if "skills" not in name} == made
        assert not list(account.glob("**/*.before-clawlink-*")), "not even a copy"
    done = call("connect", "openclaw", "--yes")
    assert f"the folder {real / '.openclaw' / 'skills'} is read-only" in done.failed(1).err
    assert "Connected. Restart its gateway" in done.out
    assert "clawlink" in (account / ".openclaw" / "openclaw.json").read_text()
    assert list(skills.iterdir()) == []


def test_a_write_that_fails_names_what_was_written_the_copies_and_the_way_back(
    call: Run, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, servers = account / ".claude" / "settings.json", account / ".claude.json"
    settings.parent.mkdir()
    for path in (settings, servers):
        path.write_text("{}")
    before, write = everything(account), private.write

    def full(path: Path, data: bytes) -> None:
        if path.name == servers.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(private, "write", full)
    done = call("connect", "claude", "--yes")
    assert done.code == 1
    assert f"{servers} could not be written: No space left on device; mend this, and run the command again" in done.err
    assert f"these files have ClawLink's entries now: {settings}" in done.err
    assert "clawlink connect claude --undo" in done.err
    assert "Not all was written." in done.out
    copies = list(account.rglob("*.before-clawlink-*"))
    assert [path.read_text() for path in copies] == ["{}"], "none of the file that is as it was"
    assert str(copies[0]) in done.out
    told = call("connect", "claude", "--yes", "--json")
    assert [file["written"] for file in told.json["files"]] == [False]
    assert [str(servers) in why for why in told.json["left"]] == [True]
    monkeypatch.setattr(private, "write", write)
    call("connect", "claude", "--undo", "--yes").ok()
    assert {name: json.loads(data) for name, data in everything(account).items()} == {name: {} for name in before}


def test_openclaw_is_not_connected_by_its_skill_alone(call: Run, account: Path) -> None:
    settings = account / ".openclaw" / "openclaw.json"
    settings.parent.mkdir()
    skill = account / ".openclaw" / "skills" / "clawlink" / "SKILL.md"
    plugin = account / ".openclaw" / "extensions" / "clawlink"
    both, one, other = "the plugin and the skill were", "the skill was", "the plugin was"
    for data, kept, written in (
        (b"{ // mine\n}", (), both),
        (b'\xef\xbb\xbf{"a": 1}', (plugin,), one),
        (b'{"mcp": {}, "mcp": {}}', (skill,), other),
        (b'{"hooks": null}', (), both),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, (), both),
    ):
        if skill not in kept:
            skill.unlink(missing_ok=True)
        if plugin not in kept:
            shutil.rmtree(plugin, ignore_errors=True)
        settings.write_bytes(data)
        done = call("connect", "openclaw", "--yes")
        assert f"{settings} is left as it is" in done.failed(1).err, data[:20]
        assert f"Only {written} written; the settings are as they were." in done.out, data[:20]
        assert "Connected" not in done.out, data[:20]
        assert settings.read_bytes() == data


@pytest.mark.skipif(os.name == "nt", reason="links need rights there, and pipes have no place")
def test_an_odd_path_stops_no_other_program(call: Run, account: Path) -> None:
    (account / ".codex" / "config.toml").mkdir(parents=True)
    (account / ".openclaw").mkdir()
    (account / ".openclaw" / "openclaw.json").symlink_to("openclaw.json")
    (account / ".gemini").mkdir()
    os.mkfifo(account / ".gemini" / "settings.json")
    (account / ".cursor").mkdir()
    (account / ".claude").mkdir()
    (account / ".claude" / "skills").write_text("mine")
    done = call("connect", "all", "--yes")
    assert done.code == 1
    for path, why in (
        (account / ".codex" / "config.toml", "it is no plain file"),
        (account / ".openclaw" / "openclaw.json", "Too many levels of symbolic links"),
        (account / ".gemini" / "settings.json", "it is no plain file"),
        (account / ".claude" / "skills" / "clawlink" / "SKILL.md", "Not a directory"),
    ):
        assert f"{path} is left as it is: {why}" in done.err, done.err
    assert "Connected: Claude Code, Cursor." in done.out
    assert (account / ".cursor" / "hooks.json").exists()
    assert not (account / ".codex" / "hooks.json").exists()
    rows = {row["program"]: row["connected"] for row in call("connect", "--json").ok().json}
    assert rows == {**dict.fromkeys(TITLES, "no"), "Claude Code": "user", "Cursor": "user"}


def test_a_file_that_its_program_writes_at_the_same_moment_is_left(account: Path) -> None:
    file = account / ".claude.json"
    file.write_text("{}")
    change = next(c for c in plan(PROGRAMS["claude"], Place(account)) if c.path == file)
    file.write_text('{"projects": {}}')
    with pytest.raises(Conflicted):
        apply(change, ".before-clawlink-1")
    assert file.read_text() == '{"projects": {}}'
    file.unlink()
    with pytest.raises(Conflicted):
        apply(change, ".before-clawlink-1")
    assert not file.exists()
