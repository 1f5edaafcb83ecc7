"""Another name of ``clawlink.client.files.safe_paths``, as programs import it."""

from clawlink.client.files.safe_paths import link_within, parts_within, safe_name

__all__ = ["link_within", "parts_within", "safe_name"]
