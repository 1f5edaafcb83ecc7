"""Measures a relay, beside the floor that a bare aiohttp application sets in the same run."""
