"""Mailboxes, the relay as a whole, places of agents and uploads are shared fairly, among addresses and their agents."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from clawlink.domain import shares as rules
from clawlink.domain.file import PRESENT, SharedFile
from clawlink.domain.file_write import Write
from clawlink.domain.message import TaskResponse, TaskUpdate
from clawlink.domain.shares import Origin
from clawlink.errors import KeyReused, MailboxFull, Refused, RelayFull, StorageFull
from clawlink.protocol import file_requests, requests
from clawlink.relay.files.quota import UploadBuffer
from clawlink.relay.limits.shares import FairShares, Limit
from clawlink.store.base import Usage
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene
from tests.store.asking import load

FAST: dict[str, Any] = {"rate_agent": 0.0, "rate_pair": 0.0}


async def taken_of(step: Callable[[int], Awaitable[Any]]) -> tuple[int, Refused]:
    """Do a step until it is refused; return how often it was done, and the refusal."""
    for n in range(10_000):
        try:
            await step(n)
        except Refused as refusal:
            return n, refusal
    raise AssertionError("it was never refused")


class Crowd(Scene):
    """A relay whose agents come from several addresses: an id is ``ADDRESS/NAME``."""

    async def join(self, *ids: str) -> None:
        for id in ids:
            ask = requests.Register(agent_id=id, name=id)
            await self.relay.agents.register(ask, machine="here", agent_key=None, address=id.partition("/")[0])

    async def flood(self, sender: str, to: str, content: str = "x") -> tuple[int, Refused]:
        """Send until it is refused; return how many messages were taken, and the refusal."""
        return await taken_of(lambda n: self.send(sender, to, content))


async def test_one_agent_does_not_fill_a_mailbox_by_number() -> None:
    scene = Crowd(max_mailbox_messages=200, **FAST)
    await scene.join("home/victim", "bad/a", "good/b")
    taken, refusal = await scene.flood("bad/a", "home/victim")
    assert taken == 143  # 71 % of the limit
    assert isinstance(refusal, MailboxFull)
    assert refusal.current == {"share_of": "agent", "used": taken}
    assert (refusal.limit, refusal.actual) == (taken, taken + 1)
    assert "143 of them from you" in refusal.message
    assert "try again" in refusal.message
    for n in range(10):  # however often it is tried, others get in
        with pytest.raises(MailboxFull):
            await scene.send("bad/a", "home/victim", n)
        await scene.send("good/b", "home/victim", n)
    await scene.read("home/victim")
    await scene.send("bad/a", "home/victim")


async def test_one_agent_does_not_fill_a_mailbox_by_bytes() -> None:
    scene = Crowd(max_mailbox_bytes=1_000_000, **FAST)
    await scene.join("home/victim", "bad/a", "good/b")
    taken, refusal = await scene.flood("bad/a", "home/victim", "x" * 45_000)
    assert 14 <= taken <= 16
    assert isinstance(refusal, MailboxFull)
    await scene.send("good/b", "home/victim", "x" * 45_000)


async def test_puppets_of_an_address_share_what_one_of_it_had() -> None:
    scene = Crowd(max_mailbox_messages=200, **FAST)
    puppets = [f"bad/{n}" for n in range(30)]
    await scene.join("home/victim", "good/b", *puppets)
    taken = 0
    for puppet in puppets:
        sent, refusal = await scene.flood(puppet, "home/victim")
        taken += sent
    assert taken <= 180  # 90 % of the limit
    assert refusal.current["share_of"] in ("address", "agent")
    await scene.send("good/b", "home/victim")


async def test_newcomers_get_in_when_others_have_filled_the_limit_and_the_share_of_an_address() -> None:
    for addresses, puppets in ((6, 1), (5, 8), (20, 2), (50, 1), (1, 100)):
        scene = Crowd(max_mailbox_messages=2000, **FAST)
        bad = [f"bad{n}/{puppet}" for n in range(addresses) for puppet in range(puppets)]
        await scene.join("home/victim", "good/b", "good/c", "bad0/honest", *bad)
        for agent in bad:
            await scene.flood(agent, "home/victim")
        held = (await load(scene.store, "home/victim")).count
        assert (held >= 1980) == (addresses > 1), (addresses, puppets)
        for n in range(3):
            await scene.send("good/b", "home/victim", n)
        await scene.send("good/c", "home/victim")
        if addresses == 1:
            await scene.send("bad0/honest", "home/victim")
        _, refusal = await scene.flood("bad0/0", "home/victim")
        assert refusal.current["share_of"] in ("address", "agent")
        assert f" {(await load(scene.store, 'home/victim')).count} of 2000 messages, " in refusal.message


async def test_what_becomes_of_a_task_reaches_a_mailbox_that_others_have_filled() -> None:
    scene = Crowd(max_mailbox_messages=50, message_ttl=1e6, rate_copies=0.0, **FAST)
    crowd = [f"bad{n}/a" for n in range(20)]
    await scene.join("home/asker", "work/w", "work/v", "good/b", *crowd)
    answered = await scene.delegate("home/asker", to_agent="work/w")
    late = await scene.delegate("home/asker", to_agent="work/w", deadline=600.0)
    going = await scene.delegate("home/asker", to_agent="work/w")
    left = await scene.delegate("home/asker", to_agent="work/v")
    await scene.take("work/w", lease=3600.0)
    for agent in crowd:
        await scene.flood(agent, "home/asker")
    assert (await load(scene.store, "home/asker")).count >= 50
    await scene.respond("work/w", answered, result="done")
    ask = requests.Respond(from_agent="work/w", message_id=going, status="in_progress", note="half")
    assert (await scene.relay.tasks.respond(await scene.agent("work/w"), ask)).recipient is not None
    await scene.leave("work/v")
    for _ in range(7):
        for agent in ("home/asker", "work/w", "good/b"):
            await scene.agent(agent)
        await scene.let_pass(100.0)
    sent = await scene.broadcast("good/b", "news")
    assert sent.refused == 0
    said = await scene.read("home/asker")
    told = {
        (m.message_id if isinstance(m, TaskResponse) else m.task_id, m.status)
        for m in said
        if isinstance(m, TaskResponse | TaskUpdate)
    }
    assert {(answered, "completed"), (late, "expired"), (going, "in_progress"), (left, "returned")} <= told


async def test_what_an_agent_leaves_behind_does_not_count_for_the_next_of_its_id() -> None:
    scene = Crowd(max_mailbox_messages=100, max_files=100, max_uploads=50, rate_files=0.0, rate_address=0.0, **FAST)
    await scene.join("home/victim")

    async def claim(key: str) -> None:
        ask = requests.Register(agent_id="home/a", name="a", claim=True)
        await scene.relay.agents.register(ask, machine="here", agent_key=key, address="partition_key")
        scene.keys["home/a"] = key

    await claim("1" * 40)
    await scene.flood("home/a", "home/victim")
    await taken_of(lambda n: write(scene, "home/a", f"a{n}", 1))
    await scene.leave("home/a")
    await claim("2" * 40)
    for n in range(5):
        await scene.send("home/a", "home/victim", n)
        await write(scene, "home/a", f"b{n}", 1)


async def test_ten_agents_of_a_machine_fill_its_share_together() -> None:
    scene = Crowd(max_mailbox_messages=200, **FAST)
    friends = [f"home/{n}" for n in range(10)]
    await scene.join("home/victim", *friends)
    for n in range(15):
        for friend in friends:
            await scene.send(friend, "home/victim", n)


async def test_tasks_count_as_messages_do_and_answers_are_of_those_who_answer() -> None:
    scene = Crowd(max_mailbox_messages=100, **FAST)
    await scene.join("bad/a", "home/work", "good/b")
    taken, _ = await taken_of(lambda n: scene.delegate("bad/a", to_agent="home/work"))
    assert taken == 72
    id = await scene.delegate("good/b", to_agent="home/work")
    await scene.take("home/work")
    await scene.respond("home/work", id)
    assert (await scene.view(id, "good/b")).status == "completed"


async def test_one_address_does_not_fill_the_relay() -> None:
    scene = Crowd(max_stored_bytes=1_000_000, **FAST)
    boxes = [f"home/{n}" for n in range(20)]
    await scene.join("bad/a", "good/b", *boxes)
    taken, refusal = await taken_of(lambda n: scene.send("bad/a", boxes[n % 20], f"{n}" + "x" * 20_000))
    assert isinstance(refusal, RelayFull)
    assert refusal.current["share_of"] == "agent"
    assert 33 <= taken <= 36
    await scene.send("good/b", boxes[0], "x" * 20_000)


async def test_no_address_takes_all_memory_nor_what_is_kept_of_it_for_answers() -> None:
    most = 20_000_000
    scene = Crowd(max_memory=most, max_mailbox_bytes=2**40, max_stored_bytes=2**40, **FAST)
    bad = [f"bad{n}/{puppet}" for n in range(5) for puppet in range(2)]
    await scene.join("good/b", "good/c", "good/work", "good2/b", *bad)
    reporters = 0
    asked = await scene.delegate("good/b", to_agent="good/work")
    await scene.take("good/work", lease=3600.0)

    async def hoard(agent: str, n: int) -> str:
        """Open a task that no mailbox holds any more."""
        id = await scene.delegate(agent, to_agent=agent, task=f"{n}" + "x" * 200_000)
        await scene.relay.acks.ack(agent, await scene.claim(agent, lease=3600.0))
        return id

    for agent in bad:
        open_tasks: list[str] = []

        async def open_one(n: int, agent: str = agent, open_tasks: list[str] = open_tasks) -> None:
            open_tasks.append(await hoard(agent, n))

        async def report(n: int, agent: str = agent, open_tasks: list[str] = open_tasks) -> None:
            id = open_tasks[n % len(open_tasks)]
            await scene.respond(agent, id, status="in_progress", result=f"{n}" + "y" * 60_000)

        _, refusal = await taken_of(open_one)
        assert (refusal.field, refusal.current["share_of"] in ("address", "agent")) == ("max_memory", True)
        assert "fair share" in refusal.message
        if open_tasks:  # reports grow a task beyond what new work may have
            _, refusal = await taken_of(report)
            assert isinstance(refusal, StorageFull)
            reporters += 1
    assert reporters >= 2
    held = (await scene.store.admission()).memory
    assert 0.8 * most < held < most
    for agent in ("good/b", "good/c", "good2/b"):
        await scene.send(agent, "good/c", "x" * 1000)
    await scene.respond("good/work", asked, result="z" * 1000)
    assert (await scene.view(asked, "good/b")).status == "completed"
    assert (await scene.store.admission()).memory <= most


async def test_no_address_drives_out_the_broadcasts_that_are_kept_of_others() -> None:
    scene = Crowd(max_knowledge=50, rate_copies=0.0, **FAST)
    bad = [f"bad{n}/{puppet}" for n in range(6) for puppet in range(2)]
    await scene.join("good/b", "fresh/late", *bad)
    await scene.broadcast("good/b", "old news")
    for agent in bad:
        for n in range(60):
            await scene.broadcast(agent, f"{n}")
    await scene.broadcast("fresh/late", "late news")
    await scene.let_pass(1.0)
    kept = (await scene.relay.broadcasts.knowledge(requests.KnowledgeQuery(limit=1000))).broadcasts
    by = [msgspec.json.decode(k)["from_agent"] for k in kept]
    assert {"good/b", "fresh/late"} <= set(by)
    assert len(by) <= 60
    newest = kept[by.index(bad[0])]
    assert b'"59"' in bytes(newest)  # at a share one's own oldest goes


async def test_one_address_does_not_take_all_places_of_agents() -> None:
    scene = Crowd(max_agents=80)
    taken, refusal = await taken_of(lambda n: scene.join(f"bad/{n}"))
    assert (taken, refusal.current) == (72, {"share_of": "address", "used": 72})
    assert isinstance(refusal, RelayFull)
    await scene.join("good/b", "other/c")
    await scene.leave("bad/0")
    await scene.leave("bad/1")
    await scene.leave("bad/2")
    await scene.join("bad/9")  # registers again: it has its place
    await scene.register("unknown", "unknown too")  # no address is known: only the limit itself holds


async def test_one_address_does_not_take_all_uploads() -> None:
    scene = Crowd(max_uploads=80, max_agent_uploads=10)
    await scene.join("good/b", *(f"bad/{n}" for n in range(10)))

    async def begin(owner: str, n: int) -> None:
        ask = Write(key=f"{owner}.{n}", content_type="text/plain")
        await scene.relay.uploads.create(await scene.agent(owner), ask, 10, "")

    taken, refusal = await taken_of(lambda n: begin(f"bad/{n // 10}", n))
    assert 62 <= taken <= 72
    assert isinstance(refusal, StorageFull)
    assert refusal.current["share_of"] in ("address", "agent")
    await begin("good/b", 0)


async def test_where_no_address_is_known_agents_share_the_whole_limit() -> None:
    scene = Crowd(max_mailbox_messages=200, **FAST)
    await scene.register("victim", "a", "b")
    taken, refusal = await scene.flood("a", "victim")
    assert taken == 158
    assert refusal.current["share_of"] == "agent"
    await scene.send("b", "victim")


async def test_open_tasks_of_an_agent_are_shared() -> None:
    scene = Crowd(max_open_tasks=100, **FAST)
    await scene.join("bad/a", "home/work", "good/b")

    async def give(n: int) -> None:
        await scene.delegate("bad/a", to_agent="home/work")
        await scene.take("home/work")

    taken, refusal = await taken_of(give)
    assert (taken, refusal.current) == (72, {"share_of": "agent", "used": 72})
    assert "tasks without a final answer" in refusal.message
    id = await scene.delegate("good/b", to_agent="home/work")
    await scene.take("home/work")
    await scene.respond("home/work", id, status="in_progress")
    for _ in range(10):
        await scene.delegate("good/b", to_agent="home/work")
        await scene.take("home/work")
    with pytest.raises(MailboxFull):
        await scene.delegate("bad/a", to_agent="home/work")


async def test_what_an_agent_claims_from_pools_takes_no_room_from_what_it_is_given_by_name() -> None:
    scene = Crowd(max_open_tasks=20, **FAST)
    await scene.join("home/req", "bad/a")
    ask = requests.Register(agent_id="home/work", name="home/work", capabilities=["go"])
    await scene.relay.agents.register(ask, machine="here", agent_key=None, address="partition_key")

    async def claim() -> None:
        await scene.relay.acks.ack("home/work", await scene.claim("home/work", lease=3600.0))

    for _ in range(12):
        await scene.delegate("home/req", capability="go")
        await claim()
    for _ in range(14):
        await scene.delegate("home/req", to_agent="home/work")
        await claim()
    taken, _ = await taken_of(lambda n: scene.delegate("bad/a", to_agent="home/work"))
    assert taken >= 1
    await claim()
    for n in range(8):  # and the other way round
        await scene.delegate("home/req", capability="go")
        assert len(await scene.claim("home/work")) == 1, n
    await scene.delegate("home/req", capability="go")
    assert await scene.claim("home/work") == []


async def test_one_agent_does_not_open_all_pools() -> None:
    scene = Crowd(max_pools=10, **FAST)
    await scene.join("bad/a", "good/b")
    taken, refusal = await taken_of(lambda n: scene.delegate("bad/a", capability=[f"skill{n}"]))
    assert (taken, refusal.current) == (8, {"share_of": "agent", "used": 8})
    assert isinstance(refusal, RelayFull)
    await scene.delegate("bad/a", capability=["skill0"])  # the pool is there
    await scene.delegate("good/b", capability=["other"])
    await scene.delegate("bad/a", capability=["other"])


async def test_work_for_agents_that_have_left_takes_no_pool_from_others() -> None:
    scene = Crowd(max_pools=5, **FAST)
    await scene.join("bad/a", "good/b")
    for n in range(8):
        await scene.join(f"bad/gone{n}")
        await scene.delegate("bad/a", to_agent=f"bad/gone{n}")
        await scene.leave(f"bad/gone{n}")
    await scene.delegate("good/b", capability="python")


async def write(scene: Scene, editor: str, key: str, size: int) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, size, 1000):
            yield (key.encode() + at.to_bytes(4, "big")).ljust(1000, b"-")[: min(1000, size - at)]

    ask = Write(key=key, content_type="text/plain")
    await scene.relay.files.put(await scene.agent(editor), ask, parts(), None)


async def test_one_agent_does_not_take_all_places_of_files_by_locks() -> None:
    scene = Crowd(max_files=100, rate_files=0.0, rate_address=0.0)
    await scene.join("bad/a", "bad/b", "good/c")

    async def lock(agent: str, key: str) -> None:
        await scene.relay.files.lock(
            await scene.agent(agent), file_requests.LockFile(agent_id=agent, file_key=key, seconds=60)
        )

    taken, refusal = await taken_of(lambda n: lock("bad/a", f"a{n}"))
    assert (taken, refusal.current) == (72, {"share_of": "agent", "used": 72, "free": 0})
    assert isinstance(refusal, StorageFull)
    taken, refusal = await taken_of(lambda n: write(scene, "bad/b", f"b{n}", 1))
    assert taken + 72 <= 90
    await lock("bad/a", "a0")  # it has its place
    await lock("good/c", "c")
    await write(scene, "good/c", "c", 1)
    await write(scene, "good/c", "c2", 1)


async def test_one_agent_does_not_take_all_bytes_of_files() -> None:
    scene = Crowd(max_files_bytes=100_000, rate_files=0.0, rate_address=0.0, rate_copies=0.0)
    await scene.join("bad/a", "good/b")
    taken, refusal = await taken_of(lambda n: write(scene, "bad/a", f"a{n}", 10_000))
    assert (taken, refusal.current) == (7, {"share_of": "agent", "used": 70_000, "free": 875})
    assert isinstance(refusal, StorageFull)
    await write(scene, "good/b", "b", 10_000)
    for _ in range(3):  # of its own file the old version goes
        await write(scene, "bad/a", "a0", 10_000)
    await write(scene, "good/b", "b2", 5_000)


async def test_versions_of_one_file_take_no_more_than_a_share() -> None:
    scene = Crowd(max_files_bytes=100_000, rate_files=0.0, rate_address=0.0, rate_copies=0.0)
    await scene.join("bad/a", "good/b")
    for n in range(12):
        await write(scene, "bad/a", "a", 9_000 + n)
    assert scene.relay.file_quota.used <= 82_000
    await write(scene, "good/b", "b", 15_000)


async def test_versions_that_others_wrote_take_nothing_of_the_last_writers_share() -> None:
    for victim in ("good/v", "bad/v"):  # at another address, and at that of the other writer
        scene = Crowd(max_files_bytes=100_000, rate_files=0.0, rate_address=0.0, rate_copies=0.0)
        await scene.join("bad/h", victim, "other/e")
        for n in range(9):
            await write(scene, "bad/h", "k", 5_000 + n)
        await write(scene, victim, "k", 1)
        await write(scene, "other/e", "e", 30_000)
        await write(scene, victim, "own", 8_000)
        # Versions of others are no room of its own, which it might use beyond its share.
        with pytest.raises(StorageFull, match="your fair share"):
            await write(scene, victim, "k", 45_000)
        # The versions of others stay in the meantime, and count against the limit of all.
        file = await scene.store.get(SharedFile, "k")
        assert file is not None
        assert len(file.versions) == 10, victim
        assert scene.relay.file_quota.used == 45_036 + 1 + 30_000 + 8_000, victim
    # The last version of the other writer is gone, and so is the key under which the file was found.
    for n in range(10):
        await write(scene, victim, "k", 10 + n)
    file = await scene.store.get(SharedFile, "k")
    assert file is not None
    assert (file.of_others, file.index_keys) == ((0, 0), (PRESENT,))


async def test_an_upload_under_way_counts_for_its_owner() -> None:
    scene = Crowd(max_files_bytes=100_000, rate_files=0.0, rate_address=0.0)
    await scene.join("bad/a", "bad/b", "good/c")
    uploads = scene.relay.uploads

    async def begin(owner: str, key: str) -> Any:
        ask = Write(key=key, content_type="text/plain")
        return (await uploads.create(await scene.agent(owner), ask, 45_000, ""))[0]

    first = await begin("bad/a", "one")
    await first.buffer.write(b"x" * 45_000)
    with pytest.raises(StorageFull) as refused:
        await begin("bad/a", "two")
    assert refused.value.current["share_of"] == "agent"
    await write(scene, "good/c", "c", 30_000)


def test_pieces_that_are_allowed_together_are_allowed_one_after_the_other() -> None:
    shares = FairShares(MemoryStore(), 80)
    allowed = 0
    for address, agent, others, pieces in itertools.product(
        range(0, 40, 4), range(0, 20, 4), range(0, 90, 6), range(1, 5)
    ):
        if agent > address:
            continue
        for known in (True, False):
            origin = Origin("here" if known else None, "ann")
            held, by_address, by_agent = address + others, address, agent
            theirs = Usage(1, by_address), Usage(1, by_agent)
            if not shares.allow(theirs, origin, Limit(100, held, 3), 3 * (pieces - 1)):
                continue
            allowed += 1
            for piece in range(pieces):
                used = rules.Used(held, by_address, by_agent, known)
                assert rules.used_up(100, used, 3, 80) is None, (address, agent, others, pieces, piece, known)
                held, by_address, by_agent = held + 3, by_address + 3, by_agent + 3
    assert allowed > 500


async def test_a_write_that_takes_its_time_finds_no_place_that_is_taken_meanwhile() -> None:
    scene = Crowd(max_files=10, rate_files=0.0, rate_address=0.0)
    await scene.join("bad/a", "good/b")
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await go.wait()

    async def begin(n: int) -> None:
        agent = await scene.agent("bad/a")
        await scene.relay.files.put(agent, Write(key=f"s{n}", content_type="text/plain"), slow(), None)

    under_way = [asyncio.create_task(begin(n)) for n in range(15)]
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    done = await asyncio.gather(*under_way, return_exceptions=True)
    assert sum(result is None for result in done) == 8
    assert sum(isinstance(result, StorageFull) for result in done) == 7
    await write(scene, "good/b", "b", 1)


async def test_a_deleted_file_counts_for_the_agent_that_deletes_it() -> None:
    scene = Crowd(max_files=40, rate_files=0.0, rate_address=0.0)
    await scene.join("bad/a", "good/b")
    for n in range(26):
        await write(scene, "good/b", f"b{n}", 1)
    for n in range(26):
        await scene.relay.files.delete(await scene.agent("bad/a"), f"b{n}", None)
    await write(scene, "good/b", "again", 1)
    taken, refusal = await taken_of(lambda n: write(scene, "bad/a", f"a{n}", 1))
    assert taken < 5
    assert refusal.current["share_of"] in ("address", "agent")


async def test_an_upload_that_is_begun_again_leaves_nothing_behind() -> None:
    scene = Crowd()
    await scene.join("home/a")
    owner = await scene.agent("home/a")

    def coming() -> int:
        gc.collect()
        return sum(isinstance(known, UploadBuffer) for known in gc.get_objects())

    ask = Write(key="k", content_type="text/plain")
    await scene.relay.uploads.create(owner, ask, 10, "", key="once")
    before = coming()
    for n in range(20):
        await scene.relay.uploads.create(owner, ask, 10, "", key="once")
        with pytest.raises(KeyReused):
            await scene.relay.uploads.create(owner, ask, 11 + n, "", key="once")
    assert coming() == before
