"""An agent leaves, and a stranger takes its id: it inherits nothing. The agent that comes back has all that it had."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from clawlink.domain.message import TaskResponse
from clawlink.domain.readers import party
from clawlink.errors import FileLocked, NotAllowed, UnknownMessage
from clawlink.protocol import file_requests, requests
from clawlink.protocol.operating import StopAll
from tests.relay.scene import Scene

MINE, OTHER = "k" * 43, "o" * 43
# Ways to lose an id.
Go = Callable[[Scene], Coroutine[Any, Any, None]]


async def leaves(scene: Scene) -> None:
    await scene.leave("ann")


async def is_forgotten(scene: Scene) -> None:
    await scene.relay.deregistration.forget("ann")


@pytest.fixture
async def scene() -> Scene:
    """Return a scene with ``ann``, who is claimed, and ``bob``."""
    scene = Scene(stale_after=30)
    await scene.register("ann", key=MINE)
    await scene.register("bob", capabilities=["go"])
    return scene


async def replaced(scene: Scene, key: str | None = OTHER, go: Go = leaves) -> None:
    """Let ``ann`` go, and a stranger take its id; with ``MINE``, let it come back."""
    scene.now += 1
    await go(scene)
    scene.now += 1
    scene.keys.pop("ann", None)
    await scene.register("ann", key=key)


async def is_refused(ask: Awaitable[object]) -> bool:
    try:
        await ask
    except NotAllowed:
        return True
    return False


async def listed(scene: Scene, agent_id: str = "ann", **fields: Any) -> list[str]:
    found = await scene.relay.task_views.list(await scene.agent(agent_id), requests.TasksQuery(**fields))
    return [view.task_id for view in found.tasks]


async def cancel(scene: Scene, id: str) -> None:
    await scene.relay.tasks.cancel(await scene.agent("ann"), id, requests.Cancel(from_agent="ann"))


async def answer(scene: Scene, id: str) -> None:
    await scene.relay.tasks.answer(await scene.agent("ann"), id, requests.Answer(from_agent="ann", content="yes"))


async def status(scene: Scene, id: str, asker: str = "ann") -> str:
    query = requests.MessageQuery(agent_id=asker)
    return (await scene.relay.messages.status(await scene.agent(asker), id, query)).state


async def test_a_task_is_not_its_to_see_or_steer(scene: Scene) -> None:
    for key, go, state in itertools.product(
        (OTHER, None), (leaves, is_forgotten), ("queued", "claimed", "asks", "done")
    ):
        case = f"key {key}, {go.__name__}, {state}"
        id = await scene.delegate("ann", to_agent="bob")
        if state != "queued":
            await scene.claim("bob", lease=10_000)
        if state == "asks":
            await scene.respond("bob", id, "input_required", "which?")
        elif state == "done":
            await scene.respond("bob", id)
        await replaced(scene, key, go)
        for ask in (
            scene.view(id, "ann"),
            status(scene, id),
            cancel(scene, id),
            answer(scene, id),
            scene.respond("ann", id),
            scene.delegate("ann", to_agent="bob", parent_task=id),
        ):
            assert await is_refused(ask), case
        for fields in ({}, {"requester": "ann"}, {"assignee": "ann"}, {"requester": "ann", "assignee": "bob"}):
            assert await listed(scene, **fields) == [], case
        await replaced(scene, MINE)
        assert (await scene.view(id, "ann")).requester == "ann", case
        assert await status(scene, id), case
        assert id in await listed(scene), case
        if state == "asks":
            await answer(scene, id)
        if state != "done":
            await cancel(scene, id)
        await scene.read("bob")


async def test_a_response_is_not_for_it_and_the_worker_is_told_so(scene: Scene) -> None:
    for result in ("in_progress", "completed"):
        id = await scene.delegate("ann", to_agent="bob")
        await scene.claim("bob")
        await replaced(scene)
        ask = requests.Respond(from_agent="bob", message_id=id, status=result, result="for ann")
        sent = await scene.relay.tasks.respond(await scene.agent("bob"), ask)
        assert (sent.delivery, sent.recipient) == ("none", None), result
        assert await scene.read("ann") == [], result
        await replaced(scene, MINE)
        view = await scene.view(id, "ann")
        assert view.status == result
        assert view.result == ("for ann" if result == "completed" else None)
        if result == "in_progress":  # and from now on it is told again
            await scene.respond("bob", id)
            assert len(await scene.read("ann")) == 1


async def test_news_of_a_task_are_not_for_it(scene: Scene) -> None:
    ended = [await scene.delegate("ann", to_agent="bob", deadline=60), await scene.delegate("ann", capability="go")]
    await scene.delegate("ann", to_agent="bob")
    assert len(await scene.claim("bob")) > 1
    await replaced(scene)
    await scene.leave("bob")
    await scene.let_pass(3_600)
    assert await scene.read("ann") == []
    await replaced(scene, MINE)
    assert (await scene.view(ended[0], "ann")).status == "expired"


async def test_work_that_was_done_or_meant_for_it_is_not_its_own(scene: Scene) -> None:
    await scene.register("req")
    await scene.register("ann", key=MINE, capabilities=["fly"])
    direct, pooled, lapsed = [
        await scene.delegate(to_agent="ann"),
        *[await scene.delegate(capability="fly") for _ in "12"],
    ]
    for _ in range(3):
        await scene.claim("ann")
    for id in (direct, pooled):
        await scene.respond("ann", id)
    returned = await scene.delegate(to_agent="ann")
    await scene.leave("ann")
    await scene.let_pass(601)
    assert await scene.status(returned) == "returned"
    scene.now += 1
    for key in (OTHER, None):
        await scene.register("ann", key=key)
        for id in (direct, pooled, lapsed, returned):
            for ask in (scene.view(id, "ann"), status(scene, id), scene.respond("ann", id)):
                assert await is_refused(ask), (id, key)
        assert await listed(scene) == []
        assert (await scene.view(direct)).owner is None
        await scene.leave("ann")
        scene.now += 1
        scene.keys.pop("ann", None)
    await scene.register("ann", key=MINE)
    assert {*await listed(scene)} == {direct, pooled}
    assert (await scene.view(lapsed, "ann")).status == "queued"
    assert (await scene.view(direct)).owner is not None


async def test_its_idempotency_keys_are_its_own(scene: Scene) -> None:
    async def ask(what: str) -> str:
        ann = await scene.agent("ann")
        relay = scene.relay
        if what == "task":
            return await scene.delegate("ann", to_agent="bob", idempotency_key="job-1")
        if what == "send":
            send = requests.Send(from_agent="ann", to_agent="bob", content="hi", idempotency_key="job-1")
            return (await relay.messages.send(ann, send)).message_id
        broadcast = requests.Broadcast(from_agent="ann", content="hi", idempotency_key="job-1")
        return (await relay.broadcasts.broadcast(ann, broadcast)).message_id

    for what in ("task", "send", "broadcast"):
        await replaced(scene, MINE)
        first = await ask(what)
        await replaced(scene)
        second = await ask(what)
        assert second != first, what
        assert await ask(what) == second, what
        if what == "broadcast":
            with pytest.raises(UnknownMessage):
                await status(scene, first)
        else:
            with pytest.raises(NotAllowed):
                await status(scene, first)
        assert await status(scene, second), what
        await replaced(scene, None)
        third = await ask(what)
        assert third not in (first, second), what
        await replaced(scene, MINE)
        assert await ask(what) == first, what
        received = {m.message_id for m in await scene.read("bob") if getattr(m, "from_agent", "") == "ann"}
        assert {first, second, third} <= received, what


async def test_a_message_that_it_never_had_is_not_its_own(scene: Scene) -> None:
    read, unread = await scene.send("bob", "ann"), ""
    await scene.read("ann")
    unread = await scene.send("bob", "ann")
    await replaced(scene)
    for id in (read, unread):
        with pytest.raises(NotAllowed):
            await status(scene, id)
        reply = requests.Send(from_agent="ann", to_agent="bob", content="well", in_reply_to=id)
        await scene.relay.messages.send(await scene.agent("ann"), reply)
    query = requests.MessageQuery(agent_id="bob")
    assert (await scene.relay.messages.status(await scene.agent("bob"), read, query)).answered_at is None
    await replaced(scene, MINE)
    assert await status(scene, read) == "acked"


async def test_agents_without_a_key_are_taken_for_each_other_as_before(scene: Scene) -> None:
    await scene.register("old")
    asked = await scene.delegate("old", to_agent="bob")
    given = await scene.delegate("bob", to_agent="old")
    await scene.claim("old")
    await scene.respond("old", given)
    await scene.leave("old")
    scene.now += 1
    await scene.register("old")
    assert {*await listed(scene, "old")} == {asked, given}
    await scene.claim("bob")
    await scene.respond("bob", asked)
    assert [m.status for m in await scene.read("old") if isinstance(m, TaskResponse)] == ["completed"]


async def test_an_agent_that_is_claimed_keeps_what_it_had(scene: Scene) -> None:
    await scene.register("old")
    asked = await scene.delegate("old", to_agent="bob")
    await scene.register("old", key=MINE)
    assert await listed(scene, "old") == [asked]
    await scene.claim("bob")
    await scene.respond("bob", asked)
    assert len(await scene.read("old")) == 1


async def test_work_for_any_of_several_is_not_its_own(scene: Scene) -> None:
    await scene.register("req")
    id = await scene.delegate(to_any_of=["ann", "bob"])
    for key in (OTHER, None):
        await replaced(scene, key)
        assert await scene.claim("ann") == [], key
        assert (await scene.view(id)).pool_online == 1, key
    await replaced(scene, MINE)
    assert len(await scene.claim("ann")) == 1
    await replaced(scene, OTHER)  # it goes back to the same pool
    assert await scene.claim("ann") == []
    fresh = await scene.delegate(to_any_of=["ann", "bob"])
    assert [d.id for d in await scene.take("ann")] == [fresh]
    assert [d.id for d in await scene.take("bob")] == [id]


async def test_a_lock_is_not_its_own(scene: Scene) -> None:
    async def lock(id: str) -> None:
        ask = file_requests.LockFile(agent_id=id, file_key="plan", seconds=600)
        await scene.relay.files.lock(await scene.agent(id), ask)

    await lock("ann")
    for key in (OTHER, None):
        await replaced(scene, key)
        with pytest.raises(FileLocked):
            await lock("ann")
        with pytest.raises(FileLocked):
            await scene.relay.files.unlock(await scene.agent("ann"), "plan", file_requests.UnlockQuery())
    await replaced(scene, MINE)
    await lock("ann")


async def test_in_a_stop_of_all_work_it_inherits_nothing_either(scene: Scene) -> None:
    """Relay time stands still then: the facts of a stop and the registers in it would be of one moment."""
    await scene.register("old")
    await scene.relay.stops.switch(StopAll(True))
    ask = file_requests.LockFile(agent_id="ann", file_key="plan", seconds=600)
    await scene.relay.files.lock(await scene.agent("ann"), ask)
    before = [party(await scene.agent(id)) for id in ("ann", "old")]
    await replaced(scene)
    with pytest.raises(FileLocked):
        await scene.relay.files.lock(await scene.agent("ann"), ask)
    for _ in range(2):  # without a key it is known by its register
        await scene.leave("old")
        await scene.register("old")
        now = party(await scene.agent("old"))
        assert now not in before
        before.append(now)
        scene.now += 1
    await replaced(scene, MINE)
    await scene.relay.files.lock(await scene.agent("ann"), ask)
