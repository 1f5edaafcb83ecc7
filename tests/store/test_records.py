"""The stored form: every kind of records is registered, and comes back from its bytes as it was."""

from __future__ import annotations

import importlib
import math
import pkgutil

import msgspec
import pytest
from msgspec.structs import replace

from clawlink import domain
from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.message import Priority
from clawlink.domain.task import Task, TaskState
from clawlink.store import records
from clawlink.store.base import Store
from tests.store.bytes_store import BytesStore
from tests.store.contract import StoreContract, ack, agent, delivery, fetch, file, lease, report, task


class TestBytesStore(StoreContract):
    """The contract holds for a store that keeps only bytes."""

    @pytest.fixture
    def store(self) -> Store:
        return BytesStore()


def test_a_record_comes_back_from_its_bytes_as_it_was() -> None:
    endless = fetch(replace(delivery("t", body=b"\x00\xff"), is_task=True), seconds=math.inf)
    for record in (
        delivery("d", level=Priority.LOW.level, arrival=2**51 - 1, merge="m\nn"),
        ack(lease(delivery("d"))),
        endless,
        replace(task("t"), expires_at=math.inf),
        report(task("t"), TaskState.COMPLETED, b"\xfe"),
        agent("é\U0001f600", "go"),
        file("f"),
    ):
        found = records.decode(records.encode(record))
        assert (type(found), found) == (type(record), record)
        assert found.index_keys == record.index_keys, record
        assert found.ends_at == record.ends_at, record
    assert records.decode(records.encode(endless)).visible_at == math.inf


def test_bytes_of_another_kind_version_or_form_are_refused() -> None:
    data = records.encode(agent("a"))
    assert isinstance(records.decode(data), Agent)
    for bad in (
        b"",
        b"\xc1",
        data[:-3],
        msgspec.msgpack.encode(("agent", 2, agent("a"))),
        msgspec.msgpack.encode(("agents", 1, agent("a"))),
        msgspec.msgpack.encode(("delivery", 1, agent("a"))),
        msgspec.msgpack.encode(agent("a")),
    ):
        with pytest.raises(ValueError, match=r"stored|no record"):
            records.decode(bad)


def test_each_kind_of_records_of_the_domain_is_registered() -> None:
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(domain.__path__, "clawlink.domain.")
    ]
    kinds = {
        thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, msgspec.Struct) and hasattr(thing, "partition_key")
    }
    assert len(kinds) >= 9
    assert kinds <= records.kinds().keys()


def test_a_name_stands_for_one_kind() -> None:
    assert records.register(Agent, "agent") is Agent
    for kind, name, version in ((Agent, "agents", 1), (Agent, "agent", 2), (dict, "agent", 1)):
        with pytest.raises(ValueError, match="registered already"):
            records.register(kind, name, version)
    schemas = records.kinds()
    assert len({schema.name for schema in schemas.values()}) == len(schemas)
    assert {Agent, Delivery, Task} < schemas.keys()
