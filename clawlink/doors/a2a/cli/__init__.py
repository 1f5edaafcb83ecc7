"""The commands of the A2A door."""
