"""Measurements of the portal."""
