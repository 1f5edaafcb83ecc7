"""A client as ClawLink 1.0.2 had it: what it sends, what it reads, and its command line.

    python -m tests.legacy --relay URL [--token T] register --name Ann

This client has no agent key, no lease and no receipt, and draws a new id at each register. It fails on each status that
is no success, as ``raise_for_status`` does. Its identity is one file, and ``poll`` prints no message ids.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from tests.waiting import PATIENCE


class Old:
    """An agent of a client of 1.0.x."""

    def __init__(self, url: str, token: str | None = None, agent_id: str | None = None) -> None:
        self.url = url
        self.agent_id = agent_id or uuid.uuid4().hex[:12]
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        """Ask, and fail on a refusal."""
        reply = requests.get(self.url + path, headers=self.headers, timeout=PATIENCE)
        reply.raise_for_status()
        return reply.json()

    def post(self, path: str, fields: dict[str, Any]) -> Any:
        """Send, and fail on a refusal."""
        reply = requests.post(self.url + path, json=fields, headers=self.headers, timeout=PATIENCE)
        reply.raise_for_status()
        return reply.json()

    def register(self, name: str, capabilities: list[str] | None = None) -> Any:
        return self.post(
            "/register",
            {"agent_id": self.agent_id, "name": name, "capabilities": capabilities or [], "description": ""},
        )

    def delegate(self, to: str, task: Any, **more: Any) -> Any:
        return self.post("/delegate", {"from_agent": self.agent_id, "to_agent": to, "task": task, **more})

    def respond(self, to: str, message_id: str | None, result: Any, status: str = "completed") -> Any:
        fields = {"from_agent": self.agent_id, "to_agent": to, "result": result, "status": status}
        return self.post("/respond", fields if message_id is None else {**fields, "message_id": message_id})

    def broadcast(self, content: Any, **more: Any) -> Any:
        return self.post("/broadcast", {"from_agent": self.agent_id, "content": content, **more})

    def put_file(self, key: str, content: str) -> Any:
        return self.post("/files", {"file_key": key, "content": content, "agent_id": self.agent_id})

    def poll(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.get(f"/poll/{quote(self.agent_id, safe='')}")["messages"]
        return messages


def main() -> int:
    """Run the command line of 1.0.2."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--relay", required=True)
    parser.add_argument("--token", default=os.environ.get("CLAWLINK_TOKEN"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("register")
    verb.add_argument("--name", required=True)
    verb.add_argument("--caps", default="")
    verb = verbs.add_parser("delegate")
    for flag in ("--to", "--task"):
        verb.add_argument(flag, required=True)
    verb.add_argument("--context", type=json.loads, default={})
    verb.add_argument("--priority", default="normal")
    verb = verbs.add_parser("respond")
    for flag in ("--to", "--msg-id", "--result"):
        verb.add_argument(flag, required=True)
    verb.add_argument("--status", default="completed")
    verb = verbs.add_parser("broadcast")
    verb.add_argument("--content", required=True)
    verb = verbs.add_parser("file-put")
    for flag in ("--key", "--file"):
        verb.add_argument(flag, required=True)
    for name in ("poll", "discover", "info"):
        verbs.add_parser(name)
    args = parser.parse_args()
    identity = Path.home() / ".clawlink_agent"
    old = Old(args.relay, args.token, identity.read_text() if args.verb != "register" and identity.exists() else None)
    if args.verb == "register":
        identity.write_text(old.register(args.name, [c for c in args.caps.split(",") if c])["agent"]["agent_id"])
        print(f"registered {args.name}")
    elif args.verb == "delegate":
        reply = old.delegate(args.to, args.task, context=args.context, priority=args.priority)
        print(f"delegated ({reply['delivery']})")
    elif args.verb == "respond":
        print(f"response sent ({old.respond(args.to, args.msg_id, args.result, args.status)['delivery']})")
    elif args.verb == "broadcast":
        print(f"broadcast to {old.broadcast(args.content)['recipients']}")
    elif args.verb == "file-put":
        print(f"saved v{old.put_file(args.key, Path(args.file).read_text())['version']}")
    elif args.verb == "poll":
        for m in old.poll():
            print(
                f"[{m['type']}] from {m.get('from_agent', '?')}: {m.get('task') or m.get('result') or m.get('content')}"
            )
    elif args.verb == "discover":
        for agent in old.get("/discover")["agents"]:
            print(f"{agent['agent_id']} {agent['name']} {agent['status']} {agent['last_heartbeat']:.0f}")
    else:
        info = old.get("/")
        print("\n".join([f"{info['service']} {info['version']}", *(f"{k}: {v}" for k, v in info["endpoints"].items())]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
