"""The endpoints by which the operator of a relay acts; ``paths`` lists them with all others."""

from __future__ import annotations

from clawlink.protocol import operating
from clawlink.protocol.endpoint import Endpoint

STOP_ALL = Endpoint(
    "stop_all",
    "POST",
    "/admin/stop",
    "Stop all new work and all claims, or let them go on, as the operator.",
    operating.Standing,
    body=operating.StopAll,
    admin=True,
    keyless=True,
    use="stops.switch",
    audited="status",
)
OPERATOR_ENDPOINTS: tuple[Endpoint, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Endpoint)
)
