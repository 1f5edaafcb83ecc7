"""Tasks and files as resources, pure: their addresses, and their entries in lists."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

SCHEME = "clawlink://"
TASKS, FILES = "tasks", "files"
MIME_TYPE = "application/json"
MAX_URI_LENGTH = 4096
# A key of a file that can hold no sentence.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")
_MAX_PLAIN = 64

TEMPLATES: list[dict[str, Any]] = [
    {
        "uriTemplate": f"{SCHEME}{TASKS}/{{task_id}}",
        "name": "task",
        "description": "A task that you delegated or that was given to you: state, result and last steps.",
        "mimeType": MIME_TYPE,
    },
    {
        "uriTemplate": f"{SCHEME}{FILES}/{{key}}",
        "name": "file",
        "description": "A shared file: its facts, and a short text itself. The key is percent-encoded.",
        "mimeType": MIME_TYPE,
    },
]


def uri_of(kind: str, id: str) -> str:
    """Return the address of a task or a file."""
    return f"{SCHEME}{kind}/{quote(id, safe='')}"


def parts_of(uri: Any) -> tuple[str, str] | None:
    """Return the kind and the id that an address names; None if it is no address of ours."""
    if not isinstance(uri, str) or len(uri) > MAX_URI_LENGTH or not uri.startswith(SCHEME):
        return None
    kind, _, id = uri[len(SCHEME) :].partition("/")
    try:
        id = unquote(id, errors="strict")
    except UnicodeDecodeError:
        return None
    return (kind, id) if kind in (TASKS, FILES) and id else None


def entry(kind: str, id: str, facts: str) -> dict[str, Any]:
    """Return an entry of ``resources/list``. An id that may hold a sentence stands in its address alone, encoded."""
    plain = len(id) <= _MAX_PLAIN and _PLAIN.fullmatch(id) is not None
    name = f"{kind[:-1]} {id}" if plain else kind[:-1]
    return {"uri": uri_of(kind, id), "name": name, "description": facts, "mimeType": MIME_TYPE}
