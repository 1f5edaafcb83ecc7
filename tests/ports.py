"""Ports for servers that have to know theirs before they start."""

from __future__ import annotations

import contextlib
import secrets
import socket

# Below these lie few servers, above them the ports that systems choose for connections and for servers without a port.
_FIRST, _END = 10_240, 32_768


def free_port() -> int:
    """Return a port of this machine that no server listens on, and that no system chooses by itself."""
    while True:
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
