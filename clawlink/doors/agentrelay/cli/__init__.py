"""The verb of AgentRelay."""
