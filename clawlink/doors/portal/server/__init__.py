"""The portal of a relay: consent, messages, keys, and the websocket of the owner's agent."""
