"""Measure A2A."""
