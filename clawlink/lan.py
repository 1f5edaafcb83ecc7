"""Finding relays on the local network by mDNS, as ClawLink 1.0.x does. Needs zeroconf, the extra ``clawlink[lan]``."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

from zeroconf import ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from clawlink.version import VERSION

SERVICE_TYPE = "_clawlink._tcp.local."


class Found(NamedTuple):
    """A relay that answered."""

    name: str
    url: str
    version: str
    hostname: str
    auth: bool


class Announcement:
    """A relay's announcement; it lasts until it is closed."""

    def __init__(self, zeroconf: AsyncZeroconf, info: ServiceInfo) -> None:
        self._zeroconf = zeroconf
        self._info = info

    async def close(self) -> None:
        """Take the announcement back."""
        await (await self._zeroconf.async_unregister_service(self._info))
        await self._zeroconf.async_close()


async def announce(port: int, *, auth: bool, tls: bool, address: str) -> Announcement:
    """Announce a relay of this machine at ``address`` and ``port``. Raises OSError where the network forbids it."""
    hostname = socket.gethostname()
    info = ServiceInfo(
        SERVICE_TYPE,
        f"{hostname}-{port}.{SERVICE_TYPE}",
        port=port,
        addresses=[socket.inet_aton(address)],
        properties={"version": VERSION, "hostname": hostname, "auth": _word(auth), "tls": _word(tls)},
        server=f"{hostname.split('.')[0]}.local.",
    )
    zeroconf = AsyncZeroconf(interfaces=[address])
    # The first await checks that the name is free; the second waits until it has been announced.
    await (await zeroconf.async_register_service(info, allow_name_change=True))
    return Announcement(zeroconf, info)


def _word(fact: bool) -> str:
    return "yes" if fact else "no"


class _Collector(ServiceListener):
    """Keeps every relay that answers."""

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name, timeout=2000)
        if info is not None and info.port is not None:
            relay = _read(info, name)
            if relay is not None:
                self.found[name] = relay

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.found.pop(name, None)


def _read(info: ServiceInfo, name: str) -> Found | None:
    addresses = info.parsed_addresses()
    if not addresses:
        return None
    facts = {
        key.decode(errors="replace"): (value or b"").decode(errors="replace") for key, value in info.properties.items()
    }
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    return Found(
        name.removesuffix("." + SERVICE_TYPE),
        f"{'https' if facts.get('tls') == 'yes' else 'http'}://{host}:{info.port}",
        facts.get("version", ""),
        facts.get("hostname", ""),
        facts.get("auth") == "yes",
    )


def scan(seconds: float, *, interfaces: list[str] | None = None) -> list[Found]:
    """Listen for ``seconds`` and return the relays that answered, by name. Raises OSError without a network."""
    collector = _Collector()
    zeroconf = Zeroconf() if interfaces is None else Zeroconf(interfaces=interfaces)
    try:
        browser = ServiceBrowser(zeroconf, SERVICE_TYPE, collector)
        time.sleep(seconds)
        browser.cancel()
    finally:
        zeroconf.close()
    return sorted(collector.found.values())
