"""Folders of events, on a clock that only the test moves."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clawlink.doors.agentrelay.client.folder import Folder


class Desk:
    """A folder, what it had to say, and its files as another program sees them."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.said: list[str] = []
        self.now = datetime(2026, 5, 13, 6, 51).timestamp()
        self.folder = self.another()

    def another(self) -> Folder:
        """Return the folder as another process opens it."""
        return Folder(self.data, tell=self.said.append, clock=lambda: self.now)

    def send(self, id: str, **content: Any) -> dict[str, Any]:
        """Send an event from ``a`` to ``b``."""
        return self.folder.send("b", "REQ", id, {"sender_agent": "a", **content})

    def receive(self, id: str) -> dict[str, Any]:
        """Receive an event by its line."""
        return self.folder.receive(f"AgentRelay: REQ,{id},s/{id}.json,,")

    @property
    def events(self) -> dict[str, Any]:
        """The events of the registry."""
        found: dict[str, Any] = json.loads(self.folder.registry.read_text("utf-8"))["events"]
        return found

    def write_events(self, events: dict[str, Any]) -> None:
        """Write the registry as the original does."""
        self.folder.registry.write_text(json.dumps({"events": events}, ensure_ascii=False, indent=2), "utf-8")

    def file(self, id: str) -> Any:
        """Return what stands in an event's file."""
        return json.loads(self.folder.file_of(id).read_text("utf-8"))

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        return list(self.folder.transactions.read())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return an empty folder."""
    return Desk(tmp_path)
