"""A signed message on its way through the relay: its text and its proof, marked by this door as checked."""

from __future__ import annotations

import hmac
from typing import Any

import msgspec

from clawlink.doors.agentlink.server.checks import Proof
from clawlink.doors.agentlink.wire import signing


class Envelopes:
    """Packs signed messages for members of instances, and opens only messages that it packed itself.

    A member's address on a message proves nothing: another agent may have used it before its instance came, or after
    the relay forgot it. The mark proves it, because it never leaves the relay. Its key derives from the relay's secret,
    so that it also proves messages from before a restart.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"agent link envelopes", "sha256")

    def pack(self, text: str, proof: Proof, *, sender: str, to: str) -> dict[str, Any]:
        """Return the relay's content for a message with a checked signature."""
        told = msgspec.to_builtins(proof)
        return {"text": text, "proof": told, "mark": self._mark(text, told, sender, to)}

    def open(self, content: Any, *, sender: str, to: str) -> tuple[str, dict[str, Any]] | None:
        """Return text and proof of a message that was packed here for this sender and recipient; None for any other."""
        if not isinstance(content, dict):
            return None
        text, proof, mark = (content.get(name) for name in ("text", "proof", "mark"))
        if not isinstance(text, str) or not isinstance(proof, dict) or not isinstance(mark, str):
            return None
        return (text, proof) if signing.same(mark, self._mark(text, proof, sender, to)) else None

    def _mark(self, text: str, proof: dict[str, Any], sender: str, to: str) -> str:
        return signing.digest(self._key, msgspec.json.encode([sender, to, text, proof], order="sorted"))
