"""A relay's address as people type it, and as it is kept and compared."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def address(text: str) -> str:
    """Return a relay's address as identities keep it: with a scheme, lower-case host, without a slash at the end."""
    text = text.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    return urlunsplit(parts._replace(netloc=parts.netloc.lower() if "@" not in parts.netloc else parts.netloc))
