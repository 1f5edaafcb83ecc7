"""The relay's side of AgentRelay."""
