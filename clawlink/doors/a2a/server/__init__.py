"""The relay's side of the A2A door."""
