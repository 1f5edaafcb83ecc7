"""One function an endpoint: who asks, read, one call to the relay, answer. Nothing is decided here."""

from __future__ import annotations

from clawlink.server.routes import admin, agents, broadcasts, files, messages, tasks

ALL = tuple(module.routes for module in (agents, tasks, messages, broadcasts, files, admin))
