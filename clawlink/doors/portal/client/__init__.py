"""The client of a portal."""
