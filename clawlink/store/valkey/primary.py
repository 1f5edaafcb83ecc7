"""The server that takes the writes of a mesh: a single one, the primary among replicas, or a master of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import Counter
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from clawlink.store.valkey.link import LinkError

ANSWER_SECONDS = 3.0
_CONNECT_SECONDS = 2.0
# Options of an address that name files. The errors of TLS do not say which file they mean.
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

Place = tuple[Any, ...]
"""A host and a port; nothing for a socket of this machine."""


class NoPrimary(Exception):
    """No server takes the writes of the mesh at this moment. It says why, without a password."""


class Primary:
    """Finds the server that takes the writes of a mesh, and makes connections to it.

    The address may name several servers, as ``redis://USER:PASSWORD@HOST:PORT,HOST:PORT/0``: a primary and its
    replicas, or nodes of a cluster. All take the same user and password.
    """

    def __init__(self, url: str, tag: str) -> None:
        """``tag`` is the hash tag of all keys. Raises ValueError for an address that is none."""
        scheme, _, rest = url.partition("://")
        found = re.search(r"[/?#]", rest)
        authority, after = (rest[: found.start()], rest[found.start() :]) if found else (rest, "")
        credentials, at, hosts = authority.rpartition("@")
        self.shown = f"{scheme}://{hosts}{after.partition('?')[0]}"
        """The address without user, password and options."""
        options: dict[str, Any] = {} if scheme == "unix" else {"socket_keepalive": True}
        pools = [
            ConnectionPool.from_url(
                f"{scheme}://{credentials}{at}{place}{after}",
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=_CONNECT_SECONDS,
                retry=Retry(NoBackoff(), 0),  # a commit must not be sent twice
                protocol=2,
                **options,
            )
            for place in hosts.split(",")
        ]
        self._slot = key_slot(tag.encode())
        self._class, self._options = pools[0].connection_class, dict(pools[0].connection_kwargs)
        self._given = [self._place_of(pool.connection_kwargs) for pool in pools]
        self._nodes: list[Place] = []  # of a cluster, as last told
        self.place = self._given[0]
        """Where it was found last."""
        self.facts: dict[str, str] = {}
        """The facts that the server told when it was found."""
        try:
            self.connection()
        except TypeError as error:
            raise ValueError("an option of the address is unknown") from error

    @staticmethod
    def _place_of(options: dict[str, Any]) -> Place:
        return () if "path" in options else (options.get("host", "localhost"), int(options.get("port", 6379)))

    def connection(self) -> Any:
        """Return a new connection to the server that was found last. The caller opens and closes it."""
        return self._connection(self.place)

    def _connection(self, place: Place) -> Any:
        options = dict(self._options)
        if place:
            options["host"], options["port"] = place
        return self._class(**options)

    async def find(self) -> None:
        """Look for the server that takes the writes. Raises NoPrimary."""
        for option in _FILES:
            path = self._options.get(option)
            if path and not os.access(path, os.R_OK):
                raise NoPrimary(f"this account cannot read {path}, the {option} of the address")
        asked = list(dict.fromkeys((self.place, *self._given, *self._nodes)))
        said = await asyncio.gather(*(self._ask(place) for place in asked))
        masters = Counter(one.master for one in said if one.master is not None)
        if masters:  # a node that was cut off may call another one the master than the rest
            said = await asyncio.gather(*(self._ask(place) for place, _ in masters.most_common()))
            found = [one for one in said if one.primary and one.master == one.place][:1]
        else:
            found = [one for one in said if one.primary and not one.in_cluster]
        if len(found) > 1:
            raise NoPrimary(
                f"{' and '.join(_named(one.place) for one in found)} call themselves primaries; make all of them but "
                "the right one replicas"
            )
        if not found:
            raise NoPrimary("; ".join(one.why or f"{_named(one.place)} is no master" for one in said))
        self.place, self.facts = found[0].place, found[0].facts

    async def _ask(self, place: Place) -> _Said:
        """Ask a server for itself, and in a cluster for the master of the slot."""
        said = _Said(place)
        connection = self._connection(place)
        try:
            await connection.connect()
            told = await _answer(connection, "INFO")
            lines = (line.partition(":") for line in told.decode("utf-8", "replace").splitlines())
            said.facts = {name: value for name, _, value in lines}
            if said.in_cluster:
                nodes: list[Place] = []
                for first, last, *servers in await _answer(connection, "CLUSTER", "SLOTS"):
                    listed = [(server[0].decode() if server[0] else place[0], int(server[1])) for server in servers]
                    nodes += listed
                    if first <= self._slot <= last:
                        said.master = listed[0]
                if nodes:
                    self._nodes = nodes
            if "sentinel" in (said.facts.get("server_mode"), said.facts.get("redis_mode")):
                said.why = (
                    f"{_named(place)} is a Sentinel, which keeps no records; give the addresses of the primary and its "
                    "replicas instead"
                )
            elif not said.primary:
                said.why = f"{_named(place)} is a replica, which takes no writes; give the address of its primary"
        except LinkError as error:
            said.why = str(error) or f"{_named(place)} does not answer"
        finally:
            with contextlib.suppress(*LinkError):
                await connection.disconnect(nowait=True)
        return said


class _Said:
    """The answer of a server, or the reason why there is none. ``master`` is that of the slot, by this server."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.facts: dict[str, str] = {}
        self.master: Place | None = None
        self.why: str | None = None

    @property
    def primary(self) -> bool:
        return self.facts.get("role") == "master"

    @property
    def in_cluster(self) -> bool:
        return self.facts.get("cluster_enabled") == "1"


async def _answer(connection: Any, *words: str) -> Any:
    await connection.send_command(*words, check_health=False)
    return await connection.read_response(disable_decoding=True)


def _named(place: Place) -> str:
    return ":".join(map(str, place)) or "the server"
