"""The plugin of opencode, which has no hooks in its settings and runs the files of its folder ``plugins``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from clawlink.client.programs.merging import Unmergeable

# The first line of a file that connect made, and may remove.
MARK = "// Made by clawlink connect; to remove it: clawlink connect opencode --undo"

_TEXT = """
import { spawn } from "node:child_process"

const COMMAND = %s
const FLAGS = %s

// A hook never fails its host, and says nothing here: the session reads its mail by its tools.
function hook(event, said) {
  return new Promise((done) => {
    const words = [...COMMAND.slice(1), "hook", event, "--host", "opencode", ...FLAGS]
    const child = spawn(COMMAND[0], words, { stdio: ["pipe", "ignore", "ignore"] })
    child.on("error", done)
    child.on("close", done)
    child.stdin.on("error", () => {})
    child.stdin.end(JSON.stringify(said))
  })
}

export const ClawLink = async ({ directory, serverUrl }) => {
  const server = serverUrl ? String(serverUrl) : undefined
  const about = (id) => ({ session_id: id, cwd: directory, server })
  return {
    event: async ({ event }) => {
      const said = event.properties ?? {}
      if (event.type === "session.created" && !said.info.parentID) await hook("SessionStart", about(said.info.id))
      else if (event.type === "session.idle") await hook("Stop", about(said.sessionID))
      else if (event.type === "session.deleted") await hook("SessionEnd", about(said.info.id))
    },
    "chat.message": async (input) => {
      await hook("UserPromptSubmit", about(input.sessionID))
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
