"""The import name of Agent Link's client; the client itself is a part of its door."""

from __future__ import annotations

from clawlink.doors.agentlink.client.link import (
    CONFIG_NAME,
    AgentLink,
    Message,
    Pending,
    Sent,
    default_config,
)

__all__ = ["CONFIG_NAME", "AgentLink", "Message", "Pending", "Sent", "default_config"]
