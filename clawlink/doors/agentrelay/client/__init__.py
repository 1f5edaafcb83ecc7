"""AgentRelay for those who use it: events kept in a local folder, or on a relay."""
