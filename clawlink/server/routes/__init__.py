"""A function for each endpoint: read, one call to the relay, answer. Nothing is decided here."""

from __future__ import annotations

from clawlink.server.routes import admin, agents, blobs, broadcasts, files, messages, tasks, uploads

ALL = tuple(module.routes for module in (agents, tasks, messages, broadcasts, files, blobs, uploads, admin))
