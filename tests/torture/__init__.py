"""What a relay withstands: kills, losses of power, and disks that fail."""
