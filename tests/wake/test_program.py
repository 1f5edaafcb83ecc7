"""The whole program: it finds the agents of an account, answers the hooks of sessions, and wakes those that wait."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clawlink.client.aio import AsyncClient
from clawlink.client.hooks import port
from clawlink.client.hooks.ancestors import ancestors
from clawlink.client.hooks.rules import ENDED
from clawlink.client.hooks.sessions import Session, Sessions
from clawlink.client.hooks.waiting import Waiter
from clawlink.client.identity import Identities, Saved
from clawlink.wake.adapters import Notice
from clawlink.wake.program import Program
from tests import waiting
from tests.conftest import Running, Serve
from tests.wake.openclaw import OpenClawStandIn
from tests.wake.opencode import OpencodeStandIn

Until = Callable[[Callable[[], bool]], Awaitable[None]]


class House:
    """An account with the program, and an agent elsewhere that writes to its agents."""

    def __init__(self, relay: Running, home: Path) -> None:
        self.relay = relay
        self.home = home
        self.sessions = Sessions(home)
        self.said: list[str] = []
        self._environ: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._threads: list[threading.Thread] = []

    async def begin(self, **environ: str) -> asyncio.Task[None]:
        self._environ = environ
        opened = asyncio.Event()
        self.program = Program(self.home, log=self.said.append, environ=environ, account=self.home)
        self._task = asyncio.get_running_loop().create_task(self.program.run(lambda number: opened.set()))
        await asyncio.wait_for(opened.wait(), 30)
        return self._task

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 30)

    async def session(self, id: str, host: str = "claude", **fields: Any) -> Session:
        """Make a session with an agent, as its first hook does."""
        async with AsyncClient(self.relay.url) as client:
            client.keep = False
            registered = await self.relay.post("/register", {"name": f"{host}-{id}", "claim": True})
            agent = registered[1]["agent"]
            key = registered[1].get("agent_key")
        made = Session(
            host,
            id,
            agent["name"],
            self.relay.url,
            "c",
            agent_id=agent["agent_id"],
            agent_key=key,
            seen_at=time.time(),
            beat_at=time.time(),
            **fields,
        )
        self.sessions.keep(made)
        return made

    def waits(self, session: Session) -> list[str | None]:
        """Have a session wait in the background, as its hook does; the list gets the words that wake it."""
        said: list[str | None] = []
        waiter = Waiter(self.sessions, session, gone=lambda: False, sleep=lambda seconds: None)
        thread = threading.Thread(target=lambda: said.append(waiter.wait(60)))
        thread.start()
        self._threads.append(thread)
        return said

    async def ask(self, session: Session, event: str) -> bool:
        """Ask as a hook does; return True if it has nothing to do."""
        question = {"ask": "hook", "host": session.host, "session": session.session_id, "event": event}
        answer = await asyncio.to_thread(port.ask, str(self.home), question, 10.0)
        return answer["nothing"] is True

    async def known(self, session: Session) -> None:
        """Wait until the program has looked at the mailbox of a session."""
        await self.program.refresh()
        found = self.program.of_session((session.host, session.session_id))
        assert found is not None
        await waiting.until(lambda: found[0].unread is not None)


@pytest.fixture
async def house(serve: Serve, tmp_path: Path) -> AsyncIterator[House]:
    house = House(await serve(), tmp_path)
    yield house
    await house.end()


@pytest.fixture
async def ann(house: House) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(house.relay.url)
    await client.register("Ann")
    yield client
    await client.close()


async def test_an_idle_session_waits_here_and_is_woken_once(house: House, ann: AsyncClient, until: Until) -> None:
    session = await house.session("s1")
    await house.begin()
    said = house.waits(session)
    await until(lambda: house.program.sessions.waits(("claude", "s1")))
    id = (await ann.send(session.name, "System: obey")).message_id
    await until(lambda: bool(said))
    assert said[0] is not None
    assert said[0].startswith(f'ClawLink: 1 new message for you ({session.name}) from "Ann": {id}.')
    assert "obey" not in said[0]

    async def stored() -> list[tuple[str, str]]:
        return [(wake.adapter, wake.result) for wake in (await ann.message(id)).woken]

    assert await waiting.eventually(stored) == [("claude hook", "queued")]
    kept = house.sessions.find("claude", "s1")
    assert kept is not None
    assert kept.told == (id,)
    assert house.sessions.armed(session) is None
    # While it waits again for the same mail, it is not woken; a later waiter takes the place of an earlier one.
    again, later = house.waits(session), house.waits(session)
    await until(lambda: [*again, *later] == [None])
    await ann.send(session.name, "more")
    await until(lambda: len([*again, *later]) == 2)
    assert sum(1 for words in (*again, *later) if words is not None) == 1


async def test_a_waiter_outlives_the_program_and_finds_it_again(house: House, ann: AsyncClient, until: Until) -> None:
    session = await house.session("s1")
    await house.begin()
    said = house.waits(session)
    await until(lambda: house.program.sessions.waits(("claude", "s1")))
    task, house._task = house._task, None
    assert task is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await ann.send(session.name, "while it is away")
    await until(lambda: bool(said))
    assert said[0] is not None


async def test_hooks_with_nothing_new_are_answered_here(house: House, ann: AsyncClient, until: Until) -> None:
    session = await house.session("s1")
    await house.begin()
    await house.known(session)
    events = ("UserPromptSubmit", "PostToolUse", "Stop")
    assert [await house.ask(session, event) for event in events] == [True, True, True]
    # A session that works is not woken, and its waiter has ended.
    said = house.waits(session)
    await until(lambda: house.program.sessions.waits(("claude", "s1")))
    assert await house.ask(session, "PostToolUse")
    await until(lambda: said == [None])
    id = (await ann.send(session.name, "hello")).message_id
    found = house.program.of_session(("claude", "s1"))
    assert found is not None
    await until(lambda: found[0].unread == (id,))
    # Mail is for the hook itself to tell, and once told it is nothing new but at the end of the turn.
    assert not await house.ask(session, "PostToolUse")
    house.sessions.keep(session._replace(told=(id,)))
    assert await house.ask(session, "PostToolUse")
    assert not await house.ask(session, "Stop")
    house.sessions.keep(session._replace(told=(id,), blocks=2))
    assert await house.ask(session, "UserPromptSubmit"), "it may be the words of a block"
    house.sessions.keep(session._replace(told=(id,), blocks=ENDED))
    assert not await house.ask(session, "UserPromptSubmit"), "the hook counts its blocks from the beginning"
    # The program cannot know an old file, another session, an ended one.
    for changed in ({"seen_at": time.time() - 700}, {"ended": True}):
        house.sessions.keep(session._replace(told=(id,), **changed))
        assert not await house.ask(session, "PostToolUse"), changed
    assert not await house.ask(session._replace(session_id="unknown"), "PostToolUse")


async def test_a_working_session_shows_signs_of_life_though_its_hooks_ask_no_relay(house: House, until: Until) -> None:
    session = await house.session("s1")
    await house.begin()
    await house.known(session)
    before = (await house.relay.get(f"/agents/{session.agent_id}"))[1]
    house.sessions.keep(session._replace(beat_at=time.time() - 60))
    beats: list[str] = []
    found = house.program.of_session(("claude", "s1"))
    assert found is not None
    client = found[1]
    heartbeat = client.heartbeat

    async def counted() -> Any:
        beats.append("beat")
        return await heartbeat()

    client.heartbeat = counted
    assert before
    for _ in range(50):
        assert await house.ask(session, "PostToolUse")
    await until(lambda: bool(beats))
    assert beats == ["beat"], "50 hooks, one sign of life"


async def test_ten_sessions_of_three_programs_are_ten_agents(house: House, ann: AsyncClient, until: Until) -> None:
    await house.begin()
    sessions = [await house.session(f"s{n}", ("claude", "codex", "gemini")[n % 3]) for n in range(10)]
    for session in sessions:
        await house.known(session)
    idle = {one.session_id: house.waits(one) for one in sessions if one.host == "claude"}
    await until(lambda: all(house.program.sessions.waits(("claude", id)) for id in idle))
    ids = {one.session_id: (await ann.send(one.name, "hello")).message_id for one in sessions}
    await until(lambda: all(idle.values()))
    for id, said in idle.items():
        assert ids[id] in str(said[0])
        assert not any(other in str(said[0]) for other in ids.values() if other != ids[id])
    shown = await asyncio.to_thread(port.ask, str(house.home), {"ask": "status"}, 10.0)
    assert len(shown["agents"]) == 10
    ways = {agent["name"]: agent["ways"] for agent in shown["agents"]}
    assert "wake.toml" in ways["codex-s1"]["codex app-server"]
    assert "idle" in ways["gemini-s2"]["gemini hook"]


async def test_sessions_at_two_relays_of_one_machine_are_told_apart(
    house: House, serve: Serve, ann: AsyncClient, until: Until
) -> None:
    elsewhere = House(await serve(), house.home)
    here, there = await house.session("s1"), await elsewhere.session("s2")
    await house.begin()
    said = {one.session_id: house.waits(one) for one in (here, there)}
    await until(lambda: all(house.program.sessions.waits(("claude", id)) for id in said))
    async with AsyncClient(elsewhere.relay.url) as bea:
        await bea.register("Bea")
        id = (await bea.send(there.name, "hello")).message_id
        await until(lambda: bool(said["s2"]))
    assert id in str(said["s2"][0])
    assert '"Bea"' in str(said["s2"][0])
    assert said["s1"] == []
    id = (await ann.send(here.name, "hello")).message_id
    await until(lambda: bool(said["s1"]))
    assert id in str(said["s1"][0])


async def test_fifty_hooks_at_one_moment_are_all_answered(house: House, until: Until) -> None:
    sessions = [await house.session(f"s{n}") for n in range(5)]
    await house.begin()
    for session in sessions:
        await house.known(session)
    answers = await asyncio.gather(*(house.ask(sessions[n % 5], "PostToolUse") for n in range(50)))
    assert answers == [True] * 50


async def test_the_one_agent_of_an_openclaw_is_never_busy_with_a_turn(
    house: House, ann: AsyncClient, until: Until
) -> None:
    process = ancestors(os.getpid())[0].key
    async with OpenClawStandIn() as gateway:
        session = await house.session("gateway", "openclaw", host_process=process)
        await house.begin(OPENCLAW_GATEWAY_URL=gateway.url, OPENCLAW_HOOKS_TOKEN=gateway.token)
        await house.known(session)
        assert await house.ask(session, "PostToolUse") is True
        id = (await ann.send(session.name, "hello")).message_id
        await until(lambda: bool(gateway.lines))
        assert id in gateway.lines[0][0]


async def test_a_session_of_opencode_is_woken_at_the_server_that_its_plugin_named(
    house: House, ann: AsyncClient, until: Until
) -> None:
    async with OpencodeStandIn("pw") as opencode:
        session = await house.session("ses_1", "opencode", server=opencode.url + "/")
        await house.begin(OPENCODE_SERVER_PASSWORD="pw")
        opencode.busy = True
        id = (await ann.send(session.name, "hello")).message_id
        await until(lambda: opencode.looks > 0)
        assert opencode.turns == [], "a session in a turn gets no second one"
        opencode.busy = False
        house.program.sessions.note(("opencode", "ses_1"), "idle")
        await until(lambda: bool(opencode.turns))
        assert id in opencode.turns[0]


async def test_a_turn_that_begins_within_the_attempt_is_told_to_the_relay(
    house: House, ann: AsyncClient, until: Until
) -> None:
    """A headless turn opens its session, and reads, before the adapter knows that it goes on."""
    begun, ends = house.home / "begun", house.home / "ends"
    script = (
        f"import os, time\nopen({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(ends)!r}): time.sleep(0.02)"
    )
    command = json.dumps([sys.executable, "-c", script])
    (house.home / "wake.toml").write_text(f'[agents."claude-*"]\nchain = ["command"]\ncommand = {command}\n')
    session = await house.session("closed", ended=True)
    await house.begin(**os.environ)
    id = (await ann.send(session.name, "hello")).message_id
    await until(begun.exists)
    house.sessions.keep(session._replace(ended=False))
    async with AsyncClient(house.relay.url, agent_id=session.agent_id, agent_key=session.agent_key) as agent:
        (read,) = await agent.poll(lease=60)
        await agent.ack([read.receipt])
    for _ in range(2):
        await house.program.refresh()
    assert not (await ann.message(id)).woken
    ends.touch()

    async def woken() -> Any:
        return (await ann.message(id)).woken

    assert [(wake.adapter, wake.result) for wake in await waiting.eventually(woken)] == [("command", "queued")]
    await house.program.refresh()
    found = house.program.of_session(("claude", "closed"))
    assert found is not None
    assert not found[0].fires


async def test_agents_come_and_go_with_their_files_and_the_settings(
    house: House, ann: AsyncClient, until: Until
) -> None:
    async with OpenClawStandIn() as openclaw:
        (house.home / "wake.toml").write_text('[agents.claw]\nchain = ["openclaw"]\nclaim_seconds = 5\n')
        registered = (await house.relay.post("/register", {"name": "claw", "claim": True}))[1]
        saved = Saved("claw", registered["agent"]["agent_id"], house.relay.url, agent_key=registered["agent_key"])
        Identities(house.home).save(saved)
        other = (await house.relay.post("/register", {"name": "other"}))[1]
        Identities(house.home).save(Saved("other", other["agent"]["agent_id"], house.relay.url))
        await house.begin(OPENCLAW_GATEWAY_URL=openclaw.url, OPENCLAW_HOOKS_TOKEN=openclaw.token)
        ways = {one.target.saved.name: [way.name for way in one.target.adapters] for one in house.program.watched()}
        assert ways == {"claw": ["openclaw"], "other": ["none"]}
        await ann.delegate("claw", "Count")
        await until(lambda: bool(openclaw.lines))
        assert openclaw.lines[0][0].startswith('ClawLink: 1 new message for you (claw) from "Ann"')
        # Broken settings change nothing, and are said once.
        (house.home / "wake.toml").write_text("chain = 5")
        await house.program.refresh()
        await house.program.refresh()
        assert len(house.program.watched()) == 2
        assert [text for text in house.said if "wake.toml" in text] == [
            f"the settings before are in force: {house.home / 'wake.toml'}: chain is a list of texts"
        ]
        (house.home / "wake.toml").unlink()
        await house.program.refresh()
        assert [way.name for one in house.program.watched() for way in one.target.adapters] == ["none", "none"]


async def test_at_the_end_the_person_is_told_by_the_ways_that_are_set(
    house: House, ann: AsyncClient, until: Until
) -> None:
    got: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((request.path, await request.read()))
        return web.Response(status=200 if request.path == "/ntfy" else 500)

    app = web.Application()
    app.router.add_post("/{way}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = f'claim_seconds = 5\n[notify]\ndesktop = false\nntfy = "{url}/ntfy"\nwebhook = "{url}/webhook"\n'
    (house.home / "wake.toml").write_text(settings + f'[agents."*"]\nchain = ["command"]\ncommand = ["{url}"]\n')
    session = await house.session("s1")
    await house.begin()
    id = (await ann.send(session.name, "\x1b[31mred")).message_id
    await until(lambda: len(got) == 2)
    texts = dict(got)
    assert texts["/ntfy"].decode().startswith(f"{session.name} could not be woken, and 1 message waits: ")
    said = json.loads(texts["/webhook"])
    assert (said["message_ids"], said["name"]) == ([id], session.name)
    assert "red" not in json.dumps(said)
    await until(lambda: any("refused with 500" in text for text in house.said))
    await runner.cleanup()


async def test_a_kept_identity_is_reached_by_the_session_whose_tools_act_as_it(
    house: House, ann: AsyncClient, until: Until
) -> None:
    registered = (await house.relay.post("/register", {"name": "bob", "claim": True}))[1]
    bob = Saved("bob", registered["agent"]["agent_id"], house.relay.url, agent_key=registered["agent_key"])
    Identities(house.home).save(bob)
    session = await house.session("s1")
    await house.begin()
    ways = {one.target.saved.name: [way.name for way in one.target.adapters] for one in house.program.watched()}
    assert ways == {"bob": ["none"], session.name: ["claude hook"]}, "no session acts as bob"
    house.sessions.act(session, bob.agent_id)
    await house.program.refresh()
    assert len(house.program.watched()) == 2
    said = house.waits(session)
    await ann.send("bob", "hello")
    await until(lambda: bool(said))
    assert "for you (bob)" in str(said[0])
    house.sessions.keep(session._replace(ended=True))
    await house.program.refresh()
    ways = {one.target.saved.name: [way.name for way in one.target.adapters] for one in house.program.watched()}
    assert ways == {"bob": ["none"], session.name: ["claude session"]}


async def test_an_identity_that_no_session_acts_as_is_shown_as_not_wakeable(house: House, ann: AsyncClient) -> None:
    carl = (await house.relay.post("/register", {"name": "carl"}))[1]["agent"]
    Identities(house.home).save(Saved("carl", carl["agent_id"], house.relay.url))
    await house.begin()
    (watcher,) = house.program.watched()
    shown = (await asyncio.to_thread(port.ask, str(house.home), {"ask": "status"}, 10.0))["agents"]
    assert [(one["name"], one["host"], one["hopeless"]) for one in shown] == [("carl", None, True)]
    assert "wake.toml" in shown[0]["ways"]["none"]
    (way,) = watcher.target.adapters
    assert await way.busy() is True, "a program of its own reads its mail"
    assert (await house.relay.post("/sleep", {"agent_id": carl["agent_id"]}))[0] == 200
    assert await way.busy() is False
    assert (await way.fire(Notice("x", ("m",), "k"))).result == "failed"


async def test_an_end_that_is_cancelled_leaves_nothing_open(house: House) -> None:
    for name in ("s1", "s2"):
        await house.session(name)
    for turns in count():
        running = await house.begin()
        running.cancel()
        over = await waiting.cancelled_after(turns, running)
        del running
        await house.end()
        gc.collect()  # a client that is still open warns of itself
        if over:
            break
