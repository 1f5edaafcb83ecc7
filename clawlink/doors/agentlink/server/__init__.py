"""The relay's side of Agent Link: connections, routes, and their rights."""
