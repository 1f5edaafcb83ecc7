"""Databases of Agent P2P, one for each form that its releases gave the schema, made by SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN = "https://me.example"
K1, K2, K3 = ("ap2p_" + letter * 43 for letter in "abc")
OWNER_KEY = "ap2p_" + "o" * 43
MINE = "ap2p_" + "m" * 43
THEIRS = "ap2p_" + "t" * 43

_API_KEYS = (
    "CREATE TABLE api_keys (key_id TEXT PRIMARY KEY, portal_url TEXT, agent_name TEXT, user_name TEXT, "
    "created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, is_active BOOLEAN DEFAULT 1, description TEXT)"
)
_MESSAGES = (
    "CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, from_portal TEXT, to_portal TEXT, content TEXT, "
    "message_type TEXT DEFAULT 'text', sender_api_key TEXT, file_url TEXT, is_delivered BOOLEAN DEFAULT 0, "
    "created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
)
_GUESTS = (
    "CREATE TABLE guest_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT, ip_address TEXT, "
    "user_agent TEXT, created_at TIMESTAMP, is_read BOOLEAN DEFAULT 0, status TEXT DEFAULT 'pending')"
)
_REST = (
    "CREATE TABLE owner_chats (id INTEGER PRIMARY KEY AUTOINCREMENT, role TEXT, content TEXT, created_at TEXT)",
    "CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT)",
    "CREATE TABLE pending_notifications (id INTEGER PRIMARY KEY, type TEXT, content TEXT, portal TEXT, "
    "is_notified BOOLEAN, created_at TIMESTAMP)",
    "CREATE TABLE photos (id INTEGER PRIMARY KEY, filename TEXT, url TEXT, created_at TIMESTAMP)",
    "CREATE TABLE file_transfers (id INTEGER PRIMARY KEY, file_id TEXT UNIQUE, filename TEXT, size INTEGER, md5 TEXT, "
    "chunk_size INTEGER, chunks_total INTEGER, chunks_received INTEGER, status TEXT, from_portal TEXT, to_portal TEXT, "
    "from_contact_id INTEGER, to_contact_id INTEGER, receiver_confirmed BOOLEAN, confirmed_at TIMESTAMP, "
    "created_at TIMESTAMP, updated_at TIMESTAMP, completed_at TIMESTAMP, should_cleanup BOOLEAN, "
    "cleanup_after TIMESTAMP)",
    "CREATE TABLE file_chunks (id INTEGER PRIMARY KEY, file_id TEXT, chunk_index INTEGER, chunk_size INTEGER, "
    "chunk_md5 TEXT, data BLOB, received_at TIMESTAMP, UNIQUE(file_id, chunk_index))",
)
_CONTACTS = {
    "0.3": "CREATE TABLE contacts (id INTEGER PRIMARY KEY, contact_portal TEXT UNIQUE, display_name TEXT, "
    "api_key TEXT, created_at TIMESTAMP)",
    "0.5": "CREATE TABLE contacts (id INTEGER PRIMARY KEY, portal_url TEXT UNIQUE, display_name TEXT, agent_name TEXT, "
    "user_name TEXT, my_api_key TEXT NOT NULL, their_api_key TEXT, SHARED_KEY TEXT, is_verified BOOLEAN, "
    "created_at TIMESTAMP, expires_at TIMESTAMP)",
    "0.5 of an afternoon": "CREATE TABLE contacts (id INTEGER PRIMARY KEY, portal_url TEXT UNIQUE, display_name TEXT, "
    "agent_name TEXT, user_name TEXT, OUTGOING TEXT NOT NULL, INCOMING TEXT, is_verified BOOLEAN, "
    "created_at TIMESTAMP, expires_at TIMESTAMP)",
    "0.6": "CREATE TABLE contacts (id INTEGER PRIMARY KEY, portal_url TEXT UNIQUE, DISPLAY_NAME TEXT, agent_name TEXT, "
    "user_name TEXT, SHARED_KEY TEXT, is_verified BOOLEAN DEFAULT 1, created_at TIMESTAMP, expires_at TIMESTAMP)",
}
_ROWS: dict[str, tuple[dict[str, Any], ...]] = {
    "0.3": ({"id": 4, "contact_portal": "https://b.example", "display_name": "bob", "api_key": K1},),
    "0.5": (
        {"id": 4, "portal_url": "https://b.example", "agent_name": "bob", "my_api_key": MINE, "their_api_key": THEIRS},
    ),
    "0.5 of an afternoon": (
        {"id": 4, "portal_url": "https://b.example", "agent_name": "bob", "OUTGOING": MINE, "INCOMING": THEIRS},
    ),
    "0.6": ({"id": 4, "portal_url": "https://b.example", "agent_name": "bob", "SHARED_KEY": K1},),
}
GENERATIONS = (*_CONTACTS, "0.9")


def insert(db: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Put rows into a table."""
    for row in rows:
        marks = ", ".join("?" * len(row))
        db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def make(path: Path, release: str, **more: Iterable[dict[str, Any]]) -> Path:
    """Make the database of a release with one contact, and the rows that are given for its tables."""
    form = "0.6" if release == "0.9" else release
    db = sqlite3.connect(path)
    with db:
        tables = [_CONTACTS[form], _API_KEYS, _MESSAGES]
        if release != "0.3":
            tables.append(_GUESTS)
        if release == "0.9":
            tables += _REST
        for table in tables:
            db.execute(table)
        insert(db, "contacts", more.pop("contacts", _ROWS[form]))
        insert(db, "api_keys", [{"key_id": OWNER_KEY, "portal_url": OWN, "agent_name": "me"}])
        insert(db, "messages", [{"from_portal": "https://b.example", "to_portal": OWN, "content": "hi"}])
        for name, rows in more.items():
            insert(db, name, rows)
    db.close()
    return path
