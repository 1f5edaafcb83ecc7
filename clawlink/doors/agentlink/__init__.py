"""Agent Link: its unmodified client, its signed successor and its HTTP routes, on the relay's own verbs."""
