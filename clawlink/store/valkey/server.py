"""The reasons not to keep records on a server, and what a server may lose."""

from __future__ import annotations

from collections.abc import Mapping

from clawlink.errors import ClawLinkError

_OLDEST = (7, 0)


class StoreError(ClawLinkError):
    """The server of ``--store`` cannot be used."""

    code = "store"


def require_fit(facts: Mapping[str, str], shown: str, replicas: int) -> str:
    """Return the name and version of a server. Raises StoreError.

    ``facts`` are those of ``INFO``, ``shown`` is its address without the password.
    """
    version = facts.get("redis_version", "0")
    name = "Valkey" if "valkey_version" in facts else "Redis"
    server = f"{name} {facts.get('valkey_version', version)}"
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise StoreError(f"--store {shown} is {server}, and 7.0 or later is needed")
    if replicas > (there := int(facts.get("connected_slaves", "0"))):
        raise StoreError(
            f"--store {shown} has {there} replicas, and --store-replicas asks that {replicas} have each commit; "
            "connect them, or ask for fewer"
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreError(
            f"--store {shown} has maxmemory-policy {policy}, by which it would forget messages when its memory is "
            "full; set it to noeviction"
        )
    return server


def loss(facts: Mapping[str, str], snapshots: bool | None) -> str | None:
    """Return the sentence about what a restart of the server loses; None if that is no more than a second.

    ``facts`` are those of ``INFO``. ``snapshots`` says if the server writes snapshots, None if it does not tell.
    """
    if facts.get("aof_enabled") != "0":
        return None
    lost = "all agents, messages and files" if snapshots is False else "what came after its last snapshot"
    return f"a restart of the server of the store loses {lost}; set appendonly yes there (references/operations.md)"
