"""Tests of the A2A door."""
