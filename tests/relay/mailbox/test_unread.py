"""A wake that is given up: the sender of the message learns it, whichever moment the relay dies in."""

from __future__ import annotations

import pytest

from clawlink.domain.message import MessageUpdate
from clawlink.protocol import requests
from clawlink.store.base import Absent, Drop, Failed, Put
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene


class _Dying(MemoryStore):
    """A store that fails each commit once none is left."""

    left: float = float("inf")

    async def commit(self, partition_key: str, *changes: Put | Drop | Absent) -> None:
        if self.left < 1:
            raise Failed("the relay is gone")
        self.left -= 1
        await super().commit(partition_key, *changes)


async def test_a_relay_that_dies_between_a_wake_and_its_notice_loses_no_notice() -> None:
    """A program without a key for its requests says it again: to the relay this is another wake."""
    for commits, results in ((0, 1), (1, 1), (2, 2)):
        store = _Dying()
        scene = Scene(store=store)
        await scene.register("req", "w")
        id = await scene.send("req", "w")
        gives_up = requests.Woken(agent_id="w", adapter="claude", result="given_up")
        worker = await scene.agent("w")
        store.left = commits
        if commits < 2:
            with pytest.raises(Failed):
                await scene.relay.unread_mail.woken(worker, id, gives_up)
        else:
            await scene.relay.unread_mail.woken(worker, id, gives_up)
        store.left = float("inf")
        scene.now += 1
        stored = await scene.relay.unread_mail.woken(worker, id, gives_up)
        told = [message for message in await scene.read("req") if isinstance(message, MessageUpdate)]
        assert [(one.about, one.status) for one in told] == [(id, "given_up")], commits
        assert [wake.result for wake in stored.woken] == ["given_up"] * results, commits
