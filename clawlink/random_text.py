"""Random text for keys, tokens and names of files."""

from __future__ import annotations

import secrets


def random_text(size: int) -> str:
    """Return ``size`` random bytes in base64url, never with a dash at the beginning.

    A command line takes a word that begins with a dash for a flag.
    """
    while (text := secrets.token_urlsafe(size)).startswith("-"):
        pass
    return text
