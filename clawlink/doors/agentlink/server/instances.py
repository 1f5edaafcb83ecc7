"""The instances, and the secrets that they sign with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from msgspec.structs import replace

from clawlink.domain.agent import forms
from clawlink.domain.shares import Origin
from clawlink.doors.agentlink.server.records import INSTANCES, OwnInstance, Roll, instance_record
from clawlink.doors.agentlink.wire.files import InstanceEntry, RelayFile
from clawlink.doors.agentlink.wire.signing import new_secret, require_instance
from clawlink.errors import NameTaken, NotAllowed, RelayFull
from clawlink.relay.core import retrying
from clawlink.relay.kinds import Kind
from clawlink.relay.relay import Relay
from clawlink.store.base import Conflict, Put

MAX_SELF_REGISTERED = 1000
_PAGE = 200


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
    """The instances of the operator's file, and those that registered themselves, which are records of the store."""

    def __init__(self, file: RelayFile, relay: Relay, *, self_register: bool) -> None:
        self._core = relay.core
        self._of_file = {entry.instance_id: _instance(entry, file.secret) for entry in file.registered_instances}
        self._known = dict(self._of_file)
        self._records: dict[str, OwnInstance] = {}
        self._forms: dict[str, frozenset[str]] = {}
        self._looks = self._all_forms()
        self._self_register = self_register
        relay.keep(Kind(OwnInstance, _forget))

    def all(self) -> list[Instance]:
        """Return the instances, the operator's first."""
        return list(self._known.values())

    def get(self, instance_id: str) -> Instance | None:
        """Return the instance of that id, as far as this relay has heard of it."""
        return self._known.get(instance_id)

    async def find(self, instance_id: str) -> Instance | None:
        """Return the instance of that id, also if another relay has just registered it."""
        instance = self._known.get(instance_id)
        if instance is None:
            record = await self._core.store.get(OwnInstance, instance_record(instance_id))
            instance = None if record is None else self._know(record)
        return instance

    def own(self, address: str) -> str | None:
        """Describe ``instance/agent`` of a known instance, or a look-alike of it; None for any other address."""
        parts = (form.partition("/") for form in forms(address))
        if any(slash and home in self._looks for home, slash, _ in parts):
            return "an address of an instance, whose agents come by its own connections"
        return None

    async def load(self) -> None:
        """Read again which instances have registered themselves."""
        records: dict[str, OwnInstance] = {}
        after: str | None = None
        while True:
            page = await self._core.store.page(OwnInstance, INSTANCES, after, _PAGE)
            records.update({one.instance: one for one in page.records if one.instance not in self._of_file})
            after = page.after
            if after is None:
                break
        self._records = records
        self._known = self._of_file | {id: _own(record) for id, record in records.items()}
        self._looks = self._all_forms()

    async def register(self, instance_id: str, *, name: str | None, public_key: str | None) -> tuple[Instance, str]:
        """Add an instance that asks for it itself; return it and its secret, which is told this once.

        Raises NotAllowed where that is not allowed, NameTaken for an id that is taken, RelayFull, BadRequest,
        StorageFull.
        """
        require_instance(instance_id)
        if not self._self_register:
            raise NotAllowed(
                "instances do not register themselves at this relay: its operator adds them with "
                "'clawlink instance add', or starts it with --agentlink-self-register"
            )
        return await self._core.finish(self._register(instance_id, name, public_key))

    @retrying
    async def _register(self, instance_id: str, name: str | None, public_key: str | None) -> tuple[Instance, str]:
        core = self._core
        roll = await core.store.get(Roll, INSTANCES)
        await self.load()  # after the roll, so that no other comes in between
        if instance_id in self._known:
            raise NameTaken(f"instance {instance_id!r} is registered already; choose another id", field="instance_id")
        if not self._looks.isdisjoint(forms(instance_id)):
            raise NameTaken(
                f"{instance_id!a} looks like an instance that is registered; choose another id", field="instance_id"
            )
        if len(self._records) >= MAX_SELF_REGISTERED:
            raise RelayFull(f"{MAX_SELF_REGISTERED} instances have registered themselves; the operator must add more")
        record = OwnInstance(
            id=instance_record(instance_id),
            version=1,
            instance=instance_id,
            name=name or instance_id,
            secret=new_secret(),
            public_key=public_key,
            ends_at=core.clock() + 2 * core.limits.forget_claimed_after,
        )
        await core.memory.require(record.footprint, Origin(None, INSTANCES))
        await core.commit(INSTANCES, Put(Roll(INSTANCES, 1 if roll is None else roll.version + 1)), Put(record))
        return self._know(record), record.secret

    async def came(self, instance: Instance) -> None:
        """Note that an instance is in use, so that the relay does not forget it."""
        core, record = self._core, self._records.get(instance.id)
        until = core.clock() + core.limits.forget_claimed_after
        if record is not None and record.ends_at < until:
            record = replace(record, version=record.version + 1, ends_at=until + core.limits.forget_claimed_after)
            with contextlib.suppress(Conflict):  # another relay has noted it
                await core.commit(INSTANCES, Put(record))
            self._records[instance.id] = record

    def _know(self, record: OwnInstance) -> Instance:
        instance = self._known[record.instance] = _own(record)
        self._records[record.instance] = record
        self._looks.update(self._forms_of(record.instance))
        return instance

    def _all_forms(self) -> set[str]:
        return {form for id in self._known for form in self._forms_of(id)}

    def _forms_of(self, instance_id: str) -> frozenset[str]:
        found = self._forms.get(instance_id)
        if found is None:
            found = self._forms[instance_id] = forms(instance_id)
        return found


def _forget(record: OwnInstance, now: float) -> None:
    return None


def _own(record: OwnInstance) -> Instance:
    return Instance(record.instance, record.name, record.secret.encode(), public_key=record.public_key)


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
