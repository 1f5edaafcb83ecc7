"""Relays that another process announces on loopback, apart from whatever else is announced on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

LOOPBACK = "127.0.0.1"
# Of this process alone: nobody else's relays are heard under it. A type has 15 characters at most.
OWN_TYPE = f"_claw-{os.getpid()}._tcp.local."

_ANNOUNCER = """
import asyncio, contextlib, json, sys
from clawlink import lan
type, *relays = json.loads(sys.argv[1])
lan.SERVICE_TYPE = type

async def crafted(properties, address, port, name):
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"])
    info = ServiceInfo(
        type, f"{name}.{type}", port=port, properties=properties, parsed_addresses=[address], server=f"h{port}.local."
    )
    await (await zeroconf.async_register_service(info))
    return lan.Announcement(zeroconf, info)

async def main():
    announcements = await asyncio.gather(*(
        crafted(**relay) if "name" in relay else lan.announce(**relay, interfaces=["127.0.0.1"]) for relay in relays
    ))
    print("announced", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(announcement.close() for announcement in announcements))

asyncio.run(main())
"""


def relay(port: int, *, auth: bool = False, tls: bool = False, address: str = LOOPBACK) -> dict[str, Any]:
    """Describe an announcement that a relay would make."""
    return {"port": port, "auth": auth, "tls": tls, "address": address}


def crafted(name: str, port: int, *, address: str = LOOPBACK, **properties: str) -> dict[str, Any]:
    """Describe an announcement that no relay would make."""
    return {"name": name, "port": port, "address": address, "properties": properties}


@contextlib.contextmanager
def announced(*relays: dict[str, Any], type: str = OWN_TYPE) -> Iterator[None]:
    """Announce from a process of its own, and take it back in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCER, json.dumps([type, *relays])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "announced\n"
        yield
        process.communicate("")
