"""The lines that a relay prints as it starts: its address, the command that joins it, and the dangers."""

from __future__ import annotations

import os
import shlex
import socket
import ssl

from clawlink.config import TOKEN, ServerConfig
from clawlink.doors.registry import doors, settings_of
from clawlink.version import VERSION

EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104
"""The hosts that stand for all addresses of a machine."""


def url_of(config: ServerConfig, host: str, port: int) -> str:
    """Return the address of a relay at a host of this machine."""
    return f"{config.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _addresses_shown(host: str) -> list[str]:
    """Return a relay's addresses on ``host``: that of the default route; without one, all of the machine's."""
    from clawlink.lan import addresses, reachable_at

    if host not in EVERYWHERE:
        return [host]
    try:
        return [reachable_at(host)]
    except OSError:
        return addresses(host) or [socket.gethostname()]


def banner(config: ServerConfig, port: int) -> list[str]:
    """Return the operator's lines: the relay's address, and the exact command that joins it from another machine."""
    url, *others = [url_of(config, host, port) for host in _addresses_shown(config.host)]
    lines = [f"ClawLink relay {VERSION} is listening on {url}"]
    join = ["clawlink"]
    if not (config.on_loopback and port == 9077 and config.scheme == "http"):
        join += ["--relay", url]
    if config.token is not None:
        join += ["--token", config.token]
    own_authority = config.tls_cert is not None and _is_its_own_authority(config.tls_cert)
    if config.tls_cert is not None:
        join += ["--ca", os.path.abspath(config.tls_cert) if config.on_loopback and own_authority else "FILE"]
    join += ["register", "--name", "YOUR-NAME"]
    where = "on this machine" if config.on_loopback else "from another machine"
    lines.append(f"Join {where}:  {shlex.join(join)}")
    if others:
        lines.append(f"This machine has no default route; other addresses: {', '.join(others)}")
    if config.kept is not None:
        # A relay on loopback makes no token, so this is that of an earlier start on its data folder.
        way_on = "; --no-auth asks for none" if config.on_loopback else "; --new-token makes another"
        lines.append(f"The token is kept in {config.kept / TOKEN}{'' if config.public else way_on}.")
    for door in doors():
        lines += door.banner(settings_of(door, config), url)
    if config.tls_cert is not None and own_authority and not config.on_loopback:
        lines.append(f"FILE is a copy of {config.tls_cert} on the machine that joins.")
    elif config.tls_cert is not None and not own_authority:
        lines.append(
            "FILE is the certificate of the authority that signed the relay's; leave out --ca FILE where the machine "
            "that joins trusts that authority already."
        )
    lines += [f"Warning: {warning}" for warning in warnings(config)]
    if not config.on_loopback and not config.require_agent_keys:
        lines.append("Give --require-agent-keys, too, so that no agent can act as another one.")
    return lines


def _is_its_own_authority(certificate: str) -> bool:
    """Return True if clients can trust this very file: it holds a certificate that signed itself."""
    reading = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        reading.load_verify_locations(certificate)
    except OSError:  # ssl.SSLError is one
        return False
    return any(one["subject"] == one["issuer"] for one in reading.get_ca_certs())


def warnings(config: ServerConfig) -> list[str]:
    """Return the dangers of a relay that other machines can reach."""
    if config.on_loopback:
        return []
    found = []
    if config.token is None:
        found.append(
            "No token is asked for: everyone who reaches this address can use the relay, "
            "and so can pages in their browsers. Start it without --no-auth to ask for a token."
        )
    if config.tls_cert is None and not config.trust_proxies:  # a proxy may do TLS
        found.append(
            "Plain HTTP: everybody on the way can read tokens, keys and messages. Give --tls-cert and --tls-key, "
            "or use it only in a network that you trust."
        )
    return found
