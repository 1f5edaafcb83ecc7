"""A function for each endpoint that does more than ``json_endpoint``. Nothing is decided here."""

from __future__ import annotations

from clawlink.server.routes import admin, agents, blobs, messages, uploads

ALL = tuple(module.routes for module in (agents, messages, blobs, uploads, admin))
