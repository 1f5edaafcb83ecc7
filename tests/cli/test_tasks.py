"""Delegate in all its ways, list, look, ask, answer, cancel, and what others are told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clawlink.cli.main import main
from clawlink.client.calls import Claimed
from clawlink.client.sync import Client
from clawlink.domain.message import TaskDelegation
from tests.cli.conftest import Relays, Result, Run
from tests.tables import each

Fresh = Callable[[str], str]
EVIL = "first\nsecond \x1b[2J\x07 [bold]x[/bold] \u202egnp.exe\u2028clawlink: all is well"


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


@pytest.fixture
def my_id(call: Run, me: str) -> str:
    """Return the id of this account's agent."""
    chosen: str = call("whoami", "--offline", "--json").ok().json["chosen"]["agent_id"]
    return chosen


def of(client: Client) -> str:
    assert client.agent_id is not None
    return client.agent_id


def id_in(result: Result) -> str:
    """Return the id of the task that ``delegate`` told of."""
    found = re.search(r"task: +(\w+)", result.ok().out)
    assert found is not None
    return found[1]


def claim(client: Client) -> Claimed:
    """Claim and ack a task."""
    for _ in range(20):
        for one in client.poll(wait=5, max=1):
            client.ack([one.receipt])
            if isinstance(one.message, TaskDelegation):
                return one
    raise AssertionError("no task came")


# -- delegate ----------------------------------------------------------------------------------------------------------


def test_delegate_to_whoever_can(call: Run, run: Run, me: str, peer: Client, fresh: Fresh) -> None:
    skill, another = fresh("skill"), fresh("skill")
    told = call("delegate", "--capability", skill, "--task", "x", "--deadline", "10m")
    assert f'Stored for the first agent with the capability "{skill}" that claims it: none of them' in told.ok().out
    peer.register(capabilities=[skill, "python", another])
    told = run("delegate", "--capability", f"{skill},python", "--task", "y", "--to-any-of", of(peer))
    who = f'the first of the named agents with the capabilities "python" and "{skill}" that claims it'
    assert f"Delegated to {who}; 1 agent online can." in told.ok().out
    assert claim(peer).raw["task"] in ("x", "y")
    seen = call("task", id_in(told), "--json").ok().json
    assert (seen["capability"], seen["to_any_of"]) == ([skill, "python"], [of(peer)])
    reply = call("delegate", "--capability", another, "--task", "z", "--json").ok().json
    assert (reply["recipient"], reply["pool"]) == (None, {"capability": [another], "to_any_of": [], "online": 1})


def test_a_capability_that_no_agent_has_comes_with_the_one_that_is_meant(
    call: Run, me: str, peer: Client, fresh: Fresh
) -> None:
    skill = fresh("juggling")
    peer.register(capabilities=[skill, "sums"])
    told = call("delegate", "--capability", f"{skill}g", "x").ok()
    assert f'No agent here has "{skill}g"; did you mean: {skill}?\ntake it back: clawlink' in told.out
    call(*told.out.split("take it back: clawlink ")[1].splitlines()[0].split()).ok()
    assert "did you mean" not in call("delegate", "--capability", "xylophone", "x").ok().out
    call("register", "--name", me, "--caps", f"{skill}s").ok()
    told = call("delegate", "--capability", f"{skill},{skill}s", "x").ok()
    assert "none of them is online" in told.out
    assert "did you mean" not in told.out, "no agent has both, but each is known"


def test_delegate_to_several_gives_each_a_task(call: Run, me: str, peer: Client, relay: str, fresh: Fresh) -> None:
    with Client(relay) as third:
        third.register(fresh("third"))
        told = call("delegate", "--to", f"{of(peer)}, {of(third)}", "--to", of(peer), "--task", "x").ok().out
        ids = re.findall(r"task: +(\w+)", told)
        assert len(ids) == 2
        assert f"All of them: clawlink wait {ids[0]} {ids[1]}" in told
        assert {claim(peer).message_id, claim(third).message_id} == set(ids)
        command = ["delegate", "--to", of(peer), "--to", of(third), "--task", "y", "--key", "k", "--json"]
        reply = call(*command).ok().json
        assert reply["count"] == 2
        assert [one["recipient"]["agent_id"] for one in reply["delegated"]] == [of(peer), of(third)]
        again = call(*command).ok().json
        assert [o["message_id"] for o in again["delegated"]] == [o["message_id"] for o in reply["delegated"]]


def test_one_of_several_that_is_unknown_does_not_keep_the_others_from_theirs(call: Run, me: str, peer: Client) -> None:
    told = call("delegate", "--to", f"nobody,{of(peer)}", "--task", "x")
    assert told.code == 5
    assert "not delegated to nobody: no agent" in told.err
    assert claim(peer).message_id == re.findall(r"task: +(\w+)", told.out)[0]
    alone = call("delegate", "nobody", "x").failed(5).err
    assert alone.endswith("is registered here; list the agents with: clawlink discover\n")
    (name,) = [agent.name for agent in peer.discover().agents if agent.agent_id == of(peer)]
    near = call("delegate", f"{name}x", "x").failed(5).err
    assert near.endswith(f"; did you mean: {name}; list the agents with: clawlink discover\n")
    told_json = json.loads(call("delegate", f"{name}x", "x", "--json").failed(5).err)
    assert (told_json["code"], told_json["current"]) == ("unknown_agent", f"{name}x")
    assert "no agent" in call("delegate", "--to", "nobody,none", "--task", "x").failed(5).err


@pytest.fixture
def earlier(relay: str) -> Iterator[str]:
    """Pass requests on to the relay, and take from its errors what earlier relays do not tell."""

    class PassOn(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(HTTPConnection(relay.partition("://")[2])) as there:
                there.request(self.command, self.path, sent, dict(self.headers))
                answer = there.getresponse()
                told = answer.read()
            if answer.status == 404:
                told = json.dumps({**json.loads(told), "current": None}).encode()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), PassOn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_the_name_that_is_meant_is_told_at_an_earlier_relay_too(call: Run, earlier: str, fresh: Fresh) -> None:
    name = fresh("me")
    call("--relay", earlier, "register", "--name", name).ok()
    told = call("--relay", earlier, "delegate", f"{name}x", "x").failed(5).err
    assert told.endswith(f"is registered here; did you mean: {name}; list the agents with: clawlink discover\n")


def test_delegate_to_all_who_can(call: Run, me: str, peer: Client, relay: str, fresh: Fresh) -> None:
    skill = fresh("skill")
    with Client(relay) as third:
        third.register(fresh("third"), capabilities=[skill])
        peer.register(capabilities=[skill.upper(), "python"])
        call("register", "--name", me, "--caps", skill).ok()  # who delegates is not among them
        reply = call("delegate", "--capability", skill, "--all", "--task", "x", "--json").ok().json
        assert {one["recipient"]["agent_id"] for one in reply["delegated"]} == {of(peer), of(third)}
        one = call("delegate", "--capability", f"{skill},python", "--all", "--task", "x", "--json").ok().json
        assert [done["recipient"]["agent_id"] for done in one["delegated"]] == [of(peer)]
    assert (
        "no other agent online has the capability 'juggle'"
        in call("delegate", "--capability", "juggle", "--all", "--task", "x").failed(5).err
    )
    assert (
        "no other agent online has the capabilities 'juggle' and 'sing'"
        in call("delegate", "--capability", "juggle,sing", "--all", "--task", "x").failed(5).err
    )


@each(
    ("args", "said"),
    [
        ([], "name the recipient"),
        (["--to", "a", "--capability", "c"], "not both"),
        (["--to", ",", "--all"], "argument --to: a name is needed"),
        (["--to-any-of", "a", "--all"], "--all gives each agent"),
        (["--to", "a", "--any"], "add --wait"),
        (["--to", "a", "--deadline", "soon"], "length of time from 0 up"),
        (["--to", "a", "--deadline", "5w"], "length of time from 0 up"),
        (["--to", "a", "--deadline", "-5"], "length of time from 0 up"),
        (["--to", "a", "--wait", "x"], "length of time from 0 up"),
    ],
)
def test_what_makes_no_sense_is_said(call: Run, me: str, args: list[str], said: str) -> None:
    assert said in call("delegate", "--task", "x", *args).failed(2).err


def test_work_names_what_it_is_done_for(
    call: Run, me: str, my_id: str, peer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = peer.delegate(me, "all of it").message_id
    call("poll").ok()
    part = call("delegate", "--to", of(peer), "--task", "a part", "--parent", parent, "--json").ok().json["message_id"]
    shown = call("task", part).ok().out
    assert f"part of:   task {parent}, hop 1" in shown
    monkeypatch.setenv("CLAWLINK_PARENT_TASK", parent)
    for command in (
        ["delegate", "--to", of(peer), "--task", "another part"],
        ["send", "--to", of(peer), "--content", "about it"],
        ["broadcast", "--content", "news of it"],
    ):
        call(*command).ok()
    call("send", "--to", of(peer), "--content", "something else", "--parent", "").ok()
    chains = {
        str(one.raw.get("task") or one.raw.get("content")): one.raw["chain"]
        for one in peer.poll()
        if "chain" in one.raw
    }
    assert chains.pop("something else") == {"parent_task": None, "hops": 0, "agents": [my_id]}
    assert len(chains) == 4
    for chain in chains.values():
        assert chain == {"parent_task": parent, "hops": 1, "agents": [of(peer), my_id]}
    monkeypatch.setenv("CLAWLINK_PARENT_TASK", "forgotten")
    assert "leave parent_task out" in call("delegate", "--to", of(peer), "--task", "x").failed(5).err


def test_a_hop_of_a_chain_is_shown_to_who_gets_it(call: Run, me: str, my_id: str, peer: Client) -> None:
    parent = call("delegate", "--to", of(peer), "--task", "all of it", "--json").ok().json["message_id"]
    claim(peer)
    peer.delegate(me, "a part", parent_task=parent)
    assert re.search(r'follows:   hop 1 of "me-\d+" -> "peer-\d+"', call("poll").ok().out)


# -- look --------------------------------------------------------------------------------------------------------------


def test_tasks_lists_both_sides(run: Run, call: Run, me: str, my_id: str, peer: Client, fresh: Fresh) -> None:
    assert call("tasks").ok().out == "No tasks.\n"
    asked = id_in(call("delegate", "--to", of(peer), "--task", EVIL))
    given = peer.delegate(me, "for you").message_id
    pooled = id_in(call("delegate", "--capability", fresh("skill"), "--task", "x" * 100))
    call("delegate", "--to", me, "--task", "for myself").ok()
    lines = run("tasks").ok().out.splitlines()
    assert lines[0].split() == ["TASK", "STATE", "AGE", "ASKED", "BY", "OWNER", "WHAT"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert len(rows) == len(lines) - 1 == 4
    assert re.search(r"queued +\d s +you +\".*\", online +\"first␤second ␛", rows[asked])
    assert re.search(r"queued +\d s +\"peer-\d+\" +you +\"for you\"", rows[given])
    assert "nobody yet: any agent with skill" in rows[pooled]
    assert rows[pooled].endswith('x..."')
    listed = call("tasks", "--role", "assignee", "--json").ok().json
    assert (listed["count"], listed["next"]) == (2, None)
    assert given in [task["task_id"] for task in listed["tasks"]]
    assert call("tasks", "--role", "requester", "--status", "open", "--json").ok().json["count"] == 3
    assert "there may be more: --limit N" in call("tasks", "--limit", "2").ok().out
    assert call("tasks", "--status", "failed").ok().out == "No task matches.\n"
    assert "invalid choice" in call("tasks", "--status", "done").failed(2).err
    assert not [c for c in "".join(lines) if ord(c) < 32 or c in "\u202e\u2028"]


def test_a_task_with_its_whole_exchange(run: Run, call: Run, me: str, my_id: str, peer: Client) -> None:
    id = id_in(call("delegate", "--to", of(peer), "--task", "find it", "--context", '{"a": 1}', "--deadline", "2h"))
    claim(peer)
    peer.respond(id, status="in_progress", progress=40, note=EVIL)
    peer.respond(id, {"which": "one"}, status="input_required")
    shown = call("task", id).ok().out
    assert f'  answer:  clawlink task answer {id} "..."' in shown
    told = run("answer", id, "-", stdin=b"the other\n").ok().out
    assert "Answer stored for" in told
    assert "status:  in_progress" in told
    answers = [one.raw for one in peer.poll() if one.raw["type"] == "task_answer"]
    assert [(one["task_id"], one["content"]) for one in answers] == [(id, "the other")]
    shown = run("task", id).ok().out
    lines = shown.splitlines()
    assert lines[0] == f"task {id}: in_progress, 40 %"
    assert "  asked by:  you" in lines
    assert "  deadline:  in 119 min" in lines
    assert f"  wait:    clawlink wait {id}" in lines
    assert f"  cancel:  clawlink task cancel {id}" in lines
    history = shown.split("  history:\n")[1]
    steps = re.findall(r"^    \+\d+ s +\([\d:]+\) (\w+),", history, re.MULTILINE)
    assert steps == ["queued", "delivered", "in_progress", "input_required", "in_progress"]
    assert "in_progress, 40 %, by" in history
    assert '              │   "which": "one"' in history
    assert "              │ the other" in history
    for line in lines:
        if "second" in line or "all is well" in line or "which" in line:
            assert line.lstrip().startswith("│"), line
    peer.respond(id, "found")
    assert "    │ found" in call("task", id).ok().out
    assert call("task", id, "--json").ok().json["result"] == "found"


def test_an_answer_may_be_json_and_is_given_once(call: Run, me: str, peer: Client) -> None:
    id = id_in(call("delegate", "--to", of(peer), "--task", "x"))
    assert "it does not wait for input" in call("answer", id, "y").failed(7).err
    peer.respond(id, "how many?", status="input_required")
    assert "TEXT is not JSON" in call("answer", id, "{", "--content-json").failed(2).err
    reply = call("answer", id, '{"n": 3}', "--content-json", "--json").ok().json
    assert (reply["status"], reply["task_status"]) == ("answered", "in_progress")
    assert [one.raw["content"] for one in peer.poll() if one.raw["type"] == "task_answer"] == [{"n": 3}]
    call("answer", id, "another").failed(7)


def test_cancel_takes_back_what_nobody_has_and_tells_who_has_it(call: Run, me: str, my_id: str, peer: Client) -> None:
    first, second, third = (id_in(call("delegate", "--to", of(peer), "--task", "x")) for _ in range(3))
    assert call("cancel", first).ok().out == f"Cancelled task {first}; no agent had fetched it.\n"
    assert claim(peer).message_id == second
    told = call("cancel", second, "--note", "enough").ok().out
    assert told == f"Cancelled task {second}; the agent that has it is told.\n"
    updates = [one.raw for one in peer.poll() if one.raw["type"] == "task_update"]
    assert [(one["task_id"], one["status"], one["note"], one["by"]) for one in updates] == [
        (second, "cancelled", "enough", my_id)
    ]
    assert call("cancel", third, "--json").ok().json["status"] == "cancelled"
    finished = id_in(call("delegate", "--to", of(peer), "--task", "x"))
    peer.respond(finished, "done")
    assert "already completed" in call("cancel", finished).failed(7).err
    both = call("cancel", "nothing", finished, id_in(call("delegate", "--to", of(peer), "--task", "x")))
    assert both.code == 7
    assert "no task 'nothing'" in both.err
    assert both.out.startswith("Cancelled")


@each(
    ("args", "code", "said"),
    [
        (["task", "nothing"], 5, "no task 'nothing'"),
        (["cancel", "nothing"], 5, "no task 'nothing'"),
        (["answer", "nothing", "x"], 5, "no task 'nothing'"),
        (["wait", "nothing"], 5, "no task 'nothing'"),
        (["wait", "nothing", "none", "--any"], 5, "no task 'n"),
        (["wait"], 2, "TASK"),
        (["wait", "x", "--any", "--all"], 2, "not allowed with"),
        (["respond", "--msg-id", "x", "--progress", "101"], 2, "0 to 100"),
        (["respond", "--msg-id", "x", "--progress", "much"], 2, "0 to 100"),
        (["respond", "--msg-id", "x", "--note", "n"], 2, "--result TEXT"),
        (["delegate", "--to", "a", "--task", "x", "--deadline", "0"], 2, "--deadline: it must be from 1 s to 30 days"),
        (["delegate", "--to", "a", "--task", " "], 2, "TASK or --task is empty"),
        (["respond", "x", ""], 2, "TEXT or --result is empty; give a text, or as an empty one: '\"\"' --result-json"),
        (["respond", "x", " ", "--status", "failed"], 2, "TEXT or --result is empty"),
        (["respond", "x", "", "--status", "input_required"], 2, "TEXT or --result is empty"),
        (["answer", "x", ""], 2, "TEXT is empty; give a text, or as an empty one: '\"\"' --content-json"),
        (["delegate", "a", "x", "--key", ""], 2, "--key is empty; give a value, or leave it out"),
        (["send", "a", "x", "--key="], 2, "--key is empty"),
        (["send", "a", " "], 2, "--content is empty"),
        (["send", "a", ""], 2, "--content is empty"),
        (["broadcast", ""], 2, "--content is empty"),
        (["register", "--name", "   "], 2, "--name is empty"),
        (["delegate", "--to", "a", "--task", "x", "--all"], 2, "with --to, name them all"),
        (["delegate", "--to", "nobody1,nobody2", "--task", "x"], 5, "'nobody1', 'nobody2' are registered here"),
        (["broadcast", "--content", "x", "--ttl", "0.1s"], 2, "from 1 s to 30 days"),
        (["poll", "--lease", "0"], 2, "seconds, not '0'"),
        (["cancel", "x", "--note", "n" * 1001], 2, "and this has 1001"),
        (["task", ""], 2, "TASK is empty"),
        (["status", " "], 2, "ID is empty"),
        (["knowledge", "--since", "once"], 2, "2h or 3d"),
        (["knowledge", "--since", "oned"], 2, "2h or 3d"),
        (["knowledge", "--limit", "0"], 2, "from 1 up"),
        (["send", "--to", "a", "--content", "x", "--wait", "read"], 2, "invalid choice"),
    ],
)
def test_refusals_are_one_sentence_and_a_code(call: Run, me: str, args: list[str], code: int, said: str) -> None:
    assert said in call(*args).failed(code).err
    assert said in json.loads(call(*args, "--json").failed(code).err)["error"]


# -- respond and poll --------------------------------------------------------------------------------------------------


def test_respond_with_progress_and_a_note(call: Run, me: str, peer: Client) -> None:
    id = peer.delegate(me, "work").message_id
    assert "status:    in_progress" in call("respond", "--msg-id", id, "--progress", "40%", "--note", "half").ok().out
    task = peer.task(id)
    assert (task.status, task.progress, task.note) == ("in_progress", 40, "half")
    call("respond", "--msg-id", id, "--status", "input_required", "--result", "which?").ok()
    call("respond", "--msg-id", id, "--result", "done", "--progress", "100").ok()
    assert (peer.task(id).status, peer.task(id).progress) == ("completed", 100)


def test_an_answer_without_a_text_is_taken_where_it_is_meant(call: Run, me: str, my_id: str, peer: Client) -> None:
    """Output of a command may be empty. An unset variable would end the task, so it is refused."""
    for words in (["-"], ['""', "--result-json"]):
        id = peer.delegate(my_id, "any faults?").message_id
        call("poll").ok()
        call("respond", id, "").failed(2)
        asked = call("respond", id, "-", "--status", "input_required").failed(2).err
        assert "TEXT or --result is empty" in asked
        assert peer.task(id).status == "delivered"
        call("respond", id, *words).ok()
        assert (peer.task(id).status, peer.task(id).result) == ("completed", "")
    id = id_in(call("delegate", of(peer), "count").ok())
    claim(peer)
    peer.respond(id, "which?", status="input_required")
    for words in ([""], ["-"]):
        assert "TEXT is empty" in call("answer", id, *words).failed(2).err
    assert call("answer", id, '""', "--content-json", "--json").ok().json["task_status"] == "in_progress"


def test_the_receipt_of_a_claim_that_is_no_longer_the_present_one_is_refused(call: Run, me: str, peer: Client) -> None:
    call("poll").ok()
    id = peer.delegate(me, "work").message_id
    shown = call("poll", "--no-ack").ok().out
    command = next(line for line in shown.splitlines() if line.startswith("  answer:"))
    found = re.search(rf'clawlink respond {id} --receipt (\S+) "\.\.\."$', command)
    assert found is not None
    receipt = found[1].strip("'")
    assert f"receipt:     {receipt}" in shown
    call("respond", "--msg-id", id, "--progress", "10", "--note", "began", "--receipt", receipt).ok()
    nack(call, receipt)
    shown = call("poll").ok().out
    assert "attempt:   2" in shown
    assert "  reported before:\n" in shown
    assert "in_progress, 10 %, by you" in shown
    assert "              │ began" in shown
    assert "--receipt" not in shown
    late = call("respond", "--msg-id", id, "--result", "late", "--receipt", receipt).failed(7)
    assert "held under another receipt" in late.err
    call("respond", "--msg-id", id, "--result", "in time").ok()


def nack(call: Run, receipt: str) -> None:
    """Give a message of this account's agent back."""
    from clawlink.client.identity import Identities, home

    [saved] = Identities(home()).all()
    with Client(saved.relay, agent_id=saved.agent_id, agent_key=saved.agent_key) as client:
        assert client.nack([receipt]).count == 1


def test_poll_with_json_has_what_was_reported(call: Run, me: str, peer: Client) -> None:
    call("poll").ok()
    id = peer.delegate(me, "work").message_id
    [held] = call("poll", "--no-ack", "--json").ok().json["deliveries"]
    call("respond", "--msg-id", id, "--progress", "10").ok()
    nack(call, held["receipt"])
    [held] = call("poll", "--json").ok().json["deliveries"]
    assert held["attempt"] == 2
    assert [event["status"] for event in held["reported"] if event["progress"] == 10] == ["in_progress"]


def test_poll_shows_questions_answers_and_what_became_of_tasks(call: Run, me: str, my_id: str, peer: Client) -> None:
    call("poll").ok()
    asked = id_in(call("delegate", "--to", of(peer), "--task", "x"))
    assert claim(peer).message_id == asked
    peer.respond(asked, EVIL, status="input_required", note="in doubt")
    shown = call("poll").ok().out
    assert "  asks:\n    │ first\n" in shown
    assert f'  answer:  clawlink task answer {asked} "..."' in shown
    given = peer.delegate(me, "y").message_id
    call("poll").ok()
    call("respond", "--msg-id", given, "--status", "input_required", "--result", "which?").ok()
    peer.answer(given, "that one")
    shown = call("poll").ok().out
    assert f"to what you asked about task {given}" in shown
    assert "    │ that one" in shown
    assert f'go on:  clawlink respond {given} "..."' in shown
    peer.cancel(given, note="no need\n\x1b[2J")
    shown = call("poll").ok().out
    assert f": task {given} is cancelled" in shown
    assert re.search(r'by:   "peer-\d+"\n', shown)
    assert "    │ no need\n    │ ␛[2J" in shown
    assert f"look:  clawlink task {given}" in shown
    peer.leave()  # the owner of what was asked: the requester is told
    shown = call("poll").ok().out
    assert f": task {asked} is queued" in shown
    assert "by:   the relay" in shown
    assert "why:  " in shown


def test_poll_offers_no_answer_to_a_question_that_is_over(call: Run, me: str, peer: Client) -> None:
    call("poll").ok()

    def asked(*questions: str) -> str:
        id = id_in(call("delegate", "--to", of(peer), "--task", "x"))
        assert claim(peer).message_id == id
        for question in questions[:-1]:
            peer.respond(id, question, status="input_required")
            call("answer", id, "yes").ok()
        peer.respond(id, questions[-1], status="input_required")
        return id

    id = asked("which?")
    peer.respond(id, "no way", status="failed")
    shown = call("poll").ok().out
    assert "    │ which?\n  over:  the task is failed\n" in shown
    assert "task answer" not in shown

    id = asked("which?", "and then?")
    shown = call("poll").ok().out
    assert "    │ which?\n  over:  a newer question waits for an answer\n" in shown
    assert f"    │ and then?\n  answer:  clawlink task answer {id} " in shown

    id = asked("which?")
    call("answer", id, "this one").ok()
    shown = call("poll").ok().out
    assert "  over:  the task is in_progress\n" in shown
    assert "task answer" not in shown


# -- knowledge, receipts, operators ------------------------------------------------------------------------------------


def test_knowledge_for_those_who_come_late(run: Run, call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    topic = fresh("build")
    peer.broadcast(EVIL, topic=f"{topic}.linux", tags=["ci"])
    call("broadcast", "--content", "ours", "--topic", topic, "--ttl", "10m").ok()
    shown = run("knowledge", "--topic", f"{topic}.*").ok().out
    assert shown.startswith("broadcast ")
    assert f"({of(peer)})" in shown
    assert "    │ second ␛[2J" in shown
    assert shown.endswith("1 broadcast.\n")
    assert call("knowledge", "--topic", topic, "--json").ok().json["broadcasts"][0]["content"] == "ours"
    name = next(agent.name for agent in peer.discover(status="all").agents if agent.agent_id == of(peer))
    for author in (name, of(peer)):
        listed = call("knowledge", "--author", author, "--tag", "CI", "--since", "5m", "--json").ok().json
        assert [one["topic"] for one in listed["broadcasts"]] == [f"{topic}.linux"]
    assert "there is more: --limit N" in call("knowledge", "--limit", "1").ok().out
    assert call("knowledge", "--topic", "silence").ok().out == "No broadcast matches.\n"
    assert call("knowledge", "--since", "2999-01-01T00:00:00Z", "--json").ok().json["count"] == 0


def test_who_subscribes_hears_of_that_alone_also_after_a_restart(
    call: Run, run: Run, own_relay: Relays, fresh: Fresh
) -> None:
    url = own_relay()
    assert (
        "hears of:  build.*, news"
        in run("--relay", url, "register", "--name", "ada", "--subscribe", "build.*,news").out
    )

    def heard() -> list[str]:
        with Client(url) as other:
            other.register(fresh("other"))
            for topic in ("news", "build.linux", "gossip"):
                other.broadcast("x", topic=topic)
        told = call("poll", "--json").ok().json["messages"]
        return sorted(one["topic"] for one in told if one["type"] == "knowledge_broadcast")

    assert heard() == ["build.linux", "news"]
    own_relay.stop(url)
    own_relay.restart(url)
    call("register", "--name", "ada").ok()
    assert heard() == ["build.linux", "news"]
    call("register", "--name", "ada", "--subscribe", "*").ok()
    assert heard() == ["build.linux", "gossip", "news"]


def test_status_tells_to_whom_and_when(call: Run, me: str, my_id: str, peer: Client, fresh: Fresh) -> None:
    skill = fresh("skill")
    id = id_in(call("delegate", "--capability", skill, "--task", "x"))
    shown = call("status", id).ok().out
    assert "to:         the first agent that claims it" in shown
    assert "delivered:  -" in shown
    peer.register(capabilities=[skill])
    claim(peer)
    shown = call("status", id).ok().out
    assert re.search(r"delivered:  \d s ago \(\d\d:\d\d:\d\d\) to .+, attempt 1\n", shown)
    assert f"history:    clawlink task {id}" in shown
    sent = call("send", "--to", of(peer), "--content", "hello", "--json").ok().json["message_id"]
    assert "answered:   -" in call("status", sent).ok().out
    peer.send(my_id, "and to you", in_reply_to=sent)
    assert re.search(r"answered: +\d s ago", call("status", sent).ok().out)


def test_info_shows_what_was_stopped(call: Run, own_relay: Relays) -> None:
    url = own_relay("--rate-pair", "1", "--burst-pair", "7")
    assert "loops stopped:  0" in call("--relay", url, "info").ok().out
    assert "stopped of late" not in call("--relay", url, "info").ok().out
    call("--relay", url, "register", "--name", "ada").ok()
    with Client(url) as bob:
        bob.register("bob")
        last, code = "", 0
        while code == 0:
            told = call("send", "--to", "bob", "--content", "thanks", *(("--reply-to", last) if last else ()), "--json")
            code = told.code
            if code == 0:
                last = bob.send("ada", "thanks", in_reply_to=told.json["message_id"]).message_id
        assert code == 8
        assert "go in circles" in json.loads(told.err)["error"]
        shown = call("info").ok().out
        assert "loops stopped:  1" in shown
        assert re.search(r"  \d s ago: loop_stopped, \S+ -> \S+ -> \S+ -> ", shown)
        assert call("info", "--json").ok().json["recent_stops"][0]["code"] == "loop_stopped"


def test_leaving_says_that_tasks_wait(call: Run, me: str, peer: Client) -> None:
    call("poll").ok()
    peer.delegate(me, "x")
    assert "1 task goes back to its requester" in call("leave").ok().out
    assert main(["register", "--name", me]) == 0
    assert call("poll").ok().out == "No messages.\n"  # it has another key, as a stranger would
