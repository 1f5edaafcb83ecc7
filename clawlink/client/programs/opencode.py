"""The plugin of opencode, which has no hooks in its settings and runs the files of its folder ``plugins``."""

from __future__ import annotations

from collections.abc import Sequence

from clawlink.client.programs import plugin
from clawlink.client.programs.json_text import Unmergeable

# The first line of a file that connect made, and may remove.
MARK = "// Made by clawlink connect; to remove it: clawlink connect opencode --undo"

_TEXT = """
const begun = new Map() // sessions, with the names of their agents
const parents = new Map() // sessions of subagents, with those that began them
const greetings = new Map() // the first words for a session, until a message takes them

export const ClawLink = async ({ client, directory, serverUrl }) => {
  const server = serverUrl ? String(serverUrl) : undefined
  const about = (id) => ({ session_id: id, cwd: directory, server })
  const own = (id) => (parents.has(id) ? own(parents.get(id)) : id)
  const start = async (id) => {
    const { agent, text } = await hook("SessionStart", about(id))
    if (text) greetings.set(id, text)
    return agent
  }
  const begin = async (id) => {
    if (!begun.has(id)) begun.set(id, start(id))
    const agent = await begun.get(id)
    if (!agent) begun.delete(id) // the relay was away: the next event tries again
    return agent
  }
  // Unread work goes on in the same session, with its own agent of opencode: a plan stays a plan.
  const goOn = async (id, text) => {
    try {
      const { data } = await client.session.get({ path: { id } })
      const model = data?.model?.id && { providerID: data.model.providerID, modelID: data.model.id }
      const body = { parts: [{ type: "text", text }] }
      if (data?.agent) body.agent = data.agent
      if (model) body.model = model
      await client.session.promptAsync({ path: { id }, body })
    } catch {
      // the session is gone
    }
  }
  return {
    event: async ({ event }) => {
      const said = event.properties ?? {}
      if (event.type === "session.created") {
        if (said.info.parentID) parents.set(said.info.id, said.info.parentID)
        else await begin(said.info.id)
      } else if (event.type === "session.idle") {
        if (parents.has(said.sessionID)) return
        const { go_on } = await hook("Stop", about(said.sessionID))
        if (go_on) await goOn(said.sessionID, go_on)
      } else if (event.type === "session.deleted") {
        begun.delete(said.info.id)
        greetings.delete(said.info.id)
        if (!parents.delete(said.info.id)) await hook("SessionEnd", about(said.info.id))
      }
    },
    "chat.message": async (input, output) => {
      const id = input.sessionID
      if (parents.has(id)) return
      await begin(id)
      const { text } = await hook("UserPromptSubmit", about(id))
      const last = output?.parts?.at(-1)
      const words = [greetings.get(id), text].filter(Boolean).join("\\n")
      greetings.delete(id)
      if (!words) return
      if (!last) return void greetings.set(id, words)
      const { sessionID, messageID } = last
      output.parts.push({ id: last.id + "c", sessionID, messageID, type: "text", text: words, synthetic: true })
    },
    // All sessions share one MCP server, so each call says which session it is of.
    "tool.execute.before": async (input, output) => {
      if (!input.tool.startsWith("clawlink_")) return
      const id = own(input.sessionID)
      await begin(id)
      output.args.clawlink_session = id
    },
    // The tool of an MCP server has a list of contents, any other a text.
    "tool.execute.after": async (input, output) => {
      if (parents.has(input.sessionID) || !output) return
      const listed = Array.isArray(output.content)
      if (!listed && typeof output.output !== "string") return
      const { text } = await hook("PostToolUse", about(input.sessionID))
      if (!text) return
      if (listed) output.content.push({ type: "text", text })
      else output.output += "\\n\\n" + text
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
    return MARK + plugin.text_of("opencode", command, flags) + _TEXT


def without_plugin(text: str) -> str | None:
    """Return None for the plugin, which is removed. Raises Unmergeable if the file is not ours."""
    _require_ours(text)
    return None


def _require_ours(text: str | None) -> None:
    if text is not None and text.strip() and not text.startswith(MARK):
        raise Unmergeable("it is another plugin of that name")
