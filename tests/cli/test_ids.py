"""The first characters of an id are enough, scripts get ids alone, and people read names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count

import pytest

from clawlink.cli import ids
from clawlink.cli.agents import Agents
from clawlink.client.sync import Client
from clawlink.protocol.replies import FoundIds
from clawlink.relay.ids import derived
from tests.cli.conftest import Relays, Run

Fresh = Callable[[str], str]


def of(client: Client) -> str:
    assert client.agent_id is not None
    return client.agent_id


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its id."""
    call("register", "--name", fresh("me")).ok()
    chosen: str = call("whoami", "--offline", "--json").ok().json["chosen"]["agent_id"]
    return chosen


def test_what_may_begin_an_id() -> None:
    for text, may in (
        ("abcd", True),
        ("0123456789abcdef0123456", True),  # 23
        ("0123456789abcdef01234567", False),  # whole: no look-up
        ("abc", False),
        ("abcg", False),
        ("ABCD", False),
        ("dead-1", False),
        ("", False),
    ):
        assert ids.is_prefix(text) is may, text


def test_a_whole_agent_id_is_not_looked_up(call: Run, me: str, peer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Agents, "listed", lambda self: pytest.fail("looked up"))
    call("send", "--to", of(peer), "--content", "x").ok()


def test_a_task_by_the_beginning_of_its_id_in_every_verb(call: Run, me: str, peer: Client) -> None:
    to = of(peer)[:8]
    asked = call("delegate", "--to", to, "--task", "sum", "--json").ok().json
    id, short = asked["message_id"], asked["message_id"][:10]
    assert asked["recipient"]["agent_id"] == of(peer)
    assert call("task", short, "--json").ok().json["task_id"] == id
    assert call("status", short, "--json").ok().json["message_id"] == id
    [one] = peer.poll(wait=5)
    peer.ack([one.receipt])
    peer.respond(id, "Which?", status="input_required")
    assert call("answer", short, "these", "--json").ok().json["task_id"] == id
    child = call("delegate", "--to-any-of", to, "--task", "part", "--parent", short, "--json").ok().json
    assert call("task", child["message_id"], "--json").ok().json["parent_task"] == id
    said = call("send", "--to", to, "--content", "x", "--reply-to", short, "--json").ok().json["message_id"]
    assert any(one.raw.get("in_reply_to") == id for one in peer.poll(wait=5) if one.message_id == said)
    assert call("cancel", child["message_id"][:12], "--json").ok().json["task_id"] == child["message_id"]
    peer.respond(id, "done")
    assert call("wait", short, "--json").ok().json["task_id"] == id


def test_my_own_task_and_identity_by_their_beginnings(call: Run, me: str, peer: Client) -> None:
    id = peer.delegate(me, {"sum": [1, 2]}).message_id  # type: ignore[arg-type]
    assert '"{' in call("tasks", "--as", me[:6]).ok().out  # what is asked need not be text
    call("poll").ok()
    assert (
        call("respond", "--msg-id", id[:9], "--result", "3", "--to", of(peer)[:9], "--json").ok().json["message_id"]
        == id
    )


def alike(verb: str, sender: str) -> tuple[str, str, str]:
    """Return two keys for repeats by which two ids of the sender begin alike, and this beginning."""
    keys: dict[str, str] = {}
    for n in count():
        beginning = derived(verb, sender, f"key {n}")[: ids.MIN_PREFIX_LENGTH]
        if beginning in keys:
            return keys[beginning], f"key {n}", beginning
        keys[beginning] = f"key {n}"
    raise AssertionError


def test_an_ambiguous_beginning_lists_the_candidates(call: Run, me: str, peer: Client) -> None:
    *keys, first = alike("task", me)
    two = [
        call("delegate", "--to", of(peer), "--task", f"no. {n}", "--key", key, "--json").ok().json["message_id"]
        for n, key in enumerate(keys)
    ]
    failed = call("cancel", first).failed(2)
    assert f"'{first}' begins several ids" in failed.err
    for part in (*two, '("no. 0"', '("no. 1"', " old)"):
        assert part in failed.err, (part, failed.err)
    assert call("tasks", "--status", "queued", "--json").ok().json["count"] == 2
    assert call("cancel", two[0][:20]).ok()


def test_what_begins_no_id_of_mine_is_asked_as_it_stands(
    call: Run, me: str, peer: Client, relay: str, fresh: Fresh
) -> None:
    with Client(relay) as third:
        third.register(fresh("third"))
        theirs = third.delegate(of(peer), "a secret").message_id
    unknown, another = call("task", "0000aaaa").failed(5).err, call("task", theirs[:8]).failed(5).err
    assert unknown.replace("0000aaaa", "*") == another.replace(theirs[:8], "*")
    call("task", theirs).failed(4)  # a whole id goes straight through
    assert "or no right" in call("--help").ok().out, "the key is good"
    assert "no message" in call("status", theirs[:8]).failed(5).err
    warned = call("send", "--to", of(peer), "--content", "x", "--reply-to", theirs[:8]).ok()
    assert "begins the id of no message of yours" in warned.err


def test_a_beginning_that_is_too_short_is_told_as_that(call: Run, me: str, peer: Client) -> None:
    id = call("delegate", "--to", of(peer), "--task", "sum", "-q").ok().out.strip()[:3]
    told = f"'{id}' is known here (of an id, the first 4 characters are needed at least)"
    for words in (["respond", id, "x"], ["task", id], ["answer", id, "x"], ["cancel", id], ["wait", id]):
        assert f"no task {told}" in call(*words).failed(5).err, words
    assert f"no message {told}" in call("status", id).failed(5).err
    assert f"no dead letter of yours: {id} (of an id, the first 4" in call("redrive", "--id", id).failed(5).err
    assert f"'{id}' is taken for a whole id (of an id" in call("send", of(peer), "x", "--reply-to", id).ok().err
    for other in (f"{id}0000", "abg", "A1"):
        assert "(of an id" not in call("task", other).failed(5).err, other


def test_names_go_before_the_beginnings_of_ids(call: Run, me: str, peer: Client, relay: str) -> None:
    name = of(peer)[:7]  # an agent may be called as another's id begins
    with Client(relay) as called, Client(relay, agent_id="beefbeef-bot") as own_id:
        called.register(name)
        own_id.register("own id")
        told = call("send", "--to", name, "--content", "x", "--json").ok().json
        assert told["recipient"]["agent_id"] == of(called)
        # An id that reads like a name is not found by its beginning.
        assert "beef" in call("send", "--to", "beefbeef", "--content", "x").failed(5).err
        called.leave()
    assert call("send", "--to", name, "--content", "x", "--json").ok().json["recipient"]["agent_id"] == of(peer)


def test_the_operator_and_dead_letters(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_relay("--token", "t", "--admin-token", "a", "--max-attempts", "1")
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    with Client(url, token="t") as agent:
        agent.register("gone")
        call("kick", of(agent)[:8], "--token", "t", "--admin-token", "a").ok()
        # Without the token of everyone the list cannot be seen.
        agent.register("dead1")
        call("kick", "dead1", "--admin-token", "a").ok()
        agent.register("sender")
        me = call("register", "--name", "me", "--no-claim", "--token", "t", "--json").ok().json["agent"]["agent_id"]
        id = agent.send("me", "x").message_id
        with Client(url, token="t", agent_id=me) as mine:
            mine.nack([one.receipt for one in mine.poll()])
            assert mine.poll() == []  # it is buried in place of being handed out again
        assert call("redrive", "--id", id[:8], "--json").ok().json["message_ids"] == [id]


def test_messages_and_broadcasts_by_the_beginnings_of_their_ids(call: Run, me: str, peer: Client) -> None:
    said = peer.send(me, "x").message_id
    told = peer.broadcast("news", topic="t").message_id
    mine = call("send", "--to", of(peer), "--content", "x", "--reply-to", said[:9], "--json").ok().json["message_id"]
    assert [one.raw["in_reply_to"] for one in peer.poll(wait=5) if one.message_id == mine] == [said]
    own = call("broadcast", "--content", "x", "--json").ok().json["message_id"]
    for id, type in (
        (said, "message"),
        (mine, "message"),
        (told, "knowledge_broadcast"),
        (own, "knowledge_broadcast"),
    ):
        shown = call("status", id[:9], "--json").ok().json
        assert (shown["message_id"], shown["type"]) == (id, type), (id, shown)
    # A verb of tasks takes no message for one.
    call("task", said[:9]).failed(5)


def test_an_ambiguous_beginning_of_messages_lists_their_kinds_and_senders(
    call: Run, me: str, peer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    *keys, first = alike("send", of(peer))
    two = [peer.send(me, "x", key=key).message_id for key in keys]
    failed = call("status", first).failed(2).err
    for id in two:
        assert re.search(rf'{id} \(message from "[^"]+", [^)]+ old\)', failed), (id, failed)
    monkeypatch.setattr(Client, "find_ids", lambda self, beginning: FoundIds([], 0, True))
    assert "begins too many ids to tell them apart; type more of it" in call("status", "abcd").failed(2).err


def test_quiet_prints_an_id_alone(call: Run, relay: str, peer: Client, fresh: Fresh) -> None:
    def alone(*args: str) -> str:
        done = call(*args).ok()
        assert re.fullmatch(r"[0-9a-f]{16,24}\n", done.out), (args, done.out)
        assert done.err == "", (args, done.err)
        return done.out.strip()

    me = alone("register", "--name", fresh("me"), "-q")
    assert me == call("whoami", "--offline", "--json").ok().json["chosen"]["agent_id"]
    task = alone("delegate", "--to", of(peer), "--task", "x", "--quiet")
    peer.ack([one.receipt for one in peer.poll(wait=5)])
    peer.respond(task, "Which?", status="input_required")
    for args, type in (
        (("answer", task, "these", "-q"), "task_answer"),
        (("send", "--to", of(peer), "--content", "x", "-q"), "message"),
        (("broadcast", "--content", "x", "-q"), "knowledge_broadcast"),
    ):
        assert call("status", alone(*args), "--json").ok().json["type"] == type, args
    given = peer.delegate(me, "y").message_id
    call("poll").ok()
    assert alone("respond", "--msg-id", given, "--result", "z", "-q") != given
    sent = json.loads(call("send", "--to", of(peer), "--content", "x", "-q", "--json").ok().out)
    assert sent["message_id"]  # JSON goes before
    two = call("delegate", "--to", f"{of(peer)},{me}", "--task", "x", "-q").ok().out.split()
    assert [call("task", id, "--json").ok().json["assignee"] for id in two] == [of(peer), me]
    peer.respond(task, "r")
    waited = call("delegate", "--to", me, "--task", "x", "-q", "--wait", "0.01")
    assert (waited.code, waited.out) == (6, "")
    assert re.match(r"[0-9a-f]{24}\n", waited.err), waited.err


def test_people_read_names(call: Run, me: str, peer: Client, relay: str, fresh: Fresh) -> None:
    name, key = fresh("called"), fresh("file")
    peer.register(name)
    peer.put_file(key, "x")
    peer.lock_file(key, seconds=60)
    id = peer.send(me, "x").message_id
    for args in (("file-list",), ("file-history", key), ("status", id)):
        out = call(*args).ok().out
        assert f'"{name}"' in out, (args, out)
        assert of(peer) not in out, (args, out)
