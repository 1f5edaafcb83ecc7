"""Several relays over one Valkey or Redis server: ``--store redis://...``."""
