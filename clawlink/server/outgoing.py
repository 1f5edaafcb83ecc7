"""Connections to addresses that others chose: the address that was screened is the one that is connected to."""

from __future__ import annotations

import socket
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Fault = Callable[[str], str | None]
"""Returns the reason why an address may not be used; None if it may."""


class Forbidden(OSError):
    """No address of a host may be used."""


class ScreenedResolver(AbstractResolver):
    """Resolves names, and gives only addresses without a fault. A name that resolves otherwise later gains nothing."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the usable addresses of a host. Raises Forbidden if it has none."""
        try:
            found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        except UnicodeError:  # DNS can have no such name, as with an empty label
            raise Forbidden(f"{host} is no name of a host") from None
        faults = [self._fault(one["host"]) for one in found]
        fine = [one for one, fault in zip(found, faults, strict=True) if fault is None]
        if not fine:
            raise Forbidden(next(filter(None, faults), f"{host} has no address"))
        return fine

    async def close(self) -> None:
        """Nothing is kept open."""
