"""Base64 in the alphabets that clients use."""

from __future__ import annotations

import base64
import binascii


def is_base64(text: str) -> bool:
    """Return True if a text is base64, in the alphabet of URLs too, with padding or without."""
    try:
        from_base64(text)
    except ValueError:
        return False
    return True


def from_base64(text: str | bytes) -> bytes:
    """Decode base64, in either alphabet, with padding or without. Raises ValueError."""
    data = (text.encode("ascii") if isinstance(text, str) else text).rstrip(b"=")
    if b"-" in data or b"_" in data:
        data = data.translate(_STANDARD)
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


_STANDARD = bytes.maketrans(b"-_", b"+/")
