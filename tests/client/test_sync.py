"""The client against a real relay: every endpoint, typed, and failures as the classes the relay raises."""

from __future__ import annotations

import hashlib
import inspect
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import clawlink
from clawlink import errors
from clawlink.client import admin_endpoints, endpoints, mailbox_endpoints, operator_endpoints
from clawlink.client.calls import Claimed, DeadLetter, File
from clawlink.client.files import file_endpoints
from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.domain import message as messages
from clawlink.domain.limits import Limits
from clawlink.protocol import file_replies, mailbox_replies, replies
from clawlink.protocol.paths import ENDPOINTS
from tests.client.conftest import Scripted, http
from tests.client.facade import connect
from tests.client.restartable import Restartable
from tests.system.threaded import relay_in_thread
from tests.tables import each

pytestmark = pytest.mark.usefixtures("each_client")


def make(relay: str, **options: object) -> Client:
    return connect(relay, backoff=Backoff(tries=1), **options)


@pytest.fixture
def ann(relay: str) -> Iterator[Client]:
    with make(relay) as client:
        client.register(f"Ann {uuid.uuid4().hex}", capabilities=["x"], description="d", machine="m")
        yield client
        client.leave()


@pytest.fixture
def bob(relay: str) -> Iterator[Client]:
    with make(relay) as client:
        client.register(f"Bob {uuid.uuid4().hex}")
        yield client
        client.leave()


def of(client: Client) -> str:
    assert client.agent_id is not None
    return client.agent_id


def claim(client: Client, kind: type) -> Claimed:
    """Claim and ack until a message of this kind has come."""
    for _ in range(20):
        for claimed in client.poll(wait=5, max=1, lease=60):
            client.ack([claimed.receipt])
            if isinstance(claimed.message, kind):
                return claimed
    raise AssertionError(f"no {kind.__name__} came")


# Two addresses of one thing have one method, and what speaks another protocol has none.
CALLED = {
    "list_blobs": "list_files",
    "head_blob": "stat_blob",
    "delete_blob": "confirm_read",
    "poll_and_ack": "poll",
    "log_out": "end_sessions",
}
# clawlink.client.proof asks for a challenge, without secrets; tickets are for pages in a browser.
ELSEWHERE = {
    "make_link",
    "log_in",
    "log_out",
    "page_file",
    "upload_options",
    "upload_otherwise",
    "challenge",
    "tickets",
    "file_bytes",
}


def test_there_is_a_method_for_every_endpoint_as_it_stands_in_calls() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.stays or endpoint.name in ELSEWHERE:
            continue
        name = CALLED.get(endpoint.name, endpoint.name)
        modules = (endpoints, mailbox_endpoints, file_endpoints, admin_endpoints, operator_endpoints)
        described = next(vars(m)[name] for m in modules if name in vars(m))
        method = getattr(Client, name)
        assert method.__doc__ == described.__doc__
        asked = list(inspect.signature(described, eval_str=False).parameters)[1:]
        assert list(inspect.signature(method).parameters)[1:] == asked


def test_the_package_offers_the_client_and_its_errors() -> None:
    assert clawlink.Client is Client
    assert clawlink.ClawLinkError is errors.ClawLinkError
    assert clawlink.__version__
    with pytest.raises(AttributeError):
        _ = clawlink.nothing


def test_an_address_without_a_scheme_is_one(relay: str) -> None:
    with make(relay.removeprefix("http://") + "/") as client:
        assert client.relay == relay
        assert client.health().status == "ok"


def test_registering_gives_the_client_its_identity(relay: str) -> None:
    with make(relay) as client:
        assert (client.agent_id, client.agent_key) == (None, None)
        name = f"New {uuid.uuid4().hex}"
        done = client.register(name, capabilities=("a", "b"), description="d", machine="m")
        assert isinstance(done, replies.Registered)
        assert (done.agent.name, done.agent.capabilities, done.resumed) == (name, ("a", "b"), False)
        assert (client.agent_id, client.agent_key) == (done.agent.agent_id, done.agent_key)
        key = client.agent_key
        again = client.register(capabilities=["c"])
        assert (again.resumed, again.agent_key, client.agent_key) == (True, None, key)
        assert (again.agent.name, again.agent.capabilities, again.agent.machine) == (name, ("c",), "m")
        assert client.leave() == replies.Left("left", of(client), 0)


def test_a_new_agent_is_on_the_machine_of_its_client(relay: str) -> None:
    with make(relay) as client:
        assert client.register(f"New {uuid.uuid4().hex}").agent.machine == socket.gethostname()
        client.leave()
        odd = client.register(f"New {uuid.uuid4().hex}", machine="pc\udcff").agent
        assert odd.machine == "pc?", "the bytes of a machine's name need not be UTF-8"


def test_an_identity_can_be_given(relay: str, ann: Client) -> None:
    with make(relay, agent_id=ann.agent_id, agent_key=ann.agent_key) as same:
        assert same.heartbeat() == replies.Beat("ok")
    with make(relay, agent_id=ann.agent_id) as keyless, pytest.raises(errors.NotAllowed) as refused:
        keyless.heartbeat()
    assert refused.value.field == "agent_id"
    with make(relay, agent_id="nobody") as nobody:
        assert nobody.heartbeat().status == "unknown_agent"


def test_an_agent_may_go_unclaimed(relay: str) -> None:
    with make(relay) as client:
        assert client.register(claim=False).agent_key is None
        assert client.agent_key is None
        client.leave()


def test_info_health_metrics_and_openapi(relay: str) -> None:
    with make(relay) as client:
        info = client.info()
        assert isinstance(info, replies.Info)
        assert info.limits["max_mailbox_messages"] == 20
        assert client.health().status == "ok"
        assert len(client.health().relay_id) == 32
        assert client.ready() == client.health()
        assert "# TYPE clawlink_stored_total counter" in client.metrics()
        assert client.openapi()["openapi"].startswith("3.1")


def test_discover_finds_by_capability_name_and_status(ann: Client, bob: Client) -> None:
    named = next(a for a in ann.discover().agents if a.agent_id == ann.agent_id)
    assert isinstance(named, replies.ListedAgent)
    assert (named.claimed, named.load.open_tasks) == (True, 0)
    assert [a.agent_id for a in ann.discover(name=named.name).agents] == [ann.agent_id]
    assert ann.agent_id in [a.agent_id for a in bob.discover(capability="X").agents]
    assert bob.discover(name=named.name, status="stale").count == 0
    with pytest.raises(errors.BadRequest):
        bob.discover(status="gone")


def test_discover_follows_all_pages(ann: Client, bob: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_LIST_LENGTH", 1)
    everyone = ann.discover(status="all")
    assert {ann.agent_id, bob.agent_id} <= {agent.agent_id for agent in everyone.agents}
    assert (everyone.count, everyone.next) == (len(everyone.agents), None)
    first = ann.discover(status="all", limit=1)
    assert first.count == 1
    assert first.next is not None
    (second,) = ann.discover(status="all", limit=1, after=first.next).agents
    assert second == everyone.agents[1]


def test_a_task_goes_through(ann: Client, bob: Client) -> None:
    done = ann.delegate(of(bob), "count", context={"to": 3}, priority="urgent")
    assert isinstance(done, replies.Delegated)
    task = claim(bob, messages.TaskDelegation).message
    assert isinstance(task, messages.TaskDelegation)
    assert (task.message_id, task.task, task.context) == (done.message_id, "count", {"to": 3})
    assert bob.respond(task.message_id, "1", status="in_progress").task_status == "in_progress"
    answered = bob.respond(task.message_id, ["1", 2, {}])
    assert isinstance(answered, replies.ResponseSent)
    assert answered.recipient is not None
    first, second = claim(ann, messages.TaskResponse), claim(ann, messages.TaskResponse)
    assert [m.message.status for m in (first, second) if isinstance(m.message, messages.TaskResponse)] == [
        "in_progress",
        "completed",
    ]
    assert second.raw["result"] == ["1", 2, {}]
    assert second.message_id == answered.response_id
    told = ann.message(done.message_id)
    assert isinstance(told, mailbox_replies.MessageStatus)
    assert (told.state, told.task_status) == ("acked", "completed")


def test_a_task_is_given_to_whoever_can_do_it_first(ann: Client, bob: Client) -> None:
    skill = f"skill {uuid.uuid4().hex}"
    done = ann.delegate(capability=skill, task="count", deadline=100, context={"to": 3})
    assert (done.recipient, done.pool) == (None, replies.Pooled([skill], [], 0))
    bob.register(capabilities=[skill.upper(), "other"])
    both = ann.delegate(capability=[skill, "other"], to_any_of=[of(bob)], task="more").pool
    assert both == replies.Pooled(sorted([skill, "other"]), [of(bob)], 1)
    task = claim(bob, messages.TaskDelegation).message
    assert isinstance(task, messages.TaskDelegation)
    assert (task.message_id, task.to_agent, task.capability) == (done.message_id, None, skill)
    seen = ann.task(done.message_id)
    assert isinstance(seen, replies.TaskView)
    assert (seen.status, seen.assignee, seen.capability) == ("delivered", of(bob), skill)
    assert seen.deadline_at is not None


def test_a_task_is_reported_on_asked_about_and_answered(ann: Client, bob: Client) -> None:
    id = ann.delegate(of(bob), "count").message_id
    claimed = claim(bob, messages.TaskDelegation)
    assert claimed.reported is None
    bob.respond(id, status="in_progress", progress=40, note="half", receipt=claimed.receipt)
    bob.respond(id, {"which": "one?"}, status="input_required")
    answered = ann.answer(id, ["this"], key="k")
    assert isinstance(answered, replies.Answered)
    assert (answered.task_status, ann.answer(id, ["this"], key="k")) == ("in_progress", answered)
    told = claim(bob, messages.TaskAnswer).message
    assert isinstance(told, messages.TaskAnswer)
    assert (told.task_id, told.content) == (id, ["this"])
    bob.respond(id, "3")
    history = ann.task(id).history
    assert [(event.status, event.by, event.content) for event in history] == [
        ("queued", of(ann), None),
        ("delivered", of(bob), None),
        ("in_progress", of(bob), None),
        ("input_required", of(bob), {"which": "one?"}),
        ("in_progress", of(ann), ["this"]),
        ("completed", of(bob), None),
    ]
    assert (history[2].progress, history[2].note) == (40, "half")
    with pytest.raises(errors.WrongState) as late:
        ann.answer(id, "too late")
    assert late.value.current == "completed"


def test_what_was_reported_comes_with_a_task_that_is_handed_out_again(restartable: Restartable) -> None:
    with make(restartable.url) as ann, make(restartable.url) as bob:
        ann.register("ann")
        bob.register("bob")
        id = ann.delegate("bob", "count").message_id
        (first,) = [one for one in bob.poll(wait=5) if one.message_id == id]
        bob.respond(id, status="in_progress", note="began", receipt=first.receipt)
        bob.nack([first.receipt])
        (again,) = [one for one in bob.poll(wait=5) if one.message_id == id]
        assert again.reported is not None
        assert ("in_progress", "began") in [(event.status, event.note) for event in again.reported]
        with pytest.raises(errors.LeaseLost):
            bob.respond(id, "late", receipt=first.receipt)
        assert bob.respond(id, "in time", receipt=again.receipt).task_status == "completed"


def test_tasks_are_listed_and_cancelled(ann: Client, bob: Client) -> None:
    ids = [ann.delegate(of(bob), text).message_id for text in ("a", "b", "c")]
    mine = ann.tasks(requester=of(ann), status="open")
    assert isinstance(mine, replies.TaskList)
    assert [task.task_id for task in mine.tasks] == ids[::-1]
    page = ann.tasks(limit=2)
    assert (page.count, len(ann.tasks(limit=2, after=page.next).tasks)) == (2, 1)
    assert ann.cancel(ids[0], note="no need") == replies.Cancelled("cancelled", ids[0], True)
    assert ann.cancel(ids[0]) == replies.Cancelled("cancelled", ids[0], True)
    assert [task.task_id for task in bob.tasks(assignee=of(bob), status="open").tasks] == ids[:0:-1]
    assert [task.note for task in ann.tasks(status="cancelled").tasks] == ["no need"]
    claim(bob, messages.TaskDelegation)
    assert ann.cancel(ids[1], note="enough").withdrawn is False
    update = claim(bob, messages.TaskUpdate).message
    assert isinstance(update, messages.TaskUpdate)
    assert (update.task_id, update.status, update.note, update.by) == (ids[1], "cancelled", "enough", of(ann))
    with pytest.raises(errors.NotAllowed):
        bob.cancel(ids[2])
    with pytest.raises(errors.UnknownTask):
        ann.task("nothing")


def test_work_names_the_work_that_it_is_done_for(ann: Client, bob: Client) -> None:
    parent = ann.delegate(of(bob), "all of it").message_id
    claim(bob, messages.TaskDelegation)
    part = bob.delegate(of(ann), "a part of it", parent_task=parent).message_id
    assert (ann.task(part).parent_task, ann.task(part).hops) == (parent, 1)
    bob.send(of(ann), "about it", parent_task=parent)
    said = claim(ann, messages.PlainMessage).message
    assert isinstance(said, messages.PlainMessage)
    assert (said.chain.parent_task, said.chain.agents) == (parent, (of(ann), of(bob)))
    bob.broadcast("to all", parent_task=parent)
    with pytest.raises(errors.UnknownTask) as unknown:
        bob.delegate(of(ann), "x", parent_task="nothing")
    assert unknown.value.field == "parent_task"


def test_agents_that_go_in_circles_are_stopped_and_do_not_try_again(
    ann: Client, bob: Client, pauses: list[float]
) -> None:
    patient = connect(ann.relay, agent_id=ann.agent_id, agent_key=ann.agent_key, backoff=Backoff())
    with patient, pytest.raises(errors.LoopStopped) as stopped:
        circle(patient, bob)
    assert stopped.value.limit == 3
    assert set(stopped.value.current) == {of(ann), of(bob)}
    assert pauses == []


def circle(one: Client, other: Client) -> None:
    """Answer each other for ever."""
    last = one.send(of(other), "thank you").message_id
    for _ in range(100):
        last = other.send(of(one), "thank you", in_reply_to=last).message_id
        last = one.send(of(other), "thank you", in_reply_to=last).message_id


def flood(client: Client, count: int) -> None:
    """Send this many messages at once."""
    for n in range(count):
        client.send("fast", n)


def test_who_is_too_fast_waits_and_gets_through() -> None:
    limits = Limits(rate_agent=20, burst_agent=2, rate_pair=0)
    with relay_in_thread(ServerConfig(port=0, limits=limits)) as url, connect(url) as client:
        client.register("fast")
        flood(client, 6)
        assert client.info().rate_limited > 0
        hasty = make(url, agent_id=client.agent_id, agent_key=client.agent_key)
        with hasty, pytest.raises(errors.RateLimited):
            flood(hasty, 6)


def test_a_broadcast_reaches_those_who_subscribe_and_those_who_come_late(ann: Client, bob: Client) -> None:
    topic = f"build.{uuid.uuid4().hex}"
    bob.register(subscriptions=["build.*"])
    before = bob.broadcast("first", topic=topic, tags=["a"]).message_id
    ann.broadcast("second", topic=topic, ttl=600)
    told = claim(bob, messages.KnowledgeBroadcast).message
    assert isinstance(told, messages.KnowledgeBroadcast)
    assert (told.content, told.topic) == ("second", topic)
    held = ann.knowledge(topic=topic)
    assert isinstance(held, replies.KnowledgeList)
    assert [(k.content, k.from_agent) for k in held.broadcasts] == [("second", of(ann)), ("first", of(bob))]
    assert isinstance(held.broadcasts[0], messages.KnowledgeBroadcast)
    assert [k.message_id for k in ann.knowledge(topic=topic, tag="A").broadcasts] == [before]
    assert [k.message_id for k in ann.knowledge(topic=topic, author=of(bob)).broadcasts] == [before]
    assert ann.knowledge(topic=topic, since=time.time() + 100).count == 0
    assert ann.knowledge(topic=topic, since="2020-01-01").count == 2
    page = ann.knowledge(topic=topic, limit=1)
    assert [k.content for k in ann.knowledge(topic=topic, limit=1, after=page.next).broadcasts] == ["first"]


def test_messages_are_claimed_extended_given_back_and_acked(ann: Client, bob: Client) -> None:
    while bob.poll():
        pass
    sent = ann.send(of(bob), {"k": [1]}, in_reply_to="m", thread="t", priority="high")
    assert isinstance(sent, replies.Sent)
    (first,) = bob.poll(max=5000)
    assert isinstance(first.message, messages.PlainMessage)
    assert (first.message_id, first.attempt, first.message.content) == (sent.message_id, 1, {"k": [1]})
    extended = bob.extend([first.receipt], lease=600)
    assert isinstance(extended, mailbox_replies.Receipted)
    assert (extended.results[0].lease_expires_at or "") > first.lease_expires_at
    assert bob.nack([first.receipt], delay=0).results[0].status == "nacked"
    assert bob.poll() == []  # its only attempt is used up
    (letter,) = bob.dead_letters()
    assert isinstance(letter, DeadLetter)
    assert (letter.message_id, letter.from_agent, letter.attempts) == (sent.message_id, of(ann), 1)
    assert bob.redrive([sent.message_id]) == mailbox_replies.Redriven([sent.message_id], 1)
    (again,) = bob.poll()
    assert bob.ack([again.receipt, "nonsense"]).count == 1
    assert bob.redrive().count == 0


def test_a_broadcast_reaches_the_others(ann: Client, bob: Client) -> None:
    done = ann.broadcast("news", topic="t", tags=("a", "b"))
    assert isinstance(done, replies.BroadcastSent)
    told = claim(bob, messages.KnowledgeBroadcast).message
    assert isinstance(told, messages.KnowledgeBroadcast)
    assert (told.content, told.topic, told.tags) == ("news", "t", ("a", "b"))


@pytest.mark.parametrize("content", ["text ☃\r\n", b"", b"\xff\x00", b"plain", "x" * 1000])
@pytest.mark.parametrize("key", ["k", "a/b?c%20 d#e&☃"])
def test_files_are_written_read_listed_and_deleted(ann: Client, content: str | bytes, key: str) -> None:
    key = f"{key}-{uuid.uuid4().hex}"
    data = content.encode() if isinstance(content, str) else content
    saved = ann.put_file(key, content, file_type="f", if_version=0)
    assert saved == file_replies.FileSaved("saved", 1, key, len(data), hashlib.sha256(data).hexdigest())
    file = ann.get_file(key)
    assert isinstance(file, File)
    assert (file.content, file.file_type, file.version, file.last_editor) == (data, "f", 1, of(ann))
    assert key in [f.file_key for f in ann.list_files(limit=1000).files]
    with pytest.raises(errors.VersionConflict) as conflict:
        ann.delete_file(key, if_version=7)
    assert conflict.value.current == 1
    assert ann.delete_file(key).version == 2
    with pytest.raises(errors.UnknownFile):
        ann.get_file(key)


def test_failures_are_the_classes_that_the_relay_raises(relay: str, ann: Client, bob: Client) -> None:
    with pytest.raises(errors.UnknownAgent) as unknown:
        ann.send("nobody", 1)
    assert unknown.value.field == "to_agent"
    with pytest.raises(errors.UnknownTask):
        ann.respond("nothing")
    with pytest.raises(errors.UnknownMessage):
        ann.message("nothing")
    names = {a.agent_id: a.name for a in ann.discover().agents}
    name, bob_name = names[of(ann)], names[of(bob)]
    with make(relay) as other, pytest.raises(errors.NameTaken):
        other.register(name)
    with pytest.raises(errors.TooLarge) as large:
        ann.put_file("large", b"x" * 1001)
    assert (large.value.limit, large.value.actual) == (1000, 1001)
    while bob.discover(name=bob_name).agents[0].load.mailbox < 15:  # the fair share of 20
        ann.send(of(bob), "x")
    with pytest.raises(errors.MailboxFull) as full:
        ann.send(of(bob), "x")
    assert full.value.limit == 15
    assert (full.value.retry_after or 0) > 0
    ann.send(of(ann), 1, key="same")
    with pytest.raises(errors.KeyReused):
        ann.send(of(ann), 2, key="same")


def test_mistakes_are_told_before_anything_is_sent(scripted: Scripted) -> None:
    with make(scripted.url) as stranger, pytest.raises(errors.BadRequest, match="register first"):
        stranger.poll()
    with make(scripted.url, agent_id="a", agent_key="k" * 40) as client:
        with pytest.raises(errors.BadRequest) as wrong:
            client.delegate("b", "t", priority="asap")
        assert wrong.value.field == "priority"
        with pytest.raises(errors.BadRequest) as wrong:
            client.respond("m", status="done")
        assert wrong.value.field == "status"
        with pytest.raises(errors.BadRequest) as wrong:
            client.delegate(task="t")
        with pytest.raises(errors.BadRequest, match="not both"):
            client.delegate("b", "t", capability="c")
        with pytest.raises(errors.BadRequest) as wrong:
            client.delegate("b")
        assert wrong.value.field == "task"
        with pytest.raises(errors.BadRequest) as wrong:
            client.respond("m", progress=101)
        assert wrong.value.field == "progress"
        with pytest.raises(errors.BadRequest) as wrong:
            client.message("m", until="read")
        assert wrong.value.field == "until"
        with pytest.raises(errors.BadRequest) as wrong:
            client.send("", 1)
        assert wrong.value.field == "to_agent"
        with pytest.raises(errors.BadRequest):
            client.broadcast("c", tags=["x" * 200])
        with pytest.raises(errors.BadRequest):
            client.put_file("", b"")
    assert scripted.asked == []


def test_every_write_carries_a_key_of_its_own(scripted: Scripted) -> None:
    scripted.script = [http("503 x", '{"error":"e","code":"draining"}')]
    with make(scripted.url, agent_id="a") as client:
        for _ in range(2):
            for write in (
                lambda: client.delegate("b", "t"),
                lambda: client.respond("m"),
                lambda: client.send("b", 1),
                lambda: client.broadcast("c"),
                lambda: client.put_file("k", b""),
                lambda: client.register("n"),
                lambda: client.answer("m", 1),
            ):
                with pytest.raises(errors.Draining):
                    write()
    pattern = re.compile(rb'(?i)"?idempotency[-_]key"?: ?"?(\w+)')
    keys = [found[1] for asked in scripted.asked if (found := pattern.search(asked)) is not None]
    assert len(set(keys)) == len(keys) == 14
    assert min(map(len, keys)) >= 32


def test_the_token_is_sent_whatever_its_script(guarded: str) -> None:
    with make(guarded, token="schlüssel-☃") as client:
        assert client.info().auth_required is True
    with make(guarded, token="wrong") as client, pytest.raises(errors.NotAuthenticated):
        client.info()
    with make(guarded) as client:
        assert client.health().status == "ok"
        with pytest.raises(errors.NotAuthenticated, match=f"; this is the relay at {guarded}$"):
            client.info()


@each("token", ["line\nbreak", "return\rX-Other: y"])
def test_a_token_that_no_header_can_carry_is_told(guarded: str, token: str) -> None:
    with make(guarded, token=token) as client, pytest.raises(errors.BadRequest):
        client.info()


def test_a_netrc_file_does_not_replace_our_token(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    scripted.script = [http("200 OK", '{"status":"ok"}')]
    for token in ("t", None):
        with make(scripted.url, token=token) as client:
            client._on_loopback = False  # as it is towards any relay but this machine's
            client.health()
    with_token, without = scripted.asked
    assert b"\r\nAuthorization: Bearer t\r\n" in with_token
    assert b"Authorization" not in without


def test_a_proxy_is_not_asked_for_a_relay_on_this_machine(relay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with make(relay) as client:
        assert client.health().status == "ok"


def test_the_environments_proxy_is_asked_for_any_other_relay(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", scripted.url)
    scripted.script = [http("200 OK", '{"status":"ok"}')]
    with make("http://relay.invalid:9077", token="t") as client:
        assert client.health().status == "ok"
        monkeypatch.setenv("no_proxy", "relay.invalid")
    assert scripted.asked[0].startswith(b"GET http://relay.invalid:9077/healthz HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t\r\n" in scripted.asked[0]
    with make("http://relay.invalid:9077") as direct, pytest.raises(errors.RelayUnreachable):
        direct.health()
    assert len(scripted.asked) == 1
