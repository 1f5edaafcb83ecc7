"""The command ``clawlink mcp``."""
