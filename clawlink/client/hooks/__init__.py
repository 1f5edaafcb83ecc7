"""The hooks of coding agents: their events, the identity of a session, and the words that a session gets.

A hook runs at each tool call of its host. So these modules load little: neither a client, nor msgspec.
"""
