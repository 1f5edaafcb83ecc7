"""The import name of AgentRelay's functions; they themselves are a part of its door."""

from __future__ import annotations

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
    AgentRelayTool,
    agentrelay_cmp,
    agentrelay_receive,
    agentrelay_send,
    agentrelay_update_file,
    agentrelay_verify,
    build_csv,
    cleanup_stale_events,
    ensure_dirs,
    generate_secret,
    get_event_file,
    get_event_ttl_hours,
    get_file_alias_path,
    get_registry_event,
    load_registry,
    log_transaction,
    normalize_relay_message,
    parse_csv,
    parse_iso_datetime,
    read_event_file,
    resolve_alias,
    save_registry,
    upsert_registry_event,
)
from clawlink.doors.agentrelay.client.functions import (
    __getattr__ as __getattr__,
)

__all__ = [
    "AgentRelayTool",
    "agentrelay_cmp",
    "agentrelay_receive",
    "agentrelay_send",
    "agentrelay_update_file",
    "agentrelay_verify",
    "build_csv",
    "cleanup_stale_events",
    "ensure_dirs",
    "generate_secret",
    "get_event_file",
    "get_event_ttl_hours",
    "get_file_alias_path",
    "get_registry_event",
    "load_registry",
    "log_transaction",
    "normalize_relay_message",
    "parse_csv",
    "parse_iso_datetime",
    "read_event_file",
    "resolve_alias",
    "save_registry",
    "upsert_registry_event",
]
