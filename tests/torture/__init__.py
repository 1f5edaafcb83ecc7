"""Kills, losses of power, and disks that fail: a relay withstands them."""
