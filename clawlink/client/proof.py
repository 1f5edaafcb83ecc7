"""Ask the peer at a new address to prove that it is the known relay, and find the identity that is kept for it.

See ``clawlink.protocol.proof``.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from clawlink.client.address import address
from clawlink.client.identity import Identities, Saved
from clawlink.client.sync import Client
from clawlink.domain.agent import fold
from clawlink.errors import ClawLinkError, NotARelay, RelayUnreachable
from clawlink.protocol import paths, replies, requests
from clawlink.protocol.proof import is_proven, key_id, place

_NONCE_BYTES = 24
_REPLY_BYTES = 64 * 1024


def is_same_relay(relay: str, *, agent_key: str, relay_key: str, ca: str | None = None, timeout: float = 10.0) -> bool:
    """Return True if the relay at this address gave ``relay_key`` to the holder of ``agent_key``.

    Neither key nor any token is sent. Proxies of the environment are not used, because a proxy hides the relay's
    address. Raises RelayUnreachable or NotARelay if no relay answers.
    """
    url = urlsplit(relay)
    host = url.hostname or ""
    nonce = secrets.token_urlsafe(_NONCE_BYTES)
    ask = msgspec.json.encode(requests.Challenge(key_id(agent_key), nonce))
    try:
        with contextlib.closing(_connection(relay, ca, timeout)) as connection:
            connection.connect()
            peer = connection.sock.getpeername()
            connection.request("POST", url.path.rstrip("/") + paths.CHALLENGE.path, ask)
            reply = connection.getresponse()
            status, body = reply.status, reply.read(_REPLY_BYTES)
    except ssl.SSLError as error:
        raise NotARelay(f"no trusted TLS connection to {relay}: {error}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RelayUnreachable(f"{relay} does not answer: {error}") from None
    if status != 200:  # an older relay, or a relay that does not know the name in the request
        return False
    try:
        told = msgspec.json.decode(body, type=replies.Challenged)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotARelay(f"the answer of {relay} is not that of a ClawLink relay") from None
    # Over plain HTTP a name proves nothing: a peer anywhere may answer for it.
    here = told.address == place(peer[0], peer[1]) or (url.scheme == "https" and told.name == host)
    return here and is_proven(told.proof, relay_key, nonce, told.address, told.name)


def _connection(relay: str, ca: str | None, timeout: float) -> http.client.HTTPConnection:
    url = urlsplit(relay)
    host = url.hostname or ""
    if url.scheme != "https":
        return http.client.HTTPConnection(host, url.port or 80, timeout=timeout)
    path = ca or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    folder = os.path.isdir(path)
    trusted = ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
    return http.client.HTTPSConnection(host, url.port or 443, timeout=timeout, context=trusted)


def kept_elsewhere(
    identities: Identities, name: str, relay: str, *, ca: str | None, timeout: float, warn: Callable[[str], None]
) -> Saved | None:
    """Return the kept identity of this name for the same relay at another address; None if there is none.

    The kept key counts only after the relay has proved that it is the same. Neither key nor token is sent before.
    ``warn`` is called with a sentence if the relay claims to be the same, and cannot prove it. This call blocks.
    """
    kept = [
        saved
        for saved in identities.matching(named=name, relay=None)
        if saved.relay_id and saved.agent_key and saved.relay_key and fold(saved.name) == fold(name)
    ]
    if not kept:
        return None
    try:
        with Client(relay, timeout=timeout, ca=ca) as stranger:
            relay_id = stranger.health().relay_id
        for saved in kept:
            if saved.relay_id != relay_id or saved.agent_key is None or saved.relay_key is None:
                continue
            if is_same_relay(
                relay, agent_key=saved.agent_key, relay_key=saved.relay_key, ca=ca or saved.ca, timeout=timeout
            ):
                return saved
            warn(
                f"{relay} says that it is the relay of {saved.name!r} at {saved.relay}, and cannot prove it: "
                "the kept key is not sent there; use the old address, or https with a name that the relay allows"
            )
    except ClawLinkError:  # the register shows the fault there
        pass
    return None


def forget_moved(identities: Identities, before: Saved | None, relay: str) -> None:
    """Forget the identity of the old address, once that of the new one is kept."""
    if before is not None and address(before.relay) != address(relay):
        identities.forget(before)
