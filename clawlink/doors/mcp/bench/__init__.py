"""Measure the door for MCP."""
