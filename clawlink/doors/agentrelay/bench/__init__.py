"""Measure AgentRelay."""
