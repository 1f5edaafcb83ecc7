"""The janitor: what is settled is kept for as long as there is room for it."""

from __future__ import annotations

from clawlink.domain.delivery import Delivery
from clawlink.domain.record import SETTLED
from clawlink.errors import UnknownMessage
from clawlink.protocol import requests
from tests.relay.scene import Scene, receipt_of

ROOM = 20_000


async def known(scene: Scene, ids: list[str]) -> list[str]:
    """Return those of the messages that the relay still tells of."""
    found = []
    for id in ids:
        try:
            await scene.relay.messages.status(await scene.agent("req"), id, requests.MessageQuery())
        except UnknownMessage:
            continue
        found.append(id)
    return found


async def test_of_settled_messages_only_as_many_are_forgotten_as_there_are_too_many_bytes() -> None:
    scene = Scene(retention_bytes=ROOM)
    await scene.register("req", "bob")
    ids: list[str] = []
    size = 0
    for _ in range(40):
        ids.append(await scene.send("req", "bob", "x" * 1000))
        await scene.relay.settling.ack("bob", [receipt_of(d) for d in await scene.take("bob")])
        await scene.let_pass(1)
        size = size or (await scene.store.usage(Delivery, SETTLED)).bytes
        assert await known(scene, ids) == ids[-(ROOM // size) :]
    assert len(await known(scene, ids)) < len(ids)
