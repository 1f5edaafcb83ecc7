"""The acts of the operator of a relay, as calls. Each needs the right of the operator."""

from __future__ import annotations

from clawlink.client.calls import Call, Identity, simple_call
from clawlink.protocol import operating, operator_paths


def stop_all(me: Identity) -> Call[operating.Standing]:
    """Stop all new work and all claims of the relay, and of all relays over its store. A repeat changes nothing."""
    return simple_call(operator_paths.STOP_ALL, operating.StopAll(True))


def resume_all(me: Identity) -> Call[operating.Standing]:
    """Let work go on after ``stop_all``. A repeat changes nothing."""
    return simple_call(operator_paths.STOP_ALL, operating.StopAll(False))
