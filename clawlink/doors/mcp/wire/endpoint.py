"""The address of MCP at a relay."""

from __future__ import annotations

from clawlink.protocol import headers
from clawlink.protocol.endpoint import Endpoint

MCP = Endpoint(
    "mcp",
    "POST",
    "/mcp",
    "Use the relay as MCP tools.",
    None,
    acts=True,
    agent_key=True,
    text=True,
    headers=(headers.AGENT,),
)
