"""The parts of ``clawlink.agentlink``, a client of the relay's Agent Link door."""
