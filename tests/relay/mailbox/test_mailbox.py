"""Mailboxes: dead letters are their owner's alone, and a notice in the place of an older one is known by its own id."""

from __future__ import annotations

import pytest

from clawlink.domain.delivery import message_id
from clawlink.domain.message import AgentJoined, TaskUpdate, decode
from clawlink.errors import MailboxFull
from clawlink.protocol import requests
from tests.relay.scene import Scene
from tests.store.asking import load


async def test_no_agent_can_fill_the_dead_letters_of_another_whatever_it_is_called() -> None:
    scene = Scene(max_attempts=1)
    await scene.register("req", "dead:bob", "bob")
    for _ in range(3):
        await scene.delegate("dead:bob", to_agent="dead:bob")
    id = await scene.delegate(to_agent="bob")
    await scene.use_up("bob", attempts=1)
    assert await scene.claim("bob") == []
    letters = await scene.relay.mailbox.dead_letters("bob", None, 10)
    assert [message_id(d) for d in letters.records] == [id]
    assert await scene.relay.mailbox.redrive("bob", None, 1) == [id]
    assert len(await scene.claim("bob")) == 1


async def test_a_notice_that_took_the_place_of_an_older_one_is_known_by_the_id_it_came_with() -> None:
    scene = Scene()
    await scene.register("req", notices=True)
    await scene.register("bob")
    await scene.delegate(to_agent="bob")
    for _ in range(3):
        await scene.leave("bob")
        scene.now += 3
        await scene.register("bob")
    taken = await scene.take("req")
    assert [type(decode(d.body)) for d in taken] == [TaskUpdate, AgentJoined]
    for d in taken:
        message = decode(d.body)
        assert isinstance(message, TaskUpdate | AgentJoined)
        assert message.message_id == message_id(d)
        told = await scene.relay.messages.status(await scene.agent("req"), message.message_id, requests.MessageQuery())
        assert told.state == "delivered"


async def test_a_mailbox_takes_messages_up_to_the_last_byte_of_its_limit() -> None:
    scene = Scene()
    await scene.register("ann", "bob", "cat")
    await scene.send("ann", "bob")
    each = (await load(scene.store, "bob")).bytes
    for limit, fits in ((2 * each, True), (2 * each - 1, False)):
        scene = Scene(max_mailbox_bytes=limit, fair_share=100)
        await scene.register("ann", "bob", "cat")
        await scene.send("ann", "bob")
        if fits:
            await scene.send("cat", "bob")
            continue
        with pytest.raises(MailboxFull, match="bytes of messages, and this needs"):
            await scene.send("cat", "bob")
