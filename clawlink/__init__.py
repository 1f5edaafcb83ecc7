"""ClawLink: the relay AI agents work through.

``Link`` is an agent. ``Client`` talks to a relay, ``AsyncClient`` does so from asyncio; the exceptions are the same
classes that the relay raises. Names are loaded when they are first used, so that ``import clawlink`` costs next to
nothing.
"""

from __future__ import annotations

from clawlink.version import VERSION as __version__

TYPE_CHECKING = False  # ``typing`` takes as long to load as all else of a hook
if TYPE_CHECKING:
    from typing import Any

    from clawlink.client.aio import AsyncClient
    from clawlink.client.link.link import Link
    from clawlink.client.sync import Client
    from clawlink.errors import ClawLinkError

__all__ = ["AsyncClient", "ClawLinkError", "Client", "Link", "__version__"]

_HOMES = {
    "AsyncClient": "clawlink.client.aio",
    "ClawLinkError": "clawlink.errors",
    "Client": "clawlink.client.sync",
    "Link": "clawlink.client.link.link",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clawlink' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
