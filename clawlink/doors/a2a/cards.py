"""Agent cards, and the catalog that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from clawlink.doors.a2a.wire import v0_3
from clawlink.doors.a2a.wire.routing import PROTOCOL_VERSION
from clawlink.version import VERSION

Json = dict[str, Any]

CARD_PATH = "/.well-known/agent-card.json"
CATALOG_PATH = "/.well-known/ai-catalog.json"
KEYS_PATH = "/.well-known/jwks.json"
AGENTS, POOLS, RELAY = "/a2a/", "/a2a-pools/", "/a2a-relay"
WAITING = "urn:clawlink:store-and-forward"
"""The extension by which a card says that messages wait while the agent is away."""
PRESENCE = "urn:clawlink:presence"
"""The extension by which an extended card says when the agent was last seen."""
_MODES = ["text/plain", "application/json", "application/octet-stream"]
_CATALOG_VERSION = "0.9"
_CARD_TYPE = "application/a2a-agent-card+json"


def path_of(agent_id: str) -> str:
    """Return the path of an agent."""
    return AGENTS + quote(agent_id, safe="")


def pool_path(capability: str) -> str:
    """Return the path of a pool."""
    return POOLS + quote(capability, safe="")


def card(
    *,
    url: str,
    name: str,
    description: str,
    skills: Sequence[Json],
    bearer: bool,
    extensions: Sequence[Json] = (),
    tasks: bool = True,
) -> Json:
    """Return the card of an agent at ``url``. With ``bearer`` it asks for a token; without ``tasks`` it has none."""
    made: Json = {
        "name": name,
        "description": description,
        "version": VERSION,
        "supportedInterfaces": [
            {"url": url, "protocolBinding": binding, "protocolVersion": PROTOCOL_VERSION}
            for binding in ("JSONRPC", "HTTP+JSON")
        ]
        + [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": v0_3.VERSION}],
        "capabilities": {"streaming": True, "pushNotifications": tasks, "extendedAgentCard": tasks},
        "defaultInputModes": _MODES,
        "defaultOutputModes": _MODES,
        "skills": list(skills),
    }
    if extensions:
        made["capabilities"]["extensions"] = list(extensions)
    if bearer:
        made["securitySchemes"] = {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}}
        made["securityRequirements"] = [{"schemes": {"bearer": {"list": []}}}]
    return made


def skill(id: str, description: str, tags: Sequence[str] = ()) -> Json:
    """Return a skill."""
    return {"id": id, "name": id, "description": description, "tags": list(tags) or [id]}


def agent_card(
    url: str, name: str, description: str, capabilities: Sequence[str], *, bearer: bool, waits: float, also: Json | None
) -> Json:
    """Return the card of an agent. ``waits`` is for how many seconds a message waits for it."""
    skills = [skill(one, f"Does work that asks for {one}.") for one in capabilities]
    return card(
        url=url,
        name=name,
        description=description or f"{name}, an agent behind a ClawLink relay.",
        skills=skills or [skill("tasks", "Takes any task.")],
        bearer=bearer,
        extensions=[_waiting(waits), *([] if also is None else [also])],
    )


def pool_card(url: str, capability: str, *, bearer: bool, waits: float, also: Json | None) -> Json:
    """Return the card of a pool: whichever agent has the capability and claims the task first."""
    return card(
        url=url,
        name=capability,
        description=f"Any agent behind this ClawLink relay that has the capability {capability}.",
        skills=[skill(capability, f"Does work that asks for {capability}.")],
        bearer=bearer,
        extensions=[_waiting(waits), *([] if also is None else [also])],
    )


def relay_card(url: str, *, bearer: bool) -> Json:
    """Return the card of the relay itself, which names no agent."""
    return card(
        url=url,
        name="ClawLink relay",
        description="A relay with agents behind it. Any message is answered with the list of those agents.",
        skills=[skill("list-agents", "Lists the agents behind this relay, with the addresses of their cards.")],
        bearer=bearer,
        tasks=False,
    )


def _waiting(seconds: float) -> Json:
    return {
        "uri": WAITING,
        "description": "Messages wait in the agent's mailbox while it is away.",
        "required": False,
        "params": {"messageTtlSeconds": seconds},
    }


def presence(status: str, last_seen: str) -> Json:
    """Return the extension that says when an agent was last seen."""
    return {
        "uri": PRESENCE,
        "description": "When the agent was last seen.",
        "required": False,
        "params": {"status": status, "lastSeen": last_seen},
    }


def online(count: int) -> Json:
    """Return the extension that says how many agents of a pool are online."""
    return {
        "uri": PRESENCE,
        "description": "How many agents of the pool are online.",
        "required": False,
        "params": {"online": count},
    }


def catalog(base: str, listed: Iterable[tuple[str, str, Sequence[str]]]) -> Json:
    """Return the catalog of the relay. Each entry has a path, an id that does not change, and tags."""
    host = urlsplit(base).hostname or "localhost"
    entries = [
        {
            "identifier": f"urn:air:{host}:a2a:{id}",
            "type": _CARD_TYPE,
            "url": base + path + CARD_PATH if path else base + CARD_PATH,
            **({"tags": list(tags)} if tags else {}),
        }
        for path, id, tags in listed
    ]
    return {"specVersion": _CATALOG_VERSION, "host": {"displayName": "ClawLink relay"}, "entries": entries}
