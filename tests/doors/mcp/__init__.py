"""Tests of the door for MCP."""
