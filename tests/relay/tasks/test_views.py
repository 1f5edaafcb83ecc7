"""The view that agents have of their tasks, and of those of others."""

from __future__ import annotations

from clawlink.domain.limits import MAX_HISTORY
from clawlink.protocol import requests
from clawlink.protocol.replies import TaskView
from clawlink.relay.timestamps import iso
from tests.relay.scene import Scene
from tests.tables import each


async def listed(scene: Scene, asker: str) -> list[TaskView]:
    return (await scene.relay.task_views.list(await scene.agent(asker), requests.TasksQuery())).tasks


@each("kind", ["task", "message"])
async def test_no_agent_is_listed_the_dead_letters_of_another_whatever_it_is_called(kind: str) -> None:
    scene = Scene(max_attempts=1)
    await scene.register("req", "dead:bob", "bob")
    if kind == "task":
        await scene.delegate(to_agent="bob", task="between req and bob")
    else:
        await scene.send("req", "bob", "between req and bob")
    assert len(await scene.take("bob", lease=5)) == 1
    scene.now += 6
    assert await scene.take("bob") == []
    assert len((await scene.relay.mailbox.dead_letters("bob", None, 10)).records) == 1
    assert await listed(scene, "dead:bob") == []
    assert [task.task for task in await listed(scene, "bob")] == ["between req and bob"] * (kind == "task")


async def test_a_task_handed_out_again_and_again_tells_of_the_newest_steps_and_how_many_it_left_out() -> None:
    scene = Scene(max_attempts=5)
    await scene.register("req", "bob")
    id = await scene.delegate(to_agent="bob")
    for _ in range(12):
        for _ in range(5):
            scene.now += 1
            await scene.relay.acks.nack("bob", await scene.claim("bob"), 0)
        assert await scene.claim("bob") == []
        assert await scene.relay.mailbox.redrive("bob", [id], 1) == [id]
        task = await scene.view(id)
        assert len(task.history) <= 1 + MAX_HISTORY
        assert [event.status for event in task.history[:1] + task.history[-3:]] == ["queued"] * 4
        assert (task.history[0].by, task.history[-1].at) == ("req", iso(scene.now))
    assert task.history_folded > 0
    assert task.history_folded + len(task.history) == 1 + 12 * 12
