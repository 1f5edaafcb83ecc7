"""The import name of a portal's functions; they themselves are a part of its door."""

from __future__ import annotations

from clawlink.doors.portal.client.functions import *  # noqa: F403
from clawlink.doors.portal.client.functions import __all__ as __all__
