"""The operator's views of talk, broadcasts, files, load and search, and the matters that wait for a person."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import msgspec
import pytest

from clawlink.domain.agent import Agent
from clawlink.domain.delivery import Delivery
from clawlink.domain.limits import Limits
from clawlink.errors import BadRequest, UnknownTask
from clawlink.protocol import admin, file_requests, requests
from clawlink.protocol import admin_views as views
from clawlink.protocol.operating import OperatorMessage
from clawlink.relay.relay import Relay
from clawlink.relay.telemetry import talks
from clawlink.store.memory import MemoryStore
from clawlink.store.signals import LocalSignals
from tests.relay.scene import Scene


async def busy() -> tuple[Scene, str]:
    """Return a scene in which agents have talked, and the id of an answered task."""
    scene = Scene()
    await scene.register("req", "w", "other", capabilities=["go"])
    id = await scene.delegate(to_agent="w", task="secret sum")
    await scene.claim("w")
    scene.now += 1
    await scene.respond("w", id, "input_required", result="secret question")
    scene.now += 1
    ask = requests.Answer(from_agent="req", content="secret hint")
    await scene.relay.tasks.answer(await scene.agent("req"), id, ask)
    scene.now += 1
    await scene.respond("w", id, "completed", result={"secret": 3})
    scene.now += 1
    await scene.send("req", "w", "secret thanks")
    scene.now += 1
    await scene.send("other", "w", "secret aside")
    return scene, id


def withheld(scene: Scene) -> Relay:
    """Return a relay over the same records that withholds texts."""
    return Relay(scene.store, LocalSignals(), Limits(), clock=lambda: scene.now, contents=False)


async def test_a_talk_names_the_pool_of_a_task_until_an_agent_claims_it() -> None:
    scene, _ = await busy()
    talk = scene.relay.talk_views
    await scene.register("b1", "b2", capabilities=["build", "fast"])
    await scene.delegate(capability=["build", "fast"], task="secret build")
    (line, *_) = (await talk.talk(views.TalkQuery("req"))).lines
    assert (line.to_agent, line.capability, line.to_any_of) == (None, ["build", "fast"], [])
    await scene.claim("b1")
    (line, *_) = (await talk.talk(views.TalkQuery("req"))).lines
    assert (line.to_agent, line.capability) == ("b1", [])
    scene.now += 1
    await scene.delegate(to_any_of=["b1", "b2"], task="secret choice")
    found = await talk.talk(views.TalkQuery("req"))
    assert (found.lines[0].to_agent, found.lines[0].to_any_of) == (None, ["b1", "b2"])
    assert {"b1", "b2"} <= found.names.keys()


async def test_all_talk_of_an_agent_has_what_others_have_not_read_yet() -> None:
    scene, _ = await busy()
    found = await scene.relay.talk_views.talk(views.TalkQuery("other"))
    assert [(line.from_agent, line.to_agent, line.text) for line in found.lines] == [("other", "w", "secret aside")]
    assert found.complete


async def test_talk_with_more_agents_than_are_looked_at_is_not_complete() -> None:
    scene = Scene()
    await scene.register("chatty", "reader")
    await scene.send("chatty", "reader", "hello")
    for more, complete in ((1998, True), (100, False)):
        await scene.register(*(f"idle-{more}-{number}" for number in range(more)))
        found = await scene.relay.talk_views.talk(views.TalkQuery("chatty"))
        assert ([line.text for line in found.lines], found.complete) == (["hello"], complete)


async def test_lists_name_the_agents_that_they_were_asked_for() -> None:
    scene, _ = await busy()
    await scene.register("idle")
    relay = scene.relay
    assert (await relay.admin_lists.tasks(admin.AllTasksQuery(assignee="idle"))).names == {"idle": "idle"}
    assert (await relay.talk_views.pairs(views.TalksQuery(agent="idle"))).names == {"idle": "idle"}
    assert (await relay.talk_views.talk(views.TalkQuery("idle"))).names == {"idle": "idle"}
    assert (await relay.library_views.files(views.AllFilesQuery(agent="idle"))).names == {"idle": "idle"}


async def test_a_talk_reads_as_a_thread_page_by_page() -> None:
    scene, id = await busy()
    talk = scene.relay.talk_views
    found = await talk.talk(views.TalkQuery("req", "w"))
    assert [(line.kind, line.from_agent, line.text) for line in found.lines] == [
        ("message", "req", "secret thanks"),
        ("answer", "w", '{"secret":3}'),
        ("report", "req", "secret hint"),
        ("report", "w", "secret question"),
        ("task", "req", "secret sum"),
    ]
    assert (found.complete, found.next, found.lines[-1].message_id) == (True, None, id)
    assert await talk.talk(views.TalkQuery("w", "req")) == found
    paged: list[Any] = []
    after = None
    for _ in range(8):
        page = await talk.talk(views.TalkQuery("req", "w", limit=2, after=after))
        paged += page.lines
        after = page.next
        if after is None:
            break
    assert paged == found.lines
    everything = await talk.talk(views.TalkQuery("w"))
    assert len(everything.lines) == 6
    assert everything.lines[0].from_agent == "other"
    await scene.read("w")  # a message that was read is still part of the talk
    after_reading = await talk.talk(views.TalkQuery("req", "w"))
    assert [line.text for line in after_reading.lines] == [line.text for line in found.lines]
    assert after_reading.lines[0].status == "acked"
    assert (await talk.talk(views.TalkQuery("req", "nobody"))).lines == []
    assert page.next is None
    for senseless in ("1.0:0", "1.0:-1:a", "0.place"):
        with pytest.raises(BadRequest, match="leave after out to begin the list again"):
            await talk.talk(views.TalkQuery("req", after=senseless))
    relay = scene.relay
    for senseless in ("x", "", "5", "nan:0:a", "inf:0:a", "99.", "-1.", "1_0.", "\u0663."):
        for look in (
            talk.talk(views.TalkQuery("req", after=senseless)),
            relay.search_views.search(views.SearchQuery("secret", after=senseless)),
            relay.library_views.files(views.AllFilesQuery(after=senseless)),
            relay.admin_lists.tasks(admin.AllTasksQuery(after=senseless)),
        ):
            with pytest.raises(BadRequest, match="leave after out to begin the list again") as refused:
                await look
            assert refused.value.field == "after"


async def test_lines_of_one_instant_all_come_page_by_page() -> None:
    scene = Scene()
    await scene.register("a", "b")
    for n in range(7):
        await scene.send("a", "b", f"line {n}")
    talk, after, texts = scene.relay.talk_views, None, list[Any]()
    for _ in range(8):
        page = await talk.talk(views.TalkQuery("a", "b", limit=3, after=after))
        texts += [line.text for line in page.lines]
        assert len({line.at for line in page.lines}) == 1
        after = page.next
        if after is None:
            break
    assert sorted(texts) == [f"line {n}" for n in range(7)]


async def test_pairs_count_what_one_said_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = await busy()
    await scene.broadcast("req", "to all")
    found = await scene.relay.talk_views.pairs(views.TalksQuery())
    assert {(p.from_agent, p.to_agent): p.messages for p in found.talks} == {
        ("req", "w"): 3,
        ("w", "req"): 2,
        ("other", "w"): 1,
    }
    assert (found.pairs, found.dropped) == (3, 0)
    some = await scene.relay.talk_views.pairs(views.TalksQuery("other", limit=1))
    assert [p.from_agent for p in some.talks] == ["other"]
    with monkeypatch.context() as patch:  # there are more than a reply has
        patch.setattr(talks, "_FEW", 2)
        many = await scene.relay.talk_views.pairs(views.TalksQuery())
        assert [p.messages for p in many.talks] == [3, 2]
    monkeypatch.setattr(talks, "MAX_PAIRS", 3)
    monkeypatch.setattr(talks, "_FORGOTTEN_AT_ONCE", 2)
    scene.now += 1
    await scene.send("w", "other")
    left = await scene.relay.talk_views.pairs(views.TalksQuery())
    assert (left.pairs, left.dropped) == (2, 2)
    assert {(p.from_agent, p.to_agent) for p in left.talks} == {("other", "w"), ("w", "other")}


async def test_children_of_a_task_are_found_under_its_workers() -> None:
    scene = Scene()
    await scene.register("req", "w", "sub")
    id = await scene.delegate(to_agent="w")
    await scene.claim("w")
    made = []
    for _ in range(2):
        scene.now += 1
        made.append(await scene.delegate("w", to_agent="sub", parent_task=id))
    await scene.delegate("w", to_agent="sub")
    await scene.claim("sub")
    await scene.respond("sub", made[0])
    found = await scene.relay.talk_views.children(id, views.ChildrenQuery())
    assert [(task.task_id, task.status) for task in found.tasks] == [(made[0], "completed"), (made[1], "delivered")]
    assert found.complete
    with pytest.raises(UnknownTask):
        await scene.relay.talk_views.children("none", views.ChildrenQuery())


async def test_broadcasts_are_listed_by_topic_tag_and_author() -> None:
    scene, _ = await busy()
    await scene.broadcast("req", "secret news", topic="build.main", tags=["red"])
    await scene.broadcast("other", "secret talk", topic="chat")
    library = scene.relay.library_views
    for ask, authors in (
        (views.BroadcastsQuery(), ["other", "req"]),
        (views.BroadcastsQuery(topic="build.*"), ["req"]),
        (views.BroadcastsQuery(topic="chat"), ["other"]),
        (views.BroadcastsQuery(tag="RED"), ["req"]),
        (views.BroadcastsQuery(author="other"), ["other"]),
        (views.BroadcastsQuery(author="w"), []),
        (views.BroadcastsQuery(limit=1), ["other"]),
    ):
        found = await library.broadcasts(ask)
        assert [one.from_agent for one in found.broadcasts] == authors, ask
    page = await library.broadcasts(views.BroadcastsQuery(limit=1))
    rest = await library.broadcasts(views.BroadcastsQuery(after=page.next))
    assert [(one.text, one.recipients) for one in rest.broadcasts] == [("secret news", 2)]


async def test_load_shows_limits_with_their_use_and_the_last_hour() -> None:
    scene, _ = await busy()
    load = scene.relay.load_views
    first = await load.load(views.LoadQuery())
    assert first.counters["stored"] == sum(minute.stored for minute in first.minutes) > 0
    used = {limit.name: limit.used for limit in first.limits}
    assert (used["max_agents"], used["max_knowledge"], used["lease"]) == (3, 0, None)
    await load.sample(connections=7)
    held = (await load.load(views.LoadQuery())).minutes[-1]
    assert (held.connections, held.waiting_polls, held.file_bytes) == (7, 0, 0)
    assert held.messages_held > 0
    assert (held.agents_online, held.agents_stale, held.upkeep_stuck) == (3, 0, 0)
    assert held.message_bytes_held > 0
    scene.now += 600
    await scene.send("req", "w")
    await load.sample()
    scene.now += 2
    await scene.register("new")
    await load.sample()
    assert load.history.minutes()[-1].held.agents_online == 1, "agents are counted every 15 s"
    later = await load.load(views.LoadQuery())
    assert later.minutes[-1].agents_online == 2, "and for a look sooner"
    assert len(later.minutes) == 11
    assert [minute.counters for minute in later.minutes[1:]] == [{}] * 9 + [{"stored": 1}]
    assert later.minutes[-1].agents_stale == 2
    assert sum(minute.counters.get("tasks_answered", 0) for minute in later.minutes) == 1
    assert [minute.stored for minute in later.minutes[1:]] == [0] * 9 + [1]
    scene.now += 4 * 3600
    assert len((await load.load(views.LoadQuery())).minutes) == 60


async def found(scene: Scene, text: str, **more: Any) -> list[tuple[str, str]]:
    """Search to the end, and return kind and id of all that was found."""
    hits: list[tuple[str, str]] = []
    after = None
    while True:
        page = await scene.relay.search_views.search(views.SearchQuery(text, after=after, **more))
        hits += [(hit.kind, hit.id) for hit in page.hits]
        after = page.next
        if after is None:
            return hits


async def test_search_finds_names_ids_and_words_of_all_kinds() -> None:
    scene, id = await busy()
    told = await scene.broadcast("req", 'a "Quoted" word', topic="build.main", tags=["red"])
    message = await scene.send("other", "w", "needle in a haystack")
    queued = await scene.delegate("other", to_agent="w", task={"find": "the Needle"})
    for limit in (1, 50):
        assert await found(scene, "OTHER", limit=limit) == [("agent", "other")]
        assert await found(scene, "needle", limit=limit) == [("task", queued), ("message", message)]
        assert await found(scene, '"quoted"', limit=limit) == [("broadcast", told.message_id)]
        assert await found(scene, "build", limit=limit) == [("broadcast", told.message_id)]
        assert await found(scene, id[:8], limit=limit) == [("task", id)]
    assert await found(scene, "from_agent") == []  # a name of a field is no word
    assert ("message", message) in await found(scene, message[:6])
    await scene.read("w")
    assert await found(scene, "haystack") == [("message", message)]


async def test_search_reads_all_unread_messages_and_gives_each_once() -> None:
    scene = Scene()
    for name in ("req", "one", "two", "three"):
        await scene.register(name)
    wanted = []
    for name, count in (("one", 130), ("two", 3), ("three", 120)):
        wanted += [("message", await scene.send("req", name, "a needle")) for _ in range(count)]
        scene.now += 10  # new work has a pace
    await scene.send("req", "two", "hay")
    for limit in (1, 7, 120, 1000):
        hits = await found(scene, "needle", limit=limit)
        assert sorted(hits) == sorted(wanted), limit
    first = await scene.relay.search_views.search(views.SearchQuery("needle", limit=7))
    assert first.count == 7


async def test_search_gives_a_message_once_if_the_last_agents_leave_meanwhile() -> None:
    class Leaving(MemoryStore):
        async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
            read = await super().pending(mailbox, limit, but)
            if mailbox == "reader" and await self.get(Agent, "last") is not None:
                await scene.leave("last")
            return read

    scene = Scene(store=Leaving())
    await scene.register("req", "reader", "last")
    message = await scene.send("req", "reader", "a needle")
    assert await found(scene, "needle", limit=1) == [("message", message)]


@pytest.mark.parametrize("gone", ["first", "reader"])
async def test_search_skips_nothing_of_a_mailbox_if_an_agent_before_it_leaves_meanwhile(gone: str) -> None:
    class Leaving(MemoryStore):
        async def pending(self, mailbox: str, limit: int, but: Container[str] = ()) -> Sequence[Delivery]:
            read = await super().pending(mailbox, limit, but)
            if mailbox == "reader" and await self.get(Agent, gone) is not None:
                await scene.leave(gone)
            return read

    scene = Scene(store=Leaving())
    await scene.register("req", "first", "reader", "next")
    sent: dict[str, list[str]] = {"reader": [], "next": []}
    for name, ids in sent.items():
        for _ in range(3):
            ids.append(await scene.send("req", name, "a needle"))
    hits = [id for _, id in await found(scene, "needle", limit=1)]
    assert set(sent["next"]) <= set(hits)
    if gone == "first":
        assert sorted(hits) == sorted(sent["reader"] + sent["next"])


async def test_search_goes_on_in_no_mailbox_of_another_agent() -> None:
    """The place of a search is in a mailbox whose agent leaves before the next request."""
    scene = Scene()
    await scene.register("req", "reader", "next")
    await scene.send("req", "reader", "a needle")
    await scene.send("req", "reader", "a needle")
    sent = {await scene.send("req", "next", "a needle") for _ in range(20)}
    first = await scene.relay.search_views.search(views.SearchQuery("needle", limit=1))
    await scene.leave("reader")
    hits: list[str] = []
    after = first.next
    while after is not None:
        told = await scene.relay.search_views.search(views.SearchQuery("needle", limit=1, after=after))
        hits += [hit.id for hit in told.hits]
        after = told.next
    assert sent <= set(hits)
    nonsense = views.SearchQuery("needle", after=str(first.next).partition(".")[0] + ".nonsense")
    with pytest.raises(BadRequest):
        await scene.relay.search_views.search(nonsense)


async def test_no_view_shows_texts_where_they_are_withheld() -> None:
    scene, id = await busy()
    await scene.broadcast("req", "secret news")
    lock = file_requests.LockFile(agent_id="req", file_key="plan", seconds=60, note="secret note")
    writer = await scene.agent("req")
    await scene.relay.json_files.put(writer, file_requests.PutFile("plan", "secret plan", agent_id="req"))
    await scene.relay.files.lock(writer, lock)
    relay = withheld(scene)
    shown = [
        await relay.library_views.file("plan", views.FileQuery()),
        await relay.library_views.files(views.AllFilesQuery()),
        await relay.talk_views.talk(views.TalkQuery("w")),
        await relay.talk_views.children(id, views.ChildrenQuery()),
        await relay.library_views.broadcasts(views.BroadcastsQuery()),
        await relay.search_views.search(views.SearchQuery("req")),
        await relay.search_views.search(views.SearchQuery(id)),
    ]
    for one in shown:
        assert b"secret" not in msgspec.json.encode(one), one
    hidden = await relay.search_views.search(views.SearchQuery("secret"))
    assert hidden.hits == []


async def test_the_overview_names_agents_that_could_not_be_woken_and_mail_that_is_not_read() -> None:
    scene = Scene()
    await scene.register("req", "w", "v")
    ids = {to: await scene.send("req", to) for to in ("w", "v")}
    for agent, result in (("w", "failed"), ("v", "failed"), ("v", "started")):
        ask = requests.Woken(agent_id=agent, adapter="tmux", result=result, note="secret pane")  # type: ignore[arg-type]
        await scene.relay.unread_mail.woken(await scene.agent(agent), ids[agent], ask)
    needs = (await scene.relay.overviews.make()).needs_you
    assert [(one.agent_id, one.message_id, one.note) for one in needs.unwoken] == [("w", ids["w"], "secret pane")]
    assert (needs.unwoken_agents, needs.unread_mailboxes, needs.stuck_records) == (1, 0, 0)
    scene.now += 3600
    assert (await scene.relay.overviews.make()).needs_you.unread_mailboxes == 2
    await scene.read("w")
    needs = (await scene.relay.overviews.make()).needs_you
    assert (needs.unwoken_agents, needs.unread_mailboxes) == (0, 1)
    await scene.relay.operator.send(OperatorMessage(to_agent="w", content="hello"))
    await scene.send("req", "operator")
    scene.now += 3600
    needs = (await scene.relay.overviews.make()).needs_you
    assert (needs.inbox, needs.unread_mailboxes) == (1, 2)  # those of w and v
