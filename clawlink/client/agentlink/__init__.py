"""What ``clawlink.agentlink`` is made of: a client of the relay's Agent Link door."""
