"""The Agent Client Protocol, as its client: one turn of an agent, pure, and the lines to its process."""
