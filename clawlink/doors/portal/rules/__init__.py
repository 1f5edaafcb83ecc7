"""The rules of the portal: pure functions, without I/O, clock and randomness."""
