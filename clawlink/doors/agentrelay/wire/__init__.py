"""AgentRelay on the wire: its line, and what the relay is asked about events."""
