"""The relay's side: ``/mcp``, and the use case behind each tool."""
