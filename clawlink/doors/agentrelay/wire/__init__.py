"""AgentRelay on the wire: its line, and the requests about events."""
