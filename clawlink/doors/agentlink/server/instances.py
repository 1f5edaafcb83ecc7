"""The instances, and the secrets that they sign with."""

from __future__ import annotations

from dataclasses import dataclass

from clawlink.domain.agent import forms
from clawlink.doors.agentlink.wire.files import InstanceEntry, RelayFile
from clawlink.doors.agentlink.wire.signing import new_secret, require_instance
from clawlink.errors import NameTaken, NotAllowed, RelayFull

MAX_SELF_REGISTERED = 1000


@dataclass(frozen=True)
class Instance:
    """A machine's worth of agents under one secret, which the relay and the instance know.

    ``shares_secret`` tells that others have the same, as the old relay had one for all: any of them could sign for it.
    """

    id: str
    name: str
    secret: bytes
    legacy: bool = False
    public_key: str | None = None
    agents: tuple[str, ...] = ()
    shares_secret: bool = False


class Instances:
    """The instances of the operator's file, and those that registered themselves, which are gone with the process."""

    def __init__(self, file: RelayFile, *, self_register: bool) -> None:
        self._known = {entry.instance_id: _instance(entry, file.secret) for entry in file.registered_instances}
        self._looks = {form for id in self._known for form in forms(id)}
        self._self_register = self_register
        self._room = MAX_SELF_REGISTERED

    def all(self) -> list[Instance]:
        """Return the instances, the operator's first."""
        return list(self._known.values())

    def get(self, instance_id: str) -> Instance | None:
        """Return the instance of that id."""
        return self._known.get(instance_id)

    def own(self, address: str) -> str | None:
        """Say what ``instance/agent``, or a look-alike, of a known instance is; None for any other address."""
        parts = (form.partition("/") for form in forms(address))
        if any(slash and home in self._looks for home, slash, _ in parts):
            return "an address of an instance, whose agents come by its own connections"
        return None

    def register(self, instance_id: str, *, name: str | None, public_key: str | None) -> tuple[Instance, str]:
        """Add an instance that asks for it itself; return it and its secret, which is told this once.

        Raises NotAllowed where that is not allowed, NameTaken for an id that is taken, RelayFull, BadRequest.
        """
        require_instance(instance_id)
        if not self._self_register:
            raise NotAllowed(
                "instances do not register themselves at this relay: its operator adds them with "
                "'clawlink instance add', or starts it with --agentlink-self-register"
            )
        if instance_id in self._known:
            raise NameTaken(f"instance {instance_id!r} is registered already; choose another id", field="instance_id")
        if not self._looks.isdisjoint(forms(instance_id)):
            raise NameTaken(
                f"{instance_id!a} looks like an instance that is registered; choose another id", field="instance_id"
            )
        if not self._room:
            raise RelayFull(f"{MAX_SELF_REGISTERED} instances have registered themselves; the operator must add more")
        self._room -= 1
        secret = new_secret()
        instance = Instance(instance_id, name or instance_id, secret.encode(), public_key=public_key)
        self._known[instance_id] = instance
        self._looks.update(forms(instance_id))
        return instance, secret


def _instance(entry: InstanceEntry, shared: str | None) -> Instance:
    secret = entry.secret or shared or ""
    return Instance(
        id=entry.instance_id,
        name=entry.name or entry.instance_id,
        secret=secret.encode(),
        legacy=entry.legacy,
        public_key=entry.public_key,
        agents=tuple(dict.fromkeys(entry.agents)),
        shares_secret=entry.secret is None,
    )
