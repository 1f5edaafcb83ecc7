"""The relay of a command without a named relay: that of this machine, or else the only one on the local network.

Anyone on the network can announce a relay. So a found relay is used only if it is the only one, the command names it
first, and no token goes to it. With a token, ``--relay`` has to confirm that it is the right one.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from clawlink.cli.exits import UsageError
from clawlink.cli.render import quoted
from clawlink.config import DEFAULT_HOST, DEFAULT_PORT, from_environment
from clawlink.errors import NotAuthenticated

if TYPE_CHECKING:
    from clawlink.cli.context import Context
    from clawlink.cli.settings import Where
    from clawlink.lan import SeveralRelays

# On loopback a listener answers at once. The command does not wait for a system that drops refused connections.
_HERE_SECONDS = 0.25
_OFF = {"0", "false", "no", "off"}
_NAME_WIDTH = 40
_MOST_LISTED = 8


def look_around(ctx: Context, where: Where) -> Where:
    """Return where to go in place of the default relay, if that is not there and one other is.

    Raises SeveralRelays rather than guess, UsageError rather than give away a token, and NotAuthenticated for a relay
    that wants one.
    """
    if _somebody_here() or not _wanted(ctx.environ):
        return where
    from clawlink import lan

    try:
        found = lan.find_one()
    except lan.SeveralRelays as several:
        raise _which(several) from None
    except (ImportError, OSError):  # no zeroconf, or no network: then there is the default only
        return where
    if found is None:
        ctx.nobody_nearby = True
        return where
    shown = f"{found.url} ({quoted(found.name, _NAME_WIDTH)})"
    if where.token is not None:
        raise UsageError(
            f"a relay announces itself at {shown}, but a token goes to none that was merely found; "
            f"if that is yours, name it: --relay {found.url}"
        )
    if found.auth:
        raise NotAuthenticated(
            f"the relay that announces itself at {shown} asks for a token; "
            f"if that is yours, give both: --relay {found.url} --token TOKEN"
        )
    ctx.warn(f"using the relay at {shown}, the only one found on the local network; --relay URL names another")
    ctx.err.flush()
    return where._replace(relay=found.url, assumed=False)


def _somebody_here() -> bool:
    try:
        socket.create_connection((DEFAULT_HOST, DEFAULT_PORT), timeout=_HERE_SECONDS).close()
    except OSError:
        return False
    return True


def _wanted(environ: Mapping[str, str]) -> bool:
    return (from_environment("--no-mdns", environ) or "no").lower() in _OFF


def _which(several: SeveralRelays) -> SeveralRelays:
    """Return the error with the relays' announced names and the command to type."""
    from clawlink.lan import SeveralRelays

    listed = [f"{quoted(relay.name, _NAME_WIDTH)} at {relay.url}" for relay in several.found[:_MOST_LISTED]]
    if len(several.found) > _MOST_LISTED:
        listed.append(f"{len(several.found) - _MOST_LISTED} more")
    if several.silent:
        listed.append(f"{several.silent} whose address did not come")
    sentence = "several relays answer on the local network: {}; say which with --relay URL or CLAWLINK_RELAY"
    return SeveralRelays(sentence.format(", ".join(listed)), several.found, several.silent)
