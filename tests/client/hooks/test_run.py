"""Events of sessions at a real relay: identities, mail on the way, and what a session is told once."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.hooks.acting import of_call, of_gateway
from clawlink.client.hooks.rules import HOSTS, MAX_BLOCKS, name_of
from clawlink.client.hooks.run import BEAT_SECONDS, Hook, Where
from clawlink.client.hooks.sessions import FORGET_SECONDS, Session, Sessions
from clawlink.client.identity import Identities, NoIdentity, SeveralIdentities
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.errors import RelayUnreachable, UnknownAgent
from tests.system.threaded import relay_in_thread

Run = Callable[..., Any]


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path)


@pytest.fixture
def hook(sessions: Sessions, relay: str) -> Run:
    """Run an event of a session: ``hook("Stop", host="claude", later=60)``."""

    own = secrets.token_hex(8)  # the relay is that of all tests

    def run(event: str, *, host: str = "claude", later: float = 0.0, at: str = relay, **said: Any) -> Any:
        given = {"session_id": own, "cwd": "/x/shop", "hook_event_name": event, **said}
        moment = time.time() + later
        one = Hook(sessions, HOSTS[host], given, until=lambda: time.monotonic() + 20, now=lambda: moment)
        return one.run(event, lambda: Where(at))

    return run


def only(sessions: Sessions) -> Session:
    (session,) = sessions.all()
    return session


def text_of(answer: Any) -> str:
    text: str = answer["hookSpecificOutput"]["additionalContext"]
    return text


def test_a_session_is_told_once_of_each_message_and_kept_from_ending_a_few_times(
    hook: Run, sessions: Sessions, relay: str
) -> None:
    with Client(relay) as ann:
        ann.register("hook-ann")
        begun = text_of(hook("SessionStart"))
        me = only(sessions)
        assert f"you are the agent {me.name} at {relay}" in begun
        assert '"hook-ann"' in begun
        assert "unread" not in begun
        assert hook("UserPromptSubmit") is None
        task = ann.delegate(me.name, "Add 2 and 2").message_id
        told = text_of(hook("PostToolUse"))
        assert f'- task {task} from "hook-ann": "Add 2 and 2"' in told
        assert f"clawlink poll --as {me.name}" in told
        assert hook("PostToolUse") is None
        ends = [hook("Stop") for _ in range(MAX_BLOCKS + 2)]
        assert [end and end["decision"] for end in ends] == [*["block"] * MAX_BLOCKS, None, None]
        assert task in ends[0]["reason"]
        assert hook("UserPromptSubmit") is None  # it was told; the next turn may be kept again
        assert hook("Stop")["decision"] == "block"
        # Nothing was leased or counted meanwhile, and what is read and acknowledged is no reason to go on.
        assert ann.message(task).attempts == 0
        with Client(relay, agent_id=me.agent_id, agent_key=me.agent_key) as agent:
            (held,) = agent.poll(lease=60)
            agent.ack([held.receipt])
        assert hook("Stop") is None


def test_a_host_that_takes_the_words_of_a_block_for_a_prompt_ends_its_turn(
    hook: Run, sessions: Sessions, relay: str
) -> None:
    """Gemini CLI 0.61 does: each block began a turn of its own, without an end, with a model that did not read."""
    with Client(relay) as ann:
        ann.register("hook-ann-4")
        hook("SessionStart", host="gemini")
        ann.send(only(sessions).name, "hello")
        for turn in range(2):
            said: list[Any] = []
            for _ in range(MAX_BLOCKS + 3):
                hook("UserPromptSubmit" if not said or said[-1] else "PostToolUse", host="gemini")
                said.append(hook("Stop", host="gemini"))
            assert [end and end["decision"] for end in said] == [*["deny"] * MAX_BLOCKS, None, None, None], turn


def test_codex_takes_each_answer_by_its_schemas(hook: Run, sessions: Sessions, relay: str) -> None:
    """It rests on codex-rs/hooks/schema/generated/*.command.output.schema.json, where no other field is allowed."""
    common = {"continue", "stopReason", "suppressOutput", "systemMessage"}
    inner = {"SessionStart": {"hookEventName", "additionalContext"}, "Stop": set[str]()}
    inner |= dict.fromkeys(("UserPromptSubmit", "PostToolUse"), inner["SessionStart"])
    with Client(relay) as ann:
        ann.register("hook-ann-5")
        for event, deciding in (
            ("SessionStart", False),
            ("UserPromptSubmit", False),
            ("PostToolUse", False),
            ("Stop", True),
        ):
            if event != "SessionStart":
                ann.send(only(sessions).name, "hello")
            said = hook(event, host="codex")
            assert set(said) <= common | ({"decision", "reason"} if deciding else {"hookSpecificOutput"}), event
            assert set(said.get("hookSpecificOutput", {})) <= inner[event], event
            assert said.get("hookSpecificOutput", {}).get("hookEventName", event) == event
        assert said["decision"] == "block"
        assert "3 unread messages" in said["reason"], "a block wants a reason"
        assert hook("Stop", host="codex", stop_hook_active=True)["decision"] == "block"


def test_a_session_of_cursor_is_told_behind_a_tool_and_kept_a_few_times(
    hook: Run, sessions: Sessions, relay: str
) -> None:
    """It rests on https://cursor.com/docs/hooks: ``conversation_id``, ``additional_context``, ``followup_message``.

    A follow-up is the next prompt. That a prompt takes ``additional_context``, too, is from its build of September
    2026.
    """
    own = secrets.token_hex(8)

    def run(event: str, ours: str, **fields: Any) -> Any:
        said = {
            "conversation_id": own,
            "generation_id": "g",
            "workspace_roots": ["/x/shop"],
            "cursor_version": "3.7.21",
        }
        return hook(ours, host="cursor", session_id=own, **{**said, "hook_event_name": event, **fields})

    with Client(relay) as ann:
        ann.register("hook-ann-6")
        assert list(run("sessionStart", "SessionStart", composer_mode="agent")) == ["additional_context"]
        me = only(sessions)
        assert (me.session_id, me.name.rpartition("-")[0]) == (own, "cursor-shop")
        assert run("beforeSubmitPrompt", "UserPromptSubmit", prompt="hi", attachments=[]) is None
        first = ann.send(me.name, "one").message_id
        tool = {"tool_name": "Shell", "tool_input": {"command": "ls"}, "tool_output": '{"output": "", "exitCode": 0}'}
        told = run("postToolUse", "PostToolUse", **tool)
        assert list(told) == ["additional_context"]
        assert first in told["additional_context"]
        assert len(told["additional_context"]) <= 10_000
        assert run("postToolUse", "PostToolUse", **tool) is None
        ends = []
        for count in range(MAX_BLOCKS + 2):
            ends.append(run("stop", "Stop", status="completed", loop_count=count))
            run("beforeSubmitPrompt", "UserPromptSubmit", prompt="a follow-up", attachments=[])
            if ends[-1] is None:
                break
        assert [list(end or ()) for end in ends] == [["followup_message"]] * MAX_BLOCKS + [[]]
        assert run("sessionEnd", "SessionEnd") is None
        assert only(sessions).ended


def test_a_session_keeps_where_its_host_has_its_sessions(
    hook: Run, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", "/x/codex")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "")
    hook("SessionStart", host="codex")
    assert only(sessions).variables == {"CODEX_HOME": "/x/codex"}
    monkeypatch.delenv("CODEX_HOME")
    hook("SessionStart", host="codex")
    assert only(sessions).variables == {}


def test_a_plugin_gets_the_agent_and_texts_and_tells_each_message_once(
    hook: Run, sessions: Sessions, relay: str
) -> None:
    with Client(relay) as ann:
        ann.register("hook-ann-2")
        begun = hook("SessionStart", host="opencode", server="http://127.0.0.1:4096/")
        me = only(sessions)
        assert (begun["agent"], begun["session_id"]) == (me.name, me.session_id)
        assert begun["text"].startswith(f"ClawLink: you are the agent {me.name}")
        assert (me.server, me.folder) == ("http://127.0.0.1:4096/", "/x/shop")
        id = ann.send(me.name, "hello")
        told = hook("PostToolUse", host="opencode")
        assert list(told) == ["text"]
        assert id.message_id in told["text"]
        assert hook("UserPromptSubmit", host="opencode") is None
        assert [list(hook("Stop", host="opencode") or ()) for _ in range(4)] == [["go_on"]] * 3 + [[]]
        assert only(sessions).told == (id.message_id,)
        assert only(sessions).server == "http://127.0.0.1:4096/"


def test_an_answer_that_no_model_reads_tells_no_message(sessions: Sessions, relay: str) -> None:
    def run(event: str) -> None:
        until = time.monotonic() + 20
        said = {"session_id": "gateway"}
        Hook(sessions, HOSTS["openclaw"], said, until=lambda: until, tells=False).run(event, lambda: Where(relay))

    run("SessionStart")
    with Client(relay) as ann:
        ann.register("hook-ann-3")
        ann.send(only(sessions).name, "hello")
        for event in ("PostToolUse", "Stop", "SessionStart"):
            run(event)
        assert only(sessions).told == (), "so the program that wakes agents wakes it for this"


def test_a_session_that_is_resumed_is_the_same_agent_and_finds_its_mail(
    hook: Run, sessions: Sessions, relay: str
) -> None:
    hook("SessionStart")
    me = only(sessions)
    assert hook("SessionEnd") is None
    assert (only(sessions).ended, only(sessions).host_process) == (True, None)
    with Client(relay) as ann:
        ann.register("hook-bea")
        ann.send(me.name, "are you there?")
        again = text_of(hook("SessionStart", source="resume"))
    assert '"are you there?"' in again
    assert (only(sessions).agent_id, only(sessions).agent_key) == (me.agent_id, me.agent_key)
    assert hook("SessionEnd", session_id="unknown") is None


def test_ten_sessions_of_three_programs_in_one_folder_are_ten_agents(hook: Run, sessions: Sessions, relay: str) -> None:
    for n in range(10):
        hook("SessionStart", host=("claude", "codex", "gemini")[n % 3], session_id=f"ten{n}")
    found = list(sessions.all())
    assert len(found) == 10
    assert len({session.name for session in found}) == 10
    assert len({session.agent_id for session in found}) == 10
    # Two sessions whose numbers are equal get names that differ.
    with Client(relay) as taken:
        other = taken.register(name_of("claude", "shop", "two")).agent.name
        hook("SessionStart", session_id="two")
        mine = sessions.find("claude", "two")
        assert mine is not None
        assert mine.name == f"{other}-2"


def test_a_registration_whose_reply_was_lost_is_repeated_for_the_same_agent(hook: Run, sessions: Sessions) -> None:
    hook("SessionStart")
    me = only(sessions)
    sessions.keep(me._replace(agent_id=None, agent_key=None))
    assert hook("UserPromptSubmit") is None  # the next event registers
    assert (only(sessions).agent_id, only(sessions).agent_key) == (me.agent_id, me.agent_key)


def test_a_session_survives_a_relay_that_forgot_it(hook: Run, sessions: Sessions) -> None:
    with relay_in_thread(ServerConfig(port=0)) as first:
        hook("SessionStart", at=first)
        me = only(sessions)
    with relay_in_thread(ServerConfig(port=0)) as second:
        sessions.keep(me._replace(relay=second))
        assert hook("PostToolUse", later=BEAT_SECONDS + 1) is None
        assert (only(sessions).agent_id, only(sessions).agent_key) == (me.agent_id, me.agent_key)
        with Client(second, agent_id=me.agent_id, agent_key=me.agent_key) as agent:
            assert agent.poll() == []


def test_a_session_that_is_not_resumed_is_forgotten_after_a_day(hook: Run, sessions: Sessions, relay: str) -> None:
    hook("SessionStart", session_id="old")
    old = only(sessions)
    hook("SessionStart", session_id="new", later=FORGET_SECONDS - 60)
    assert len(list(sessions.all())) == 2
    hook("SessionStart", session_id="new", later=FORGET_SECONDS + 60)
    assert only(sessions).session_id == "new"
    with Client(relay, agent_id=old.agent_id, agent_key=old.agent_key) as gone, pytest.raises(UnknownAgent):
        gone.poll()


def test_a_session_that_ends_gives_its_tasks_back_sleeps_and_is_resumed(hook: Run, sessions: Sessions) -> None:
    # The relay of the other tests makes a dead letter of a task that was handed out once.
    with relay_in_thread(ServerConfig(port=0)) as relay, Client(relay) as ann:
        ann.register("ann-of-ends")
        hook("SessionStart", at=relay)
        me = only(sessions)
        task = ann.delegate(me.name, "Add").message_id
        with Client(relay, agent_id=me.agent_id, agent_key=me.agent_key) as agent:
            agent.ack([held.receipt for held in agent.poll(lease=600)])
            assert ann.task(task).status == "delivered"
            assert hook("SessionEnd") is None
            shown = ann.task(task)
            assert shown.status == "queued"
            assert "has ended its session" in str(shown.history[-1].note)
            (there,) = [one for one in ann.discover(status="all").agents if one.agent_id == me.agent_id]
            assert there.machine == socket.gethostname()
            assert there.status == "stale"
            assert only(sessions).ended
            # Resumed, it is the same agent, and finds the task.
            assert task in text_of(hook("SessionStart", at=relay))
            assert only(sessions).agent_id == me.agent_id
            (again,) = agent.poll(lease=60)
            assert again.message_id == task
    hook("SessionEnd", session_id="unknown")  # nothing to end


def test_a_working_session_shows_signs_of_life(hook: Run, sessions: Sessions) -> None:
    hook("SessionStart")
    began = only(sessions).beat_at
    hook("PostToolUse", later=BEAT_SECONDS / 2)
    assert only(sessions).beat_at == began
    hook("PostToolUse", later=BEAT_SECONDS + 1)
    assert only(sessions).beat_at > began


def test_the_identity_of_a_session_is_found_by_its_name_alone(hook: Run, sessions: Sessions, tmp_path: Path) -> None:
    hook("SessionStart")
    me = only(sessions)
    kept = Identities(tmp_path)
    assert kept.all() == []
    for named in (me.name, me.name.upper(), me.agent_id):
        assert kept.pick(named=named, relay=None).agent_key == me.agent_key
    assert kept.matching(named=None, relay=None) == []


def test_a_session_is_found_by_its_host_and_never_guessed(sessions: Sessions) -> None:
    mine, other = (Session("claude", id, id, "http://r", "c", agent_id=id) for id in ("mine", "other"))
    sessions.keep(mine._replace(host_process=(70, "t70")))
    sessions.keep(other._replace(host_process=(80, "t80")))
    above = [(90, "t90"), (70, "t70"), (60, "t60")]
    found = of_call(sessions, above, None)
    assert found is not None
    assert found.session_id == "mine"
    for wrong in ([], [(60, "t60")], [(70, "later")], [(71, "t70")]):
        assert of_call(sessions, wrong, None) is None, wrong
    sessions.keep(other._replace(host_process=(70, "t70")))  # two sessions say that this is their host
    with pytest.raises(SeveralIdentities, match=r"2 sessions share this server .mine, other.*clawlink poll --as NAME"):
        of_call(sessions, above, None)
    sessions.keep(other._replace(host_process=(70, "t70"), ended=True))
    assert of_call(sessions, above, None) is not None


def test_a_session_that_opencode_names_is_found_if_it_runs_above(sessions: Sessions) -> None:
    mine = Session("opencode", "mine", "one", "http://r", "c", agent_id="a1", host_process=(70, "t70"))
    other = mine._replace(session_id="other", name="two", agent_id="a2")
    foreign = mine._replace(session_id="foreign", host_process=(80, "t80"))
    over, fresh = mine._replace(session_id="over", ended=True), mine._replace(session_id="fresh", agent_id=None)
    for session in (mine, other, foreign, over, fresh, mine._replace(host="claude", session_id="claude's")):
        sessions.keep(session)
    for above in ([(90, "t90"), (70, "t70")], []):  # Windows tells no processes
        for session in (mine, other):
            assert of_call(sessions, above, session.session_id) == session
        for named in ("over", "fresh", "nobody", "", "claude's", *(["foreign"] if above else [])):
            with pytest.raises(NoIdentity, match="no agent yet"):
                of_call(sessions, above, named)


def test_the_gateway_of_openclaw_has_one_agent_that_is_never_forgotten(relay: str, sessions: Sessions) -> None:
    begun = [of_gateway(sessions, lambda: Where(relay), 20.0, begins=begins) for begins in (True, False, True)]
    assert len({(one.agent_id, one.name, one.agent_key) for one in begun}) == 1
    assert begun[0].name.startswith("openclaw-home-")
    sessions.keep(begun[0]._replace(seen_at=0.0))
    Hook(sessions, HOSTS["claude"], {"session_id": "s"}, until=lambda: time.monotonic() + 20).run(
        "SessionStart", lambda: Where(relay)
    )
    assert sessions.find("openclaw", begun[0].session_id) is not None
    with Client(relay, agent_id=begun[0].agent_id, agent_key=begun[0].agent_key) as gone:
        gone.leave()
    sessions.keep(begun[0]._replace(beat_at=0.0))
    back = of_gateway(sessions, lambda: Where(relay), 20.0, begins=False)
    assert (back.agent_id, back.name) == (begun[0].agent_id, begun[0].name)
    with pytest.raises(RelayUnreachable, match="clawlink doctor"):
        of_gateway(Sessions(sessions.folder), lambda: Where("http://127.0.0.1:9"), 5.0, begins=True)


def test_servers_of_openclaw_that_start_at_one_moment_make_one_agent(relay: str, tmp_path: Path) -> None:
    def begin(_: int) -> str | None:
        return of_gateway(Sessions(tmp_path), lambda: Where(relay), 20.0, begins=True).agent_id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(begin, range(4)))) == 1
    only(Sessions(tmp_path))


def test_a_file_that_is_no_session_is_passed_over(sessions: Sessions) -> None:
    sessions.keep(Session("claude", "s1", "n", "http://r", "c"))
    path = sessions.path("claude", "s1")
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    whole = json.loads(path.read_bytes())
    for wrong in (b"", b"{", b"[]", b"\xff", b"null", b'{"host": "claude"}', b"[" * 100_000):
        path.write_bytes(wrong)
        assert sessions.find("claude", "s1") is None, wrong
        assert list(sessions.all()) == [], wrong
    for field, value in (("name", 5), ("told", 7), ("host_process", ["x", "y"]), ("seen_at", "now"), ("blocks", None)):
        path.write_text(json.dumps({**whole, field: value}))
        assert sessions.find("claude", "s1") is None, field
    path.write_text(json.dumps({**whole, "of_a_later_version": 1}))
    assert sessions.find("claude", "s1") is not None
