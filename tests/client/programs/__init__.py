"""Tests of the settings of coding agents."""
