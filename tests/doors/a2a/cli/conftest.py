"""The fixtures of the command line."""

from __future__ import annotations

from tests.cli.conftest import account, call, fresh, module_relay, own_relay, peer, relay, run

__all__ = ["account", "call", "fresh", "module_relay", "own_relay", "peer", "relay", "run"]
