"""The proof by which an agent knows its relay at another address, before it sends a key or a token there.

The relay has a secret, and every claimed agent a *relay key*, which the relay derives from its secret and the agent's
key. Only the holder of that agent key gets it, and the relay does not keep it. At a new address the agent sends a
nonce, and the name of its key. A relay that has the secret answers with a proof over the nonce.

A false relay can pass the question on to the true one. So a proof holds for one place alone: the address at which the
true relay was reached, or a name that its operator gave it. The agent compares both with the address of its own
connection.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv6Address, ip_address


def relay_id(secret: bytes) -> str:
    """Return the public name of the relay that has this secret."""
    return hashlib.sha256(b"clawlink relay id\n" + secret).hexdigest()[:32]


def key_id(agent_key: str) -> str:
    """Return the name of an agent key, which reveals nothing about the key.

    It differs from the hash that the relay keeps.
    """
    return hashlib.sha256(b"clawlink relay proof\n" + agent_key.encode("utf-8", "surrogatepass")).hexdigest()


def relay_key(secret: bytes, key_id: str) -> str:
    """Return the key with which the holder of that agent key knows the relay again."""
    return hmac.new(secret, b"clawlink relay key\n" + key_id.encode(), hashlib.sha256).hexdigest()


def prove(relay_key: str, nonce: str, address: str, name: str) -> str:
    """Return the proof of a relay that was reached at ``address`` and is known by ``name``, which may be empty."""
    told = "\n".join((nonce, address, name))
    return hmac.new(relay_key.encode(), told.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def is_proven(proof: str, relay_key: str, nonce: str, address: str, name: str) -> bool:
    """Return True if the proof is that of the relay which gave this relay key."""
    return hmac.compare_digest(proof.encode("utf-8", "surrogatepass"), prove(relay_key, nonce, address, name).encode())


def place(host: str, port: int) -> str:
    """Write the address of one end of a connection so that both ends write the same."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"[{address}]:{port}"
        address = address.ipv4_mapped
    return f"{address}:{port}"
