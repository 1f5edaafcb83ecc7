"""The import name of AgentRelay's functions; they themselves are a part of its door."""

from __future__ import annotations

from clawlink.doors.agentrelay.client.functions import *  # noqa: F403
from clawlink.doors.agentrelay.client.functions import (
    DEFAULT_REGISTRY_TTL_HOURS as DEFAULT_REGISTRY_TTL_HOURS,
)
from clawlink.doors.agentrelay.client.functions import (
    DEFAULT_TTL_HOURS as DEFAULT_TTL_HOURS,
)
from clawlink.doors.agentrelay.client.functions import (
    STORAGE_ALIAS as STORAGE_ALIAS,
)
from clawlink.doors.agentrelay.client.functions import (
    __all__ as __all__,
)
from clawlink.doors.agentrelay.client.functions import (
    __getattr__ as __getattr__,
)
