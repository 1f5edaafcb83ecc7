"""``references/stores.md`` and the code say the same, and the store that it shows keeps the contract."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from clawlink.domain.delivery import Delivery
from clawlink.domain.record import Record
from clawlink.store import base, records
from clawlink.store.base import Store
from clawlink.store.events import Peers, Signals
from tests.relay.scene import Scene
from tests.store import contract, durable

PAGE = (Path(__file__).parents[2] / "references" / "stores.md").read_text("utf-8")
EXAMPLE, SUITE, START = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(source: str, **names: Any) -> dict[str, Any]:
    """Return the names that a part of the page defines."""
    scope = {"__name__": __name__, **names}
    exec(compile(source, "stores.md", "exec", dont_inherit=True), scope)
    return scope


def table(head: str) -> list[str]:
    """Return the names in the first column of a table."""
    (rows,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)


def suite() -> Any:
    """Return the test class of the page, over the store that the page shows."""
    module = sys.modules["dict_store"] = ModuleType("dict_store")
    try:
        vars(module).update(run(EXAMPLE))
        return run(SUITE)["TestDictStore"]
    finally:
        del sys.modules["dict_store"]


TestDictStore = suite()
DictStore = run(EXAMPLE)["DictStore"]


def test_the_suite_is_the_whole_contract() -> None:
    assert issubclass(TestDictStore, contract.StoreContract)
    for part in set(re.findall(r"`(\w+Contract)`", PAGE)) - {"DurableContract"}:
        assert issubclass(contract.StoreContract, getattr(contract, part)), part
    for fixture in table("Fixture"):
        assert getattr(durable.DurableContract, fixture), fixture


def test_the_properties_of_a_record_are_all_there() -> None:
    assert table("Property") == [name for name in vars(Record) if isinstance(vars(Record)[name], property)]
    assert f"encode{inspect.signature(records.encode)}".replace("Any", "Record", 1).replace("'", "") in PAGE
    assert f"decode{inspect.signature(records.decode)}".replace("Any", "Record", 1).replace("'", "") in PAGE
    for field in re.findall(r"`(mailbox|state|sort_key|visible_at)`", PAGE):
        assert field in Delivery.__struct_fields__


def test_the_store_has_each_method_of_the_contract_and_no_method_is_forgotten() -> None:
    wanted = {name for name in vars(Store) if not name.startswith("_")}
    assert wanted <= set(dir(DictStore))
    assert len(EXAMPLE.splitlines()) < 180
    for error in re.findall(r"`(Conflict|Failed|Full)`", PAGE):
        assert issubclass(getattr(base, error), Exception), error
    named = set(re.findall(r"`(?:Signals|Peers)\.(\w+)`", PAGE))
    assert named <= vars(Signals).keys() | vars(Peers).keys()


async def test_a_relay_works_over_it() -> None:
    scene = Scene(store=DictStore())
    await scene.register("req", "worker")
    id = await scene.delegate(to_agent="worker")
    (receipt,) = await scene.claim("worker")
    await scene.relay.acks.ack("worker", [receipt])
    await scene.respond("worker", id, result=[1])
    assert (await scene.status(id), await scene.told()) == ("completed", [("worker", "completed", [1])])


async def test_a_relay_starts_over_it_as_the_page_says() -> None:
    app, port = await run(START)["start"](store := DictStore())
    assert port > 0
    await app.stop()
    await store.close()
