"""The operator's lists show all agents, tasks and dead letters, in pages, and withhold texts where they are told to."""

from __future__ import annotations

import msgspec
import pytest

from clawlink.domain.agent import Agent
from clawlink.domain.audit import MAX_ACTS
from clawlink.domain.delivery import AttemptEnd
from clawlink.errors import UnknownAgent, UnknownTask
from clawlink.protocol.admin import AgentsQuery, AllTasksQuery, DeadLettersQuery, OverviewQuery, PageQuery
from clawlink.protocol.operating import RedriveAll
from clawlink.relay.admin import audit
from clawlink.relay.admin.lists import AdminLists
from clawlink.relay.mailbox.consumer import Consumer
from tests.relay.scene import Scene, receipt_of

ASK = OverviewQuery()


async def busy() -> tuple[Scene, dict[str, str]]:
    """Return a scene with a task in each of several states, by state."""
    scene = Scene(max_attempts=1)
    await scene.register("req", "other", "w")
    tasks = {}
    for state in ("completed", "input_required", "in_progress"):
        tasks[state] = await scene.delegate(to_agent="w", task=f"secret {state}")
    await scene.claim("w")
    for state, id in tasks.items():
        await scene.respond("w", id, state, result="secret answer")
    tasks["delivered"] = await scene.delegate("other", to_agent="w", task="secret words")
    await scene.claim("w", lease=5)
    tasks["queued"] = await scene.delegate("other", capability=["a", "b"], task={"n": 1})
    return scene, tasks


async def test_tasks_are_listed_by_state_and_by_party_page_by_page() -> None:
    scene, tasks = await busy()
    lists = scene.relay.admin_lists
    open_states = ["input_required", "in_progress", "delivered", "queued"]
    for ask, expected in (
        (AllTasksQuery(), open_states),
        (AllTasksQuery(status="final"), ["completed"]),
        (AllTasksQuery(status="delivered"), ["delivered"]),
        (AllTasksQuery(requester="other"), ["delivered", "queued"]),
        (AllTasksQuery(assignee="w"), ["input_required", "in_progress", "delivered"]),
        (AllTasksQuery(assignee="w", status="final"), ["completed"]),
        (AllTasksQuery(requester="req", assignee="w", status="in_progress"), ["in_progress"]),
        (AllTasksQuery(requester="nobody"), []),
    ):
        found = await lists.tasks(ask)
        assert [t.status for t in found.tasks] == expected, ask
        assert [t.task_id for t in found.tasks] == [tasks[state] for state in expected], ask
        paged, after = [], None
        for _ in range(12):
            page = await lists.tasks(msgspec.structs.replace(ask, limit=1, after=after))
            paged += page.tasks
            after = page.next
            if after is None:
                break
        assert (paged, after) == (found.tasks, None), ask
    (queued,) = (await lists.tasks(AllTasksQuery(status="queued"))).tasks
    assert (queued.capability, queued.assignee, queued.words) == (["a", "b"], None, '{"n":1}')


async def test_the_last_task_that_came_to_a_state_is_the_first() -> None:
    scene = Scene()
    await scene.register("a", "w")
    tasks = [await scene.delegate("a", to_agent="w") for _ in range(3)]
    await scene.relay.acks.ack("w", await scene.claim("w"))
    for asks in (1, 2, 0):
        await scene.respond("w", tasks[asks], "input_required", "which?")
    found = await scene.relay.admin_lists.tasks(AllTasksQuery(status="input_required"))
    assert [task.task_id for task in found.tasks] == [tasks[0], tasks[2], tasks[1]]


async def test_a_task_has_its_facts_and_leases() -> None:
    scene, tasks = await busy()
    shown = await scene.relay.admin_lists.task(tasks["completed"], ASK)
    assert [(held.agent, held.ended_by) for held in shown.leases] == [("w", "completed")]
    assert shown.facts.answered_at is not None
    assert shown.facts.acknowledged_at == shown.facts.answered_at  # the answer has settled it: no ack came
    assert shown.task.result == "secret answer"
    with pytest.raises(UnknownTask, match="kept 3600 s"):
        await scene.relay.admin_lists.task("none", ASK)


async def test_agents_have_their_load_and_what_they_work_on() -> None:
    scene, tasks = await busy()
    lists = scene.relay.admin_lists
    found = {a.agent_id: a for a in (await lists.agents(AgentsQuery())).agents}
    assert set(found) == {"req", "other", "w"}
    assert found["w"].open_tasks == 3
    current = found["w"].current
    assert current is not None
    assert (current.task_id, current.words) == (tasks["in_progress"], "secret in_progress")
    for ask, ids in (
        (AgentsQuery(text="OTH"), ["other"]),
        (AgentsQuery(status="stale"), []),
        (AgentsQuery(limit=2), ["req", "other"]),
    ):
        assert [a.agent_id for a in (await lists.agents(ask)).agents] == ids, ask
    page = await lists.agents(AgentsQuery(limit=2))
    assert [a.agent_id for a in (await lists.agents(AgentsQuery(after=page.next))).agents] == ["w"]
    one = await lists.agent("req", ASK)
    assert one.asked["completed"] == 1
    assert {m.type for m in one.next_messages} == {"task_response"}
    with pytest.raises(UnknownAgent):
        await lists.agent("nobody", ASK)


async def test_dead_letters_of_all_mailboxes_are_listed_until_they_are_put_back() -> None:
    scene, tasks = await busy()
    await scene.let_pass(6)
    await scene.let_pass(1)
    (letter,) = (await scene.relay.admin_lists.dead_letters(DeadLettersQuery())).dead_letters
    assert (letter.message_id, letter.mailbox, letter.words) == (tasks["delivered"], "w", "secret words")
    assert letter.dead_at is not None
    assert (await scene.relay.admin_lists.agent("w", ASK)).dead_letters == 1
    await scene.relay.mailbox.redrive("w", None, 10)
    assert (await scene.relay.admin_lists.dead_letters(DeadLettersQuery())).dead_letters == []


async def test_a_dead_letter_says_how_its_last_attempt_ended() -> None:
    scene = Scene(max_attempts=1, stale_after=30)
    relay = scene.relay
    await scene.register("a", "silent", "back", "gone", "mute")
    lists, dead = relay.admin_lists, {}
    dead["lapsed"] = await scene.send("a", "silent")
    await scene.take("silent", lease=5)
    dead["given_back"] = await scene.send("a", "back")
    await relay.acks.nack("back", [receipt_of(d) for d in await scene.take("back")], 0)
    dead["connection_ended"] = await scene.send("a", "gone")
    consumer = Consumer(relay.core, relay.claims, relay.acks, await scene.agent("gone"), lease=20, credit=9)

    async def tick() -> Agent:
        return await scene.agent("gone")

    await consumer.next(await scene.agent("gone"), tick=tick)
    consumer.has_read(consumer.batch)
    await consumer.close()
    dead["taken_back"] = await scene.delegate("a", to_agent="mute")
    await relay.acks.ack("mute", await scene.claim("mute"))
    await scene.let_pass(31)  # and so "mute" is stale
    await scene.let_pass(1)
    for agent in ("silent", "back", "gone"):
        assert await scene.take(agent) == []
    found = (await lists.dead_letters(DeadLettersQuery())).dead_letters
    assert {letter.reason: letter.message_id for letter in found} == dead
    for reason in AttemptEnd:
        only = (await lists.dead_letters(DeadLettersQuery(reason=reason))).dead_letters
        assert [letter.message_id for letter in only] == [id for name, id in dead.items() if name == reason]
    shown = await lists.task(dead["taken_back"], ASK)
    assert "never answered; it is in the dead letters of mute" in (shown.task.history[-1].note or "")
    back = await relay.operator.redrive_all(RedriveAll(reason=AttemptEnd.GIVEN_BACK))
    assert (back.message_ids, back.left) == ([dead["given_back"]], 3)
    (again,) = await scene.take("back")
    assert again.ended is None


async def test_a_task_that_was_reported_on_says_too_how_its_last_attempt_ended() -> None:
    scene = Scene(max_attempts=1, stale_after=30)
    await scene.register("a", "mute")
    task = await scene.delegate("a", to_agent="mute")
    await scene.relay.acks.ack("mute", await scene.claim("mute"))
    await scene.respond("mute", task, "in_progress")
    await scene.let_pass(31)
    await scene.let_pass(1)
    (letter,) = (await scene.relay.admin_lists.dead_letters(DeadLettersQuery())).dead_letters
    assert (letter.message_id, letter.reason) == (task, AttemptEnd.TAKEN_BACK)


async def test_texts_are_withheld_where_they_are_not_to_be_shown() -> None:
    scene, tasks = await busy()
    await scene.let_pass(6)
    await scene.let_pass(1)
    relay = scene.relay
    lists = AdminLists(relay.core, relay.agents, relay.task_views, contents=False)
    shown = [
        await lists.tasks(AllTasksQuery()),
        await lists.tasks(AllTasksQuery(status="final")),
        await lists.dead_letters(DeadLettersQuery()),
        await lists.agents(AgentsQuery()),
        *[await lists.agent(id, ASK) for id in ("req", "other", "w")],
        *[await lists.task(id, ASK) for id in tasks.values()],
    ]
    for one in shown:
        assert b"secret" not in msgspec.json.encode(one), one
    open_lists = [await relay.admin_lists.task(tasks["completed"], ASK), await relay.admin_lists.tasks(AllTasksQuery())]
    assert all(b"secret" in msgspec.json.encode(one) for one in open_lists)


async def test_acts_of_the_operator_are_kept_bounded_and_for_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ACTS == 10_000
    monkeypatch.setattr(audit, "MAX_ACTS", 3)
    scene = Scene()
    for n in range(5):
        await scene.relay.audit.note("kick", f"agent {n}", {"dropped": n}, by="token", address="192.0.2.1")
    found = await scene.relay.audit.list(PageQuery())
    assert [e.target for e in found.entries] == ["agent 4", "agent 3", "agent 2"]
    newest = found.entries[0]
    assert (newest.act, newest.by, newest.address, newest.facts) == ("kick", "token", "192.0.2.1", {"dropped": 4})
    await scene.let_pass(91 * 24 * 3600)
    assert (await scene.relay.audit.list(PageQuery())).entries == []
