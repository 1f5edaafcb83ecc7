"""The commands of a portal."""
