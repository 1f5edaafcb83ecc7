"""OpenClaw: the hooks of its gateway, by which its main session is woken, and a plugin that tells it of mail."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence

from clawlink.client.programs import json_text, plugin
from clawlink.version import VERSION

# A token that connect made, and may remove.
TOKEN = re.compile(r"clawlink-[0-9a-f]{48}")


NAME = "clawlink"
# The folder of the plugin, below that of OpenClaw.
FOLDER = f"extensions/{NAME}"
_PLUGIN = """
const AGAIN_MS = 5000 // While the relay is away, it is asked this often.
const MAIN = /^agent:[^:]+:main$/ // Other sessions may have other people in them.

let id // of the one agent of this gateway
let asked = -Infinity

async function words() {
  if (id) return (await hook("PostToolUse", { session_id: id })).text
  if (Date.now() - asked < AGAIN_MS) return undefined
  asked = Date.now()
  const { session_id, text } = await hook("SessionStart", {})
  id = session_id
  return text
}

export default {
  id: "clawlink",
  name: "ClawLink",
  description: "Tells the main session of mail from other agents, after a tool.",
  register(api) {
    const add = async (event, context) => {
      try {
        if (!MAIN.test(context?.sessionKey ?? "") || !Array.isArray(event.result?.content)) return undefined
        const text = await words()
        if (!text) return undefined
        return { result: { ...event.result, content: [...event.result.content, { type: "text", text }] } }
      } catch {
        return undefined
      }
    }
    api.registerAgentToolResultMiddleware?.(add, { runtimes: ["openclaw", "codex"] })
  },
}
"""


def package(command: Sequence[str], flags: Sequence[str]) -> dict[str, bytes]:
    """Return the files of the plugin, by name."""
    manifest = {
        "id": NAME,
        "name": "ClawLink",
        "description": "Tells the main session of mail from other agents, after a tool.",
        "activation": {"onStartup": True},
        "contracts": {"agentToolResultMiddleware": ["openclaw", "codex"]},
        "configSchema": {"type": "object", "additionalProperties": False},
    }
    facts = {
        "name": "clawlink-openclaw",
        "version": VERSION,
        "private": True,
        "type": "module",
        "openclaw": {"extensions": ["./index.js"]},
    }
    return {
        "index.js": (plugin.text_of("openclaw", command, flags).lstrip() + _PLUGIN).encode(),
        "openclaw.plugin.json": (json.dumps(manifest, indent=2) + "\n").encode(),
        "package.json": (json.dumps(facts, indent=2) + "\n").encode(),
    }


def with_gateway(text: str | None) -> str:
    """Turn the hooks on, and the plugin. What is there is the person's own choice, and stays.

    Raises Unmergeable if ``hooks`` or ``plugins`` have another form.
    """
    settings = json_text.read(text, {})
    if "hooks" not in settings:
        settings["hooks"] = {"enabled": True, "token": f"clawlink-{secrets.token_hex(24)}"}
    elif not isinstance(settings["hooks"], dict):
        raise json_text.Unmergeable("its hooks are no object")
    plugins = json_text.within(settings, "plugins")
    json_text.within(json_text.within(plugins, "entries"), NAME).setdefault("enabled", True)
    allowed = plugins.get("allow", [NAME])
    if not isinstance(allowed, list):
        raise json_text.Unmergeable("plugins.allow is no list")
    if NAME not in allowed:
        plugins["allow"] = [*allowed, NAME]
    return json_text.written(settings, text)


def without_gateway(text: str) -> str | None:
    """Take hooks and plugin out if they are as connect made them. Returns None if that leaves nothing."""
    settings = json_text.read(text, {})
    before = json_text.read(text, {})
    hooks = settings.get("hooks")
    made = hooks if isinstance(hooks, dict) and set(hooks) == {"enabled", "token"} else {}
    if made.get("enabled") is True and TOKEN.fullmatch(str(made["token"])) is not None:
        del settings["hooks"]
    _without_plugin(settings)
    if settings == before:
        return text
    return json_text.written(settings, text) if settings else None


def _without_plugin(settings: dict[str, object]) -> None:
    plugins = settings.get("plugins")
    entries = plugins.get("entries") if isinstance(plugins, dict) else None
    if not isinstance(plugins, dict) or not isinstance(entries, dict) or entries.get(NAME) != {"enabled": True}:
        return
    del entries[NAME]
    allowed = plugins.get("allow")
    if isinstance(allowed, list) and NAME in allowed:
        plugins["allow"] = [one for one in allowed if one != NAME]
    if not entries:
        del plugins["entries"]
    if not plugins:
        del settings["plugins"]
