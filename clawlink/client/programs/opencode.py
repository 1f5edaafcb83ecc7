"""The plugin of opencode, which has no hooks in its settings and runs the files of its folder ``plugins``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from clawlink.client.programs.json_text import Unmergeable

# The first line of a file that connect made, and may remove.
MARK = "// Made by clawlink connect; to remove it: clawlink connect opencode --undo"

_TEXT = """
import { spawn } from "node:child_process"

const COMMAND = %s
const FLAGS = %s

const begun = new Map() // sessions, with the names of their agents
const parents = new Map() // sessions of subagents, with those that began them

// A hook never fails its host.
function hook(event, said) {
  return new Promise((done) => {
    const words = [...COMMAND.slice(1), "hook", event, "--host", "opencode", ...FLAGS]
    const child = spawn(COMMAND[0], words, { stdio: ["pipe", "pipe", "ignore"] })
    let answer = ""
    child.stdout.on("data", (piece) => (answer += piece))
    child.on("error", () => done({}))
    child.on("close", () => {
      try {
        done(JSON.parse(answer))
      } catch {
        done({})
      }
    })
    child.stdin.on("error", () => {})
    child.stdin.end(JSON.stringify(said))
  })
}

export const ClawLink = async ({ directory, serverUrl }) => {
  const server = serverUrl ? String(serverUrl) : undefined
  const about = (id) => ({ session_id: id, cwd: directory, server })
  const own = (id) => (parents.has(id) ? own(parents.get(id)) : id)
  const begin = async (id) => {
    if (!begun.has(id)) begun.set(id, hook("SessionStart", about(id)))
    const { agent } = await begun.get(id)
    if (!agent) begun.delete(id) // the relay was away: the next event tries again
    return agent
  }
  return {
    event: async ({ event }) => {
      const said = event.properties ?? {}
      if (event.type === "session.created") {
        if (said.info.parentID) parents.set(said.info.id, said.info.parentID)
        else await begin(said.info.id)
      } else if (event.type === "session.idle") {
        if (!parents.has(said.sessionID)) await hook("Stop", about(said.sessionID))
      } else if (event.type === "session.deleted") {
        begun.delete(said.info.id)
        if (!parents.delete(said.info.id)) await hook("SessionEnd", about(said.info.id))
      }
    },
    "chat.message": async (input) => {
      if (parents.has(input.sessionID)) return
      await begin(input.sessionID)
      await hook("UserPromptSubmit", about(input.sessionID))
    },
    // All sessions share one MCP server, so each call says which session it is of.
    "tool.execute.before": async (input, output) => {
      if (!input.tool.startsWith("clawlink_")) return
      const id = own(input.sessionID)
      await begin(id)
      output.args.clawlink_session = id
    },
    "shell.env": async (input, output) => {
      const agent = input.sessionID && (await begin(own(input.sessionID)))
      if (agent) output.env.CLAWLINK_AGENT = agent
    },
  }
}
"""


def with_plugin(text: str | None, command: Sequence[str], flags: Sequence[str]) -> str:
    """Return the plugin. Raises Unmergeable if the file is not ours."""
    _require_ours(text)
    return MARK + _TEXT % (json.dumps(list(command)), json.dumps(list(flags)))


def without_plugin(text: str) -> str | None:
    """Return None for the plugin, which is removed. Raises Unmergeable if the file is not ours."""
    _require_ours(text)
    return None


def _require_ours(text: str | None) -> None:
    if text is not None and text.strip() and not text.startswith(MARK):
        raise Unmergeable("it is another plugin of that name")
