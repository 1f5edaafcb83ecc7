"""The relay works over a store that keeps only bytes: nothing leans on a record being the same object."""

from __future__ import annotations

from typing import Any

from clawlink.domain.file_write import UnfinishedUpload, Write
from clawlink.domain.message import Priority
from clawlink.protocol.operating import StopAll
from clawlink.store import records
from tests.relay.broadcasts.test_broadcasts import heard, once
from tests.relay.scene import Scene
from tests.store.bytes_store import BytesStore


async def test_every_kind_of_record_is_kept_as_bytes_and_found_again() -> None:
    store = BytesStore()
    scene = Scene(store=store)
    await scene.register("req")
    await scene.register("w", capabilities=["go"], notices=True)
    await scene.register("held", key="a key that is hard to guess, all of 43 chars")
    seen: set[type[Any]] = set()

    def look() -> None:
        seen.update(kind for kind, _ in store.bytes)

    named = await scene.delegate(to_agent="w", priority=Priority.URGENT)
    pooled = await scene.delegate(capability="go")
    look()
    assert len(await scene.claim("w")) == 2
    for id in (named, pooled):
        await scene.respond("w", id, result={"n": 1})
        assert await scene.status(id) == "completed"
    assert sorted(state for _, state, _ in await scene.told()) == ["completed"] * 2
    assert (await scene.broadcast("req", "news", idempotency_key="k")).recipients == 2
    assert (await scene.broadcast("req", "news", idempotency_key="k")).recipients == 2
    assert await heard(scene, "w") == ["news"]
    req = await scene.agent("req")
    for text in (b"x", b"y"):
        write = Write(key="f", content_type="text/plain", idempotency_key=text.decode())
        await scene.relay.files.put(req, write, once(text), 1)
    look()
    await scene.send("req", "w", "hello")
    await scene.relay.stops.switch(StopAll(True))
    await scene.relay.stops.switch(StopAll(False))
    await scene.relay.audit.note("kick", "w", {}, by="local", address=None)
    assert await scene.leave("w")
    await scene.let_pass(10 * 24 * 3600)
    look()
    domain = {kind for kind in records.kinds() if kind.__module__.startswith("clawlink.domain.")}
    assert seen == domain - {UnfinishedUpload}  # for which contents must survive, too: see tests/system/test_data.py
