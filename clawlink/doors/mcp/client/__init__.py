"""The client's side: the bridge from standard input and output to ``/mcp``, and the tools for files."""
