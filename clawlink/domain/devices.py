"""Names that Windows takes for devices, in every folder."""

from __future__ import annotations

import re

# Any suffix may follow, and blanks before it. The digits may be superscripts.
_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|clock\$|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])[ ]*(?:\..*)?", re.I | re.S
)


def is_device(name: str) -> bool:
    """Return True if Windows opens a device, and no file, by this name."""
    return _DEVICE.fullmatch(name) is not None
