"""Other protocols in front of the same relay, one folder each."""
