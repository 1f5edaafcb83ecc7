"""A stand-in for Claude Code: a program that runs the hooks and the MCP server of its settings, as they are documented.

It rests on https://code.claude.com/docs/en/hooks: a hook is a shell command in ``~/.claude/settings.json`` that gets
JSON with ``session_id``, ``cwd`` and ``hook_event_name`` on standard input. Its ``additionalContext`` goes to the
model, and a Stop hook with ``{"decision": "block", "reason"}`` has the model go on. ``asyncRewake`` is from the
program's own list of fields: such a hook runs on in the background, and exit code 2 wakes the idle session with its
standard error. Claude Code 2.1.197 was seen to start it; the wake was not run.

Its model is simple. Woken, it reads its inbox, and completes each task by its text in capitals. A line of standard
input, ``{"tool": NAME, "arguments": {...}}``, is a turn with that tool. Each thing that happens is a line of output.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Session:
    """A session at its prompt: ``events`` are lines of the person, and the words that wake it."""

    def __init__(self, id: str, folder: str) -> None:
        self._said = {"session_id": id, "cwd": folder}
        self._hooks = json.loads((Path.home() / ".claude" / "settings.json").read_text())["hooks"]
        server = json.loads((Path.home() / ".claude.json").read_text())["mcpServers"]["clawlink"]
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        context = self.hooks("SessionStart")
        self._server = subprocess.Popen(
            [server["command"], *server["args"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._number = 0
        say(begun=context)

    def hooks(self, event: str) -> str:
        """Run the hooks of an event, and return what they add for the model."""
        given = json.dumps({**self._said, "hook_event_name": event}).encode()
        added = ""
        for entry in self._hooks.get(event, ()):
            for hook in entry["hooks"]:
                if hook.get("asyncRewake"):
                    threading.Thread(target=self._in_background, args=(hook["command"], given), daemon=True).start()
                    continue
                done = subprocess.run(hook["command"], shell=True, input=given, stdout=subprocess.PIPE, check=False)
                if done.returncode == 0 and done.stdout.strip():
                    answer = json.loads(done.stdout)
                    added += answer.get("hookSpecificOutput", {}).get("additionalContext", "") + answer.get(
                        "reason", ""
                    )
        return added

    def _in_background(self, command: str, given: bytes) -> None:
        done = subprocess.run(command, shell=True, input=given, capture_output=True, check=False)
        if done.returncode == 2:
            self.events.put({"woken": done.stderr.decode(), "at": time.time()})

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool, and run the hooks behind it."""
        self._number += 1
        params = {"name": name, "arguments": arguments}
        ask = {"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(ask) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())["result"]["content"][0]["text"]
        self.hooks("PostToolUse")
        return json.loads(answer)

    def turn(self, event: dict[str, Any]) -> None:
        """Do what the model does with a line of the person, or once it is woken."""
        if "tool" in event:
            self.hooks("UserPromptSubmit")
            say(result=self.call(event["tool"], event["arguments"]))
        else:
            say(**event)
            self._read()
        while reason := self.hooks("Stop"):
            say(goes_on=reason)
            self._read()
        say(idle=True)

    def _read(self) -> None:
        receipts: list[str] = []
        while (inbox := self.call("relay_inbox", {"receipts": receipts}))["messages"]:
            receipts = [message["receipt"] for message in inbox["messages"]]
            for message in inbox["messages"]:
                say(read=message["message_id"])
                if message["type"] == "task_delegation":
                    text = json.dumps(message).upper()
                    done = {"task_id": message["message_id"], "status": "completed", "text": text[:2000]}
                    say(reported=self.call("relay_report", done))

    def end(self) -> None:
        """End as at ``/exit``."""
        self.hooks("SessionEnd")
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


def say(**said: Any) -> None:
    """Print a line of what happens."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run a session until its input ends."""
    session = Session(sys.argv[1], sys.argv[2])

    def read() -> None:
        for line in sys.stdin:
            session.events.put(json.loads(line))
        session.events.put({"end": True})

    threading.Thread(target=read, daemon=True).start()
    while not (event := session.events.get()).get("end"):
        session.turn(event)
    session.end()


if __name__ == "__main__":
    main()
