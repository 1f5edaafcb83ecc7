"""Messages by the first characters of their ids: those of the asking agent alone, however many there are of others."""

from __future__ import annotations

from typing import Any

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.errors import BadRequest
from clawlink.protocol import requests
from clawlink.protocol.replies import FoundIds
from clawlink.store.base import Put
from tests.relay.scene import Scene


async def find(scene: Scene, asker: str, beginning: str) -> FoundIds:
    return await scene.relay.messages.find(await scene.agent(asker), beginning, requests.Asker())


def give(scene: Scene, monkeypatch: pytest.MonkeyPatch, *ids: str) -> None:
    """Make these the next ids of messages."""
    left = iter(ids)
    monkeypatch.setattr(scene.relay.core.ids, "fresh", lambda: next(left))


def id(text: str) -> str:
    return text.ljust(24, "0")


async def test_an_agent_finds_all_that_it_sent_or_was_sent_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    await scene.register("ann", "bob", "eve")
    await scene.register("kim", notices=True)
    give(scene, monkeypatch, *map(id, ("abc1", "abc2", "abc3", "abc4", "abd5")))
    task = await scene.delegate("ann", to_agent="bob")
    pooled = await scene.delegate("ann", to_any_of=["bob", "kim"])
    said = await scene.send("bob", "ann")
    told = (await scene.broadcast("ann", "news")).message_id
    await scene.send("eve", "kim")
    for asker, beginning, ids in (
        ("ann", "abc", None),
        ("ann", "ABCD", None),
        ("ann", id("abc1") + "0", None),
        ("ann", "abcg", None),
        ("ann", "abc1", [task]),
        ("ann", "abc20", [pooled]),
        ("ann", said, [said]),
        ("ann", "abc4", [told]),
        ("bob", "abc1", [task]),
        ("bob", "abc2", []),  # it has not claimed it
        ("bob", "abc3", [said]),
        ("bob", "abc4", [told]),  # its copy
        ("eve", "abc1", []),
        ("eve", "abc4", [told]),
        ("eve", "abd5", [id("abd5")]),
        ("ann", "abd5", []),
    ):
        if ids is None:
            with pytest.raises(BadRequest) as refused:
                await find(scene, asker, beginning)
            assert (refused.value.field, "4 to 24" in str(refused.value)) == ("beginning", True), beginning
        else:
            found = await find(scene, asker, beginning)
            assert ([one.message_id for one in found.ids], found.more) == (ids, False), (asker, beginning)
    # The facts are those of the status.
    await scene.use_up("bob", 1)
    for one in (task, said, told):
        fact = (await find(scene, "ann", one)).ids[0]
        status = await scene.relay.messages.status(await scene.agent("ann"), one, requests.MessageQuery())
        for field in fact.__struct_fields__:
            assert getattr(fact, field) == getattr(status, field), (one, field)


async def test_a_look_up_is_bounded_whatever_others_have_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    await scene.register("ann", "bob", *(f"a{n}" for n in range(300)))
    give(scene, monkeypatch, id("abcd"), id("abce"), *(id(f"bcde{n:03}") for n in range(30)))
    told = (await scene.broadcast("ann", "news")).message_id
    task = await scene.delegate("ann", to_agent="bob")
    read = 0
    plain = scene.store.ids

    async def counting(*args: Any) -> Any:
        nonlocal read
        found = await plain(*args)
        read += len(found)
        return found

    monkeypatch.setattr(scene.store, "ids", counting)
    # The copies of a broadcast are stepped over, not read.
    for beginning, ids, most in (("abcd", [told], 200), ("abce", [task], 2)):
        read = 0
        found = await find(scene, "ann", beginning)
        assert ([one.message_id for one in found.ids], found.more) == (ids, False), beginning
        assert read <= most, beginning
    assert [one.message_id for one in (await find(scene, "a299", "abcd")).ids] == [told]
    # More messages than a reply tells of.
    for _ in range(30):
        await scene.send("ann", "bob")
    found = await find(scene, "ann", "bcde")
    assert (found.count, found.more) == (20, True)
    assert (await find(scene, "ann", "bcde01")).count == 10
    # Ids that an agent has chosen are no ids of the relay. A look-up gives up in the middle of them, and says so.
    await scene.store.commit(
        "bob",
        *(
            Put(Delivery(f"cdef-{n:04}", 1, "bob", "eve", n, b"", scene.now, scene.now, scene.now + 60))
            for n in range(2500)
        ),
    )
    read = 0
    found = await find(scene, "ann", "cdef")
    assert (found.count, found.more, read) == (0, True, 2000)
