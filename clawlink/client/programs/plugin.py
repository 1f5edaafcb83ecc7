"""The JavaScript that plugins of ours share: it runs a hook, as programs with hooks of their own do."""

from __future__ import annotations

import json
from collections.abc import Sequence

_TEXT = """
import { spawn } from "node:child_process"

const COMMAND = %s
const FLAGS = %s
const MOST_MS = 3000 // A hook ends by itself long before.

// A hook never fails its host.
function hook(event, said) {
  return new Promise((done) => {
    const words = [...COMMAND.slice(1), "hook", event, "--host", "%s", ...FLAGS]
    const child = spawn(COMMAND[0], words, { stdio: ["pipe", "pipe", "ignore"], windowsHide: true })
    const end = (answer) => {
      clearTimeout(late)
      done(answer && typeof answer === "object" ? answer : {})
    }
    const late = setTimeout(() => {
      child.kill("SIGKILL")
      end({})
    }, MOST_MS)
    let answer = ""
    child.stdout.on("data", (piece) => (answer += piece))
    child.on("error", () => end({}))
    child.on("close", () => {
      try {
        end(JSON.parse(answer))
      } catch {
        end({})
      }
    })
    child.stdin.on("error", () => {})
    child.stdin.end(JSON.stringify(said))
  })
}
"""


def text_of(host: str, command: Sequence[str], flags: Sequence[str]) -> str:
    """Return the beginning of a plugin: the function ``hook(event, said)``, which gives an object in any case."""
    return _TEXT % (json.dumps(list(command)), json.dumps(list(flags)), host)
