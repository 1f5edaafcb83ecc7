"""The client side of AgentRelay: events kept in a local folder, or on a relay."""
