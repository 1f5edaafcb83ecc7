"""Whether a signature is right, and the mark of a message that was checked.

Nothing is looked at before the signature is right, so that a stranger learns nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from clawlink.doors.agentlink.server.instances import Instance, Instances
from clawlink.doors.agentlink.server.nonces import Nonces, UsedFrames
from clawlink.doors.agentlink.wire import signing
from clawlink.doors.agentlink.wire.frames import INVALID_SIGNATURE, NOT_REGISTERED, Register, Send
from clawlink.errors import BadRequest, NotAllowed
from clawlink.relay.core import Core

# Signed times have milliseconds: a frame of this millisecond may be signed already and still be new.
_STAMP_SECONDS = 0.001


class Proof(Struct, frozen=True, omit_defaults=True):
    """The proof that travels with a signed message, for its recipient to check: see references/agentlink.md.

    ``to`` is the recipient as it was signed.
    """

    to: str
    time: str
    nonce: str
    id: str
    signature: str
    seal: str | None = None


class Checks:
    """Checks registers and messages, old and new. Each new one counts once.

    The relays of a mesh know together which frames were used, also those from before the start of one of them. ``wall``
    is then the time of their server.
    """

    def __init__(self, instances: Instances, wall: Callable[[], float], core: Core) -> None:
        self._instances = instances
        self._wall = wall
        alone = core.peers is None
        tolerance = signing.TOLERANCE_SECONDS
        self.used = None if alone else UsedFrames(core, tolerance=tolerance)
        self._nonces = Nonces(tolerance=tolerance, since=wall() - _STAMP_SECONDS if alone else 0.0)

    async def register(self, frame: Register) -> tuple[Instance, str | None]:
        """Return the instance that a register is signed by, and its agent in the new form. Raises NotAllowed."""
        instance = await self._instances.find(frame.instance_id)
        if instance is None:
            raise NotAllowed(NOT_REGISTERED, field="instance_id")
        if frame.agent_id is None and frame.time is None and frame.nonce is None:
            self._require_legacy(instance, "agent_id, time and nonce")
            self._old_register(instance, frame.signature)
            return instance, None
        agent_id, time, nonce = _all(agent_id=frame.agent_id, time=frame.time, nonce=frame.nonce)
        text = signing.canonical_register(instance.id, agent_id, time=time, nonce=nonce)
        self._require(instance, frame.signature, text)
        await self._use(instance, nonce, signing.read_stamp(time))
        signing.require_agent(agent_id)
        return instance, agent_id

    async def send(self, frame: Send, by: Instance | None = None) -> tuple[Instance, str, Proof | None]:
        """Return the instance and the agent that signed a message, and the new form's proof.

        ``by`` is the instance of the connection. Raises NotAllowed, BadRequest, RateLimited, and the store's errors.
        """
        instance_id, agent_id = signing.split(frame.sender, field="from")
        if by is not None and instance_id != by.id:
            raise NotAllowed(
                f"this connection is that of instance {by.id!r} and speaks for no agent of {instance_id!r}",
                field="from",
            )
        instance = by or await self._instances.find(instance_id)
        if instance is None:
            raise NotAllowed(NOT_REGISTERED, field="from")
        if frame.time is None and frame.nonce is None and frame.id is None:
            self._require_legacy(instance, "time, nonce and id")
            if ":" in frame.to:
                raise BadRequest(
                    "the old form of signing cannot tell where a recipient with a colon ends; sign the new form",
                    field="to",
                )
            self._require(instance, frame.signature, signing.old_send(frame.sender, frame.to, frame.message))
            return instance, agent_id, None
        time, nonce, id = _all(time=frame.time, nonce=frame.nonce, id=frame.id)
        text = signing.canonical_send(frame.sender, frame.to, frame.message, time=time, nonce=nonce, id=id)
        self._require(instance, frame.signature, text)
        await self._use(instance, nonce, signing.read_stamp(time))
        return instance, agent_id, Proof(frame.to, time, nonce, id, frame.signature, frame.seal)

    async def _use(self, instance: Instance, nonce: str, signed_at: float) -> None:
        self._nonces.use(instance.id, nonce, signed_at=signed_at, now=self._wall())
        if self.used is not None:
            await self.used.use(instance.id, nonce, signed_at=signed_at)

    def _old_register(self, instance: Instance, signature: str) -> None:
        """Try each second that an old client's clock may show. All are tried, so that the time reveals nothing."""
        found = False
        for stamp in signing.old_stamps(self._wall()):
            found |= signing.same(signature, signing.digest(instance.secret, signing.old_register(instance.id, stamp)))
        if not found:
            raise NotAllowed(INVALID_SIGNATURE, field="signature")

    def _require(self, instance: Instance, signature: str, text: bytes) -> None:
        if not signing.same(signature, signing.digest(instance.secret, text)):
            raise NotAllowed(INVALID_SIGNATURE, field="signature")

    def _require_legacy(self, instance: Instance, fields: str) -> None:
        if not instance.legacy:
            raise NotAllowed(
                f"instance {instance.id!r} must sign {fields} too; the old form, which can be replayed, is taken only "
                "from instances that the relay's operator has marked legacy",
                field="signature",
            )


def agent_key_of(instance: Instance, agent_id: str) -> str:
    """Return the seed of an agent's key in an instance: only the relay's door ever acts as that agent."""
    return hmac.digest(instance.secret, b"agent key\n" + agent_id.encode(), "sha256").hex()


def _all(**fields: str | None) -> Any:
    """Return the fields of the new form. Raises BadRequest with the name of a missing field."""
    for name, value in fields.items():
        if value is None:
            raise BadRequest(
                f"the field {name} is missing: the new form signs {', '.join(fields)} all together", field=name
            )
    return tuple(fields.values())


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
