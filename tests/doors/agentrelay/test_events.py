"""Events of AgentRelay on the relay: who may, what counts, what burns, and what is full."""

from __future__ import annotations

import random
from typing import Any

import pytest

from clawlink.domain.message import PlainMessage
from clawlink.doors.agentrelay.rules import KNOWN, Pointer
from clawlink.doors.agentrelay.server.events import BURNED_SECONDS
from clawlink.doors.agentrelay.server.events import Events as KeptEvents
from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.agentrelay.wire import exchange
from clawlink.doors.agentrelay.wire.exchange import EventRead, EventSent, EventUpdated, EventVerified
from clawlink.errors import (
    AmbiguousName,
    BadRequest,
    MailboxFull,
    NameTaken,
    NotAllowed,
    RateLimited,
    RelayFull,
    StorageFull,
    UnknownEvent,
    WrongState,
)
from clawlink.protocol import requests
from clawlink.store.memory import MemoryStore
from tests.relay.scene import Scene
from tests.store.faulty import FaultyStore
from tests.tables import each

HOUR = 3600.0


class Events(Scene):
    """Agents ``a``, ``b`` and ``c``, and what they do to events."""

    def __init__(self, *, max_events: int | None = None, max_events_bytes: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        given = {"max_events": max_events, "max_events_bytes": max_events_bytes}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        self.door = KeptEvents(self.relay, settings)

    async def begin(self) -> Events:
        await self.register("a", "b", "c")
        return self

    async def give(
        self, id: str = "e1", sender: str = "a", to: str = "b", key: str | None = None, **content: Any
    ) -> EventSent:
        ask = exchange.SendEvent(sender, to, id, content, idempotency_key=key)
        return await self.door.send(await self.agent(sender), ask)

    async def open(self, reader: str = "b", line: str = "REQ,e1,s/e1.json,,", key: str | None = None) -> EventRead:
        ask = exchange.ReceiveEvent(reader, line, key)
        return await self.door.receive(await self.agent(reader), ask)

    async def change(self, editor: str, id: str = "e1", next_id: str | None = None, **updates: Any) -> EventUpdated:
        ask = exchange.UpdateEvent(editor, id, updates, next_id)
        return await self.door.update(await self.agent(editor), ask)

    async def cmp(self, reader: str = "b", id: str = "e1", secret: str | None = None, check: bool = False) -> str:
        ask = exchange.CompleteEvent(reader, id, secret, check)
        return (await self.door.complete(await self.agent(reader), ask)).cmp_message

    async def verify(self, message: str, asker: str = "a", key: str | None = None) -> EventVerified:
        ask = exchange.VerifyEvent(asker, message, key)
        return await self.door.verify(await self.agent(asker), ask)

    async def clean(self, agent: str = "a", hours: int = 168) -> exchange.CleanedUp:
        return await self.door.clean_up(await self.agent(agent), exchange.CleanUp(agent, hours))

    async def lines(self, id: str) -> list[tuple[str, Any]]:
        """Return who sent an agent which lines, and settle them."""
        return [(m.from_agent, m.content) for m in await self.read(id) if isinstance(m, PlainMessage)]

    async def kept(self) -> tuple[int, int]:
        used = await self.store.usage(Pointer, KNOWN)
        return used.count, used.bytes


@pytest.fixture(params=["memory", "faulty"])
async def events(request: pytest.FixtureRequest) -> Events:
    """Return a relay with three agents, on the default store and on one that gives no more than it must."""
    store = None
    if request.param == "faulty":
        store = FaultyStore(MemoryStore(), random.Random(5), conflicts=0.1, delays=0.3)
    return await Events(store=store).begin()


async def test_an_event_crosses_and_its_line_is_brought(events: Events) -> None:
    sent = await events.give(task="sum")
    assert (sent.ptr, sent.csv_message, sent.sender, sent.receiver) == ("s/e1.json", "REQ,e1,s/e1.json,,", "a", "b")
    assert len(sent.secret) == 6
    ((sender, line),) = await events.lines("b")
    assert (sender, line) == ("a", "AgentRelay: REQ,e1,s/e1.json,,")
    got = await events.open(line=line)
    assert bytes(got.content) == b'{"task":"sum"}'
    assert (got.meta.secret, got.meta.sender, got.meta.sender_name, got.meta.ttl_hours) == (sent.secret, "a", "a", 24)
    assert not got.burned
    message = await events.cmp()
    assert message == f"CMP,e1,,,{sent.secret}"
    found = await events.verify(message)
    assert (found.status, found.verified, found.expected_secret, found.file_exists) == ("ok", True, sent.secret, True)
    assert (await events.verify(message)).status == "repeat"


async def test_only_sender_and_receiver_have_to_do_with_it(events: Events) -> None:
    sent = await events.give()
    await events.open()
    for wrong in (
        events.open("c"),
        events.change("c", task=1),
        events.change("c", next_id="e2"),
        events.cmp("c", secret=sent.secret),
        events.verify(f"CMP,e1,,,{sent.secret}", "c"),
        events.verify(f"CMP,e1,,,{sent.secret}", "b"),
    ):
        with pytest.raises(NotAllowed):
            await wrong
    assert (await events.verify(f"CMP,e1,,,{sent.secret}")).status == "ok"


async def test_the_sender_reads_without_that_counting_or_burning(events: Events) -> None:
    await events.give(burn_on_read=True)
    assert not (await events.open("a")).burned
    with pytest.raises(WrongState, match="not received"):
        await events.cmp("a")
    assert (await events.open("b")).burned


async def test_what_was_not_received_is_not_completed_even_with_the_secret(events: Events) -> None:
    sent = await events.give()
    for secret in (None, sent.secret):
        with pytest.raises(WrongState, match="not received"):
            await events.cmp(secret=secret)
    await events.open()
    with pytest.raises(BadRequest, match="Secret mismatch"):
        await events.cmp(secret="wrong!")
    assert await events.cmp(secret=sent.secret, check=True) == await events.cmp()


async def test_a_forged_cmp_changes_nothing(events: Events) -> None:
    sent = await events.give()
    await events.open()
    message = await events.cmp()
    before = await events.store.get(Pointer, "e1")
    found = await events.verify("CMP,e1,,,forged")
    assert (found.status, found.verified, found.expected_secret) == ("mismatch", False, sent.secret)
    assert await events.store.get(Pointer, "e1") == before
    await events.verify(message)
    verified = await events.store.get(Pointer, "e1")
    await events.verify("CMP,e1,,,forged")
    assert await events.store.get(Pointer, "e1") == verified


async def test_a_verify_that_is_repeated_as_a_request_is_answered_as_the_first_time(events: Events) -> None:
    await events.give()
    await events.open()
    message = await events.cmp()
    assert [(await events.verify(message, key="k")).status for _ in range(2)] == ["ok", "ok"]
    assert (await events.verify(message, key="other")).status == "repeat"


async def test_a_used_id_is_refused_and_a_repeated_request_is_not(events: Events) -> None:
    first = await events.give(key="k", task=1)
    assert await events.give(key="k", task=1) == first
    for again in (events.give(task=1), events.give(key="k", task=2), events.give("E1"), events.give(sender="c")):
        with pytest.raises(WrongState):
            await again
    assert len(await events.lines("b")) == 1
    assert (await events.kept())[0] == 1


async def test_burned_contents_are_gone_but_for_the_reader_who_asks_again_at_once(events: Events) -> None:
    await events.give(burn_on_read=True, task="secret")
    first = await events.open(key="k")
    assert first.burned
    assert b"secret" in bytes(first.content)
    assert bytes((await events.open(key="k")).content) == bytes(first.content)
    for other in (events.open(key="another"), events.open(), events.open("a", key="k")):
        with pytest.raises(UnknownEvent, match="burned"):
            await other
    await events.let_pass(BURNED_SECONDS + 1)
    with pytest.raises(UnknownEvent, match="burned"):
        await events.open(key="k")
    assert (await events.kept()) == (1, 0)
    await events.change("b", result=7)
    assert bytes((await events.open("a")).content) == b'{"result":7}'
    assert (await events.verify(await events.cmp())).status == "ok"


@pytest.mark.parametrize(("id", "other"), [("strasse", "stra\u00dfe"), ("i\u0307x", "\u0130x"), ("e1", "E1")])
async def test_an_id_that_folds_to_anothers_gets_nothing_of_it(events: Events, id: str, other: str) -> None:
    for used, wanted in ((id, other), (other + "2", id + "2")):
        await events.give(used)
        with pytest.raises(WrongState):
            await events.give(wanted, sender="c")
        with pytest.raises(WrongState):
            await events.give(wanted)
        with pytest.raises(UnknownEvent):
            await events.open("b", f"REQ,{wanted},s/,,")
        await events.open("b", f"REQ,{used},s/,,")
        with pytest.raises(WrongState):
            await events.change("b", used, next_id=wanted)


async def test_an_update_is_in_nobody_elses_name(events: Events) -> None:
    await events.give(sender_agent="a")
    for said in ("c", 7, ["a"]):
        with pytest.raises(NotAllowed, match="leave sender_agent out"):
            await events.change("b", sender_agent=said)
    for said in ("a", "b"):
        await events.change("b", sender_agent=said)


async def test_what_was_updated_after_burning_does_not_burn_again(events: Events) -> None:
    await events.give(burn_on_read=True)
    assert (await events.open()).burned
    await events.change("b", result=7)
    assert not (await events.open()).burned


async def test_who_is_to_send_it_anew_is_named() -> None:
    events = Events()
    await events.register("id-of-ann", name="Ann")
    await events.register("b")
    await events.give(sender="id-of-ann", burn_on_read=True)
    await events.open()
    with pytest.raises(UnknownEvent, match="ask Ann to send it again"):
        await events.open()


async def test_burned_events_make_room_for_new_ones() -> None:
    events = await Events(max_events=2).begin()
    await events.give("e1", burn_on_read=True)
    await events.give("e2")
    await events.open(key="k")
    await events.give("e3")
    with pytest.raises(RelayFull):
        await events.give("e4")


async def test_burning_without_a_key_is_at_once(events: Events) -> None:
    await events.give(burn_on_read=True, task="secret")
    await events.open()
    assert (await events.kept()) == (1, 0)


async def test_contents_end_and_a_cmp_is_verified_after_that(events: Events) -> None:
    await events.give(ttl_hours=1)
    await events.open()
    message = await events.cmp()
    events.now += HOUR
    with pytest.raises(UnknownEvent, match="expired after 1 h"):  # before the janitor has been there
        await events.open()
    await events.let_pass(1)
    with pytest.raises(UnknownEvent, match="expired after 1 h"):
        await events.open()
    found = await events.verify(message)
    assert (found.status, found.file_exists) == ("ok", False)
    assert (await events.kept()) == (1, 0)
    await events.let_pass(169 * HOUR)
    await events.register("a", "b")
    with pytest.raises(UnknownEvent, match="knows no event"):
        await events.verify(message)
    await events.give()


async def test_verifying_before_the_janitor_came_keeps_it_as_long(events: Events) -> None:
    await events.give(ttl_hours=1)
    await events.open()
    message = await events.cmp()
    events.now += HOUR
    assert (await events.verify(message)).status == "ok"
    await events.let_pass(1)
    assert (await events.verify(message)).status == "repeat"


async def test_the_reader_hands_on_to_the_next(events: Events) -> None:
    await events.give(task="sum")
    with pytest.raises(WrongState, match="not received"):
        await events.change("b", next_id="e2")
    await events.open()
    with pytest.raises(NotAllowed, match="only the receiver"):
        await events.change("a", next_id="e2")
    made = await events.change("b", next_id="e2", result=6, next_agent="c")
    assert (made.csv_message, made.sender, made.receiver) == ("REQ,e2,s/e2.json,,", "b", "c")
    again = await events.change("b", next_id="e2", result=7)
    assert again == made
    got = await events.open("c", made.csv_message)
    assert bytes(got.content) == (b'{"task":"sum","result":7,"next_agent":"c","sender_agent":"b","receiver_agent":"c"}')
    with pytest.raises(WrongState):
        await events.change("b", next_id="e2", result=8)
    with pytest.raises(WrongState):
        await events.change("b", next_id="E2", result=8)
    with pytest.raises(NotAllowed):
        await events.open("a", made.csv_message)


async def test_a_chain_that_its_coordinator_made_is_filled_along_it(events: Events) -> None:
    await events.give("h1", to="b")
    await events.give("h2", to="c", task="add")
    await events.give("foreign", sender="c", to="b")
    await events.open("b", "REQ,h1,s/,,")
    with pytest.raises(WrongState):  # of another sender
        await events.change("b", id="h1", next_id="foreign", result=6)
    filled = await events.change("b", id="h1", next_id="h2", result=6)
    assert (filled.csv_message, filled.sender, filled.receiver) == ("REQ,h2,s/h2.json,,", "a", "c")
    with pytest.raises(NotAllowed):  # filling it is not reading it
        await events.open("b", filled.csv_message)
    with pytest.raises(NotAllowed):
        await events.change("b", id="h2", result=7)
    got = await events.open("c", filled.csv_message)
    assert bytes(got.content) == b'{"task":"add","result":6}'
    with pytest.raises(WrongState):
        await events.change("b", id="h1", next_id="h2", result=8)


async def test_a_receiver_that_comes_later_gets_it_by_name(events: Events) -> None:
    sent = await events.give(to="Later")
    assert sent.message_id is None
    with pytest.raises(NotAllowed):
        await events.open("b")
    await events.register("d", name="later")
    assert (await events.open("d")).meta.receiver == "Later"
    assert (await events.cmp("d")) == f"CMP,e1,,,{sent.secret}"
    await events.leave("d")
    await events.register("thief", name="Later")
    with pytest.raises(WrongState, match="not received"):
        await events.cmp("thief")


async def test_what_waits_for_one_that_left_is_its_names_next_bearers(events: Events) -> None:
    await events.give(to="b")
    await events.leave("b")
    await events.register("other", name="b")
    await events.open("other")


async def test_what_waits_for_a_claimed_agent_that_left_is_for_its_key_alone(events: Events) -> None:
    """A stranger takes the freed name, and id: it is not told what is in the event, not by its line nor its id."""
    await events.register("d", name="Dora", key="k" * 43)
    sent = await events.give(to="Dora", secret_plan="x")
    await events.leave("d")
    for id, name, key in (("s1", "Dora", None), ("s2", "Dora", "o" * 43), ("d", "Dora", "o" * 43)):
        try:
            await events.register(id, name=name, key=key)
        except NameTaken:
            assert id == "d"
            continue
        assert not [m for m in await events.read(id) if isinstance(m, PlainMessage)], id
        for way in (events.open(id), events.open(id, sent.csv_message), events.cmp(id), events.change(id)):
            with pytest.raises(NotAllowed):
                await way
        await events.leave(id)
    await events.register("d2", name="Dora", key="k" * 43)
    assert (await events.open("d2")).meta.receiver == "Dora"


async def test_what_a_claimed_agent_sent_is_told_to_no_later_bearer_of_its_id(events: Events) -> None:
    await events.register("d", key="k" * 43)
    sent = await events.give(sender="d", to="b", key="first")
    await events.leave("d")
    await events.register("d", key="o" * 43)
    for way in (events.open("d"), events.change("d"), events.verify(f"CMP,e1,,,{sent.secret}", asker="d")):
        with pytest.raises(NotAllowed):
            await way
    await events.give("e0", sender="b", to="d")
    await events.open("d", "REQ,e0,s/e0.json,,")
    for taken in (events.give(sender="d", to="b", key="first"), events.change("d", "e0", next_id="e1")):
        with pytest.raises(WrongState, match="e1"):
            await taken
    events.now += 25 * HOUR
    assert await events.clean("d") == exchange.CleanedUp([], [], [])
    await events.leave("d")
    events.keys.pop("d")
    await events.register("d", key="k" * 43)
    assert await events.clean("d") != exchange.CleanedUp([], [], [])


async def test_nobody_sends_in_anothers_name(events: Events) -> None:
    for name in ("a", "A"):
        await events.give(f"as-{name}x{ord(name)}", sender_agent=name)
    for said in ("b", 7, ["a"]):
        with pytest.raises(NotAllowed, match="leave sender_agent out"):
            await events.give("e9", sender_agent=said)


async def test_two_of_a_name_are_told_apart(events: Events) -> None:
    await events.register("x", name="twin")
    events.now += 10_000
    await events.register("y", name="twin")
    await events.agent("x")  # a sign of life
    with pytest.raises(AmbiguousName):
        await events.give(to="twin")
    assert await events.kept() == (0, 0)


@each(
    "line",
    ["REQ,e1,s/e2.json,,", "REQ,e1,,,", "RESPONSE,e1,s/e1.json,,", "REQ,../e1,s/../e1.json,,", "hello", "REQ,e1,/e1,,"],
)
async def test_a_line_that_is_not_its_events_is_refused(line: str) -> None:
    events = await Events().begin()
    await events.give()
    with pytest.raises(BadRequest):
        await events.open(line=line)


async def test_what_cannot_be_brought_is_not_kept() -> None:
    events = await Events(max_mailbox_messages=1).begin()
    await events.give("e1")
    with pytest.raises(MailboxFull):
        await events.give("e2")
    assert (await events.kept())[0] == 1
    await events.lines("b")
    with pytest.raises(UnknownEvent):
        await events.open(line="REQ,e2,s/e2.json,,")


async def test_events_count_as_new_work() -> None:
    events = await Events(rate_agent=1.0, burst_agent=2).begin()
    await events.give("e1", to="nobody")
    await events.give("e2")
    for to in ("b", "nobody"):
        with pytest.raises(RateLimited):
            await events.give("e3", to=to)
    assert (await events.kept())[0] == 2


async def test_bytes_and_number_are_limited_and_the_refusal_says_how_much_is_free() -> None:
    events = await Events(max_events_bytes=100, max_events=2).begin()
    await events.give("e1", task="x" * 50)
    with pytest.raises(StorageFull) as full:
        await events.give("e2", task="x" * 50)
    assert (full.value.limit, full.value.actual) == (80, 122)
    assert full.value.current == {"share_of": "agent", "used": 61, "free": 19}
    with pytest.raises(StorageFull):
        await events.change("a", more="x" * 50)
    await events.give("e2")
    with pytest.raises(RelayFull) as many:
        await events.give("e3")
    assert (many.value.limit, many.value.actual) == (2, 3)
    await events.let_pass(25 * HOUR)
    await events.register("a", "b")
    await events.give("e3")


async def test_an_event_does_not_grow_beyond_what_could_be_sent() -> None:
    events = await Events(max_body_bytes=1000).begin()
    await events.give(task="x" * 600)
    with pytest.raises(StorageFull, match="1000 bytes"):
        await events.change("a", more="x" * 600)


async def test_cleaning_up_lets_go_of_ones_own_that_is_over(events: Events) -> None:
    await events.give("e1", ttl_hours=1)
    await events.give("e2", ttl_hours=9)
    await events.give("theirs", sender="b", to="a", ttl_hours=1)
    events.now += HOUR
    done = await events.clean()
    assert (done.deleted_files, done.deleted_registry, done.kept_events) == (["e1"], [], ["e1", "e2"])
    done = await events.clean(hours=0)
    assert (done.deleted_files, done.deleted_registry, done.kept_events) == ([], ["e1"], ["e2"])


async def test_no_agent_knows_all_events_for_ten_years() -> None:
    events = Events(max_events=50, rate_agent=0.0, rate_pair=0.0)
    for id, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.1")):
        ask = requests.Register(agent_id=id, name=id)
        await events.relay.agents.register(ask, machine="here", agent_key=None, address=address)
    for n in range(36):
        await events.give(f"e{n}", ttl_hours=87_600)
    with pytest.raises(RelayFull, match="fair share") as full:
        await events.give("e36", ttl_hours=87_600)
    assert full.value.current == {"share_of": "agent", "used": 36}
    await events.give("mine", sender="b", to="a")
    await events.give("too", sender="c", to="a")
    with pytest.raises(RelayFull, match="fair share"):
        await events.give("more", ttl_hours=87_600)
