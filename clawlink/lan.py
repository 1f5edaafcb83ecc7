"""Relays on the local network: announced and found by mDNS, as ClawLink 1.0.x does. Needs zeroconf, the extra ``lan``.

Anyone on the network can announce anything. An announcement is text of strangers (show it as such). Its address proves
nothing about the relay there. So no secret may go to a relay only because it was found here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clawlink.errors import ClawLinkError
from clawlink.loop_run import run
from clawlink.version import VERSION

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_clawlink._tcp.local."
# Long enough for a question, its repetition after a second, and the answers to both.
FIND_SECONDS = 1.5

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
# Addresses for documentation: for a socket that sends nothing, the system only chooses a route to them.
_OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
# A label of DNS has 63 bytes. Behind a name come a port and four digits, or up to 32 digits of an address.
_NAME_BYTES, _HOST_BYTES = 50, 24
# At most this many relays are asked for their address. Others are only counted: anyone can invent them.
_MOST = 64


class Found(NamedTuple):
    """A relay that answered. All but ``url`` is text of its announcer."""

    name: str
    url: str
    version: str
    hostname: str
    auth: bool


class SeveralRelays(ClawLinkError):
    """More than one relay announces itself, and none was named. ``silent`` of them did not tell where they are."""

    code = "several_relays"

    def __init__(self, message: str, found: Sequence[Found], silent: int) -> None:
        super().__init__(message, current=[relay.url for relay in found])
        self.found = list(found)
        self.silent = silent


# -- announcing --------------------------------------------------------------------------------------------------------


class Announcement:
    """A relay's announcement; it lasts until it is closed."""

    def __init__(self, zeroconf: AsyncZeroconf, info: ServiceInfo) -> None:
        self._zeroconf = zeroconf
        self._info = info

    async def close(self) -> None:
        """Take the announcement back."""
        try:
            await (await self._zeroconf.async_unregister_service(self._info))
        finally:
            await self._zeroconf.async_close()


async def announce(
    port: int, *, auth: bool, tls: bool, address: str, interfaces: list[str] | None = None
) -> Announcement:
    """Announce a relay of this machine at ``address`` (IPv4 or IPv6) and ``port``.

    It is announced on the network of that address, or on those of ``interfaces``, addresses of this machine. Raises
    OSError where the network forbids it, ImportError without zeroconf.
    """
    from zeroconf import Error, ServiceInfo

    ip = _parsed(address)
    if ip is None:
        raise OSError(f"mDNS announces addresses, and {address!r} is not an address")
    hostname = socket.gethostname().encode(errors="replace").decode()  # its bytes need not be UTF-8
    first = hostname.partition(".")[0]
    # Machines may have one name, and a relay may listen on one address of several: where it is makes the name its own,
    # as mDNS notices late, or not at all, that a name is taken.
    name = f"{_cut(first, _NAME_BYTES)}-{port}-{int(ip) & 0xFFFF:04x}"
    host = f"{_cut(first, _HOST_BYTES)}-{port}-{int(ip):x}.local."
    try:
        zeroconf = _open([address] if interfaces is None else interfaces)
        try:
            info = ServiceInfo(
                SERVICE_TYPE,
                f"{name}.{SERVICE_TYPE}",
                port=port,
                parsed_addresses=[address],
                properties={"version": VERSION, "hostname": hostname, "auth": _word(auth), "tls": _word(tls)},
                server=host,
            )
            # The first await checks that the name is free; the second waits until it has been announced.
            await (await zeroconf.async_register_service(info, allow_name_change=True))
        except BaseException:
            await zeroconf.async_close()
            raise
    except Error as error:
        raise OSError(f"mDNS does not take {name} at {address}: {error or type(error).__name__}") from error
    return Announcement(zeroconf, info)


def _cut(text: str, count: int) -> str:
    """Return as many characters as fit into a number of bytes."""
    return text.encode()[:count].decode(errors="ignore")


def _word(fact: bool) -> str:
    return "yes" if fact else "no"


def reachable_at(host: str) -> str:
    """Return the address at which other machines most likely reach a relay on ``host``. Sends nothing.

    It is the address itself; of a name, its address; of all addresses, that of the default route. Raises OSError if
    others can use none.
    """
    if host in _EVERYWHERE:
        families = {"0.0.0.0": [socket.AF_INET], "::": [socket.AF_INET6, socket.AF_INET]}.get(host, _OUTSIDE)  # noqa: S104
        heard = [address for family in families if (address := way_out(family)) is not None]
    else:
        heard = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    usable = [address for address in heard if _is_usable(address, loopback=False)]
    if not usable:
        raise OSError(f"{host or 'this machine'} has no address that other machines can use")
    return usable[0]


def addresses(host: str) -> list[str]:
    """Return the addresses at which others may reach a relay on all addresses of this machine.

    ``host`` is ``0.0.0.0``, ``::`` or empty. IPv4 comes first, except for ``::``. They come from the interfaces if
    ifaddr is installed (zeroconf needs it), else from the machine's own name.
    """
    try:
        import ifaddr
    except ImportError:
        heard = _addresses_of_own_name()
    else:
        ips = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
        heard = [ip if isinstance(ip, str) else ip[0] for ip in ips]
    usable = dict.fromkeys(address for address in heard if _is_usable(address, loopback=False))
    wanted = {"0.0.0.0": (4,), "::": (6, 4)}.get(host, (4, 6))  # noqa: S104
    return [address for version in wanted for address in usable if (":" in address) == (version == 6)]


def _addresses_of_own_name() -> list[str]:
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)]
    except OSError:
        return []


def way_out(family: socket.AddressFamily) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_OUTSIDE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


# -- finding -----------------------------------------------------------------------------------------------------------


def scan(seconds: float, *, interfaces: list[str] | None = None) -> list[Found]:
    """Listen for ``seconds`` and return the relays that answered, by name.

    ``interfaces`` are addresses of this machine; without them it listens on all. Raises OSError without a network,
    ImportError without zeroconf. In a coroutine: ``await asyncio.to_thread(scan, 3.0)``.
    """
    found, _ = run(_listen(seconds, interfaces))
    return found


def find_one(seconds: float = FIND_SECONDS, *, interfaces: list[str] | None = None) -> Found | None:
    """Return the only relay on the local network, or None. Raises SeveralRelays rather than guess; else as ``scan``.

    It listens for all of its time, because a second relay may answer last.
    """
    found, silent = run(_listen(seconds, interfaces))
    relays = list({relay.url: relay for relay in found}.values())
    if len(relays) + silent > 1:
        listed = [relay.url for relay in relays] + [f"{silent} whose address did not come"] * bool(silent)
        raise SeveralRelays(f"several relays answer on the local network: {', '.join(listed)}", relays, silent)
    return relays[0] if relays else None


async def _listen(seconds: float, interfaces: list[str] | None) -> tuple[list[Found], int]:
    """Return the relays that answered, and the number of those that told only their name."""
    from zeroconf import Error, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    asked: dict[str, asyncio.Task[AsyncServiceInfo | None]] = {}
    silent: set[str] = set()

    async def ask(name: str) -> AsyncServiceInfo | None:
        try:
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            answered = await info.async_request(zeroconf.zeroconf, max(0.0, until - loop.time()) * 1000)
        except Error:  # a name that no relay of ours has
            return None
        if not answered:
            silent.add(name)
        return info if answered else None

    def heard(*, name: str, state_change: ServiceStateChange, **_: Any) -> None:
        if state_change is ServiceStateChange.Removed or name in asked:
            return
        if len(asked) < _MOST:
            asked[name] = asyncio.create_task(ask(name))
        else:
            silent.add(name)

    zeroconf = _open(interfaces)
    async with _closing(zeroconf), AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[heard]):
        await asyncio.sleep(seconds)
        infos = await asyncio.gather(*asked.values())
    loopback = interfaces is not None and any(_is_loopback(address) for address in interfaces)
    found = [relay for info in infos if info is not None and (relay := _read(info, loopback)) is not None]
    return sorted(found), len(silent)


def _read(info: AsyncServiceInfo, loopback: bool) -> Found | None:
    """Read an announcement; None if no client could use its address."""
    from zeroconf import IPVersion

    addresses = [one for one in info.parsed_addresses(IPVersion.All) if _is_usable(one, loopback=loopback)]
    if not addresses or not info.port:
        return None
    facts = {
        key.decode(errors="replace"): (value or b"").decode(errors="replace") for key, value in info.properties.items()
    }
    address = next((one for one in addresses if ":" not in one), addresses[0])
    host = f"[{address}]" if ":" in address else address
    return Found(
        info.name.removesuffix("." + SERVICE_TYPE),
        f"{'https' if facts.get('tls') == 'yes' else 'http'}://{host}:{info.port}",
        facts.get("version", ""),
        facts.get("hostname", ""),
        facts.get("auth") == "yes",
    )


def _is_usable(address: str, *, loopback: bool) -> bool:
    """Return True if a client can go there.

    Nobody on the network has a relay on *our* loopback, so that is believed only where loopback is listened on; and a
    link-local address of IPv6 means nothing without its interface.
    """
    ip = _parsed(address)
    if ip is None or ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local):
        return False
    return loopback or not ip.is_loopback


def _is_loopback(address: str) -> bool:
    ip = _parsed(address)
    return ip is not None and ip.is_loopback


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    # An address of IPv4 in the dress of IPv6 is still that address.
    return ip.ipv4_mapped or ip if ip.version == 6 else ip


def _open(interfaces: list[str] | None) -> AsyncZeroconf:
    """Open the sockets of mDNS. Raises OSError where there is no network."""
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    try:
        if interfaces is not None:
            return AsyncZeroconf(interfaces=interfaces)
        try:
            return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
        except OSError:  # a system without IPv6
            return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except RuntimeError as error:  # no interface, or another
        raise OSError(str(error)) from error


@contextlib.asynccontextmanager
async def _closing(zeroconf: AsyncZeroconf) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await zeroconf.async_close()
