"""``connect`` is awaited, run and made a task; what Agent Link's documents show runs as it stands."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clawlink.agentlink import AgentLink, Message
from clawlink.errors import BadRequest, NotAllowed, RelayUnreachable
from tests.conftest import Running
from tests.doors.agentlink.conftest import NEW_C, SECONDS, Make, ServeLink
from tests.doors.agentlink.old_client import sign
from tests.doors.agentlink.test_link import Box

PROGRAM = """
import asyncio
from clawlink.agentlink import AgentLink

link = AgentLink(agent_id="x")

@link.on_message
def handle(from_agent, message):
    link.send(to_agent=from_agent, message="got " + message)
    if message == "two":
        link.disconnect()

asyncio.run(link.connect())
print(link.state)
"""


async def test_awaited_it_ends_once_connected(relay: Running, make: Make) -> None:
    waits: dict[str, Callable[[AgentLink], Any]] = {
        "await": lambda link: link.connect(),
        "wait_for": lambda link: asyncio.wait_for(link.connect(), SECONDS),
        "ensure_future": lambda link: asyncio.ensure_future(link.connect()),  # wait_for is that before Python 3.12
        "gather": lambda link: asyncio.gather(link.connect(), link.connect()),
    }
    for name, wait in waits.items():
        link = make(relay, "c", name)
        await wait(link)
        assert link.connected, name
        await wait(link)
        await link.disconnect()
        assert not link.connected, name


async def test_as_a_task_it_ends_when_it_is_disconnected(
    relay: Running, make: Make, until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    for way in ("disconnected", "cancelled"):
        link = make(relay, "c", way)
        task = asyncio.create_task(link.connect())
        await until(lambda link=link: link.connected)
        await link.send(link.address, "it works meanwhile")
        assert not task.done()
        if way == "disconnected":
            await link.disconnect()
            await asyncio.wait_for(task, SECONDS)
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert link.state == "closed", way
    assert not caplog.records


async def test_a_task_that_begins_after_its_link_was_disconnected_ends_at_once(relay: Running, make: Make) -> None:
    link = make(relay, "c", "carol")
    connecting = link.connect()
    await connecting
    await link.disconnect()
    await asyncio.wait_for(asyncio.create_task(connecting), SECONDS)
    assert link.state == "closed"


async def test_a_task_ends_with_a_connection_that_is_not_made_again(
    serve_link: ServeLink, make: Make, until: Callable[..., Any]
) -> None:
    relay = await serve_link()
    link = make(relay, "c", "carol", auto_reconnect=False)
    task = asyncio.create_task(link.connect())
    await until(lambda: link.connected)
    await relay.app.relay.drain()
    await asyncio.wait_for(task, SECONDS)
    assert not link.connected


async def test_every_form_raises_what_the_first_attempt_fails_with(relay: Running) -> None:
    cases: list[tuple[type[Exception], str, str]] = [
        (NotAllowed, relay.url, "wrong"),
        (RelayUnreachable, "ws://127.0.0.1:1/agentlink", NEW_C["secret"]),
    ]
    for error, url, secret in cases:
        link = AgentLink(url, secret, "c", "carol")
        with pytest.raises(error):
            await link.connect()
        with pytest.raises(error):
            await asyncio.wait_for(link.connect(), SECONDS)
        with pytest.raises(error):
            await asyncio.create_task(link.connect())

        def run(link: AgentLink = link) -> None:
            asyncio.run(link.connect())

        with pytest.raises(error):
            await asyncio.to_thread(run)
        await link.disconnect()


async def test_a_program_that_runs_it_ends_when_another_thread_disconnects(
    relay: Running, make: Make, until: Callable[..., Any]
) -> None:
    c, d = make(relay, "c", "carol"), make(relay, "d", "dan")
    box = Box()

    @d.on_message
    async def keep(message: Message) -> None:
        box.put(message)

    thread = threading.Thread(target=lambda: asyncio.run(d.connect()))
    thread.start()
    await c.connect()
    await until(lambda: d.connected)
    await c.send("d/dan", "hello")
    assert (await box.next()).message == "hello"
    assert thread.is_alive()
    await d.disconnect()
    await asyncio.to_thread(thread.join, SECONDS)
    assert not thread.is_alive()


async def test_the_program_that_the_original_shows_runs_as_it_stands(
    serve_link: ServeLink, make: Make, tmp_path: Path
) -> None:
    relay = await serve_link([{**NEW_C, "agents": ["x"]}])
    config = {"relay_url": relay.url, "secret": NEW_C["secret"], "instance_id": "c", "auto_reconnect": True}
    (tmp_path / "agent-link-config.json").write_text(json.dumps(config), encoding="utf-8")
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        c, answers = make(relay, "c", "carol"), Box()
        c.on_message(answers)
        await c.connect()
        sent = [await c.send("c/x", text) for text in ("one", "two")]
        assert [(await answers.next()).message for _ in sent] == ["got one", "got two"]
        assert await asyncio.wait_for(asyncio.gather(*(one.receipt() for one in sent)), SECONDS) == [True, True]
        out, err = await asyncio.wait_for(program.communicate(), SECONDS)
        assert (program.returncode, out.decode().split(), err) == (0, ["closed"], b"")
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def test_send_takes_its_old_names(relay: Running, make: Make) -> None:
    c, box = make(relay, "c", "carol"), Box()
    c.on_message(box)
    await c.send(to_agent="c/carol", message="one")
    await c.send(to="c/carol", message="two")
    got = [await box.next() for _ in range(2)]
    assert [message.message for message in got] == ["one", "two"]
    for message in got:
        assert abs(datetime.now() - message.timestamp) < timedelta(minutes=1), message.timestamp
        assert datetime.fromisoformat(message.fields["timestamp"].replace("Z", "+00:00")).timestamp() == pytest.approx(
            message.timestamp.timestamp()
        )
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"message": "x"}, "to"),
        ({"to": "c/carol"}, "message"),
        ({"to": "c/carol", "to_agent": "c/carol", "message": "x"}, "to_agent"),
        ({"to_agent": "", "message": "x"}, "to"),
    ]
    for fields, field in wrong:
        with pytest.raises(BadRequest) as refused:
            c.send(**fields)
        assert refused.value.field == field, fields


def test_the_longest_pause_is_given_or_set() -> None:
    given = ("ws://127.0.0.1:1/agentlink", "s", "c", "carol")
    link = AgentLink(*given)
    assert link.reconnect_interval is None
    link.reconnect_interval = 5
    assert link.reconnect_interval == 5
    assert AgentLink(*given, reconnect_interval=0.1).reconnect_interval == 0.1
    for wrong in (0, -1, 3601, float("nan"), "5"):
        for set_it in (
            lambda wrong=wrong: AgentLink(*given, reconnect_interval=wrong),
            lambda wrong=wrong: setattr(link, "reconnect_interval", wrong),
        ):
            with pytest.raises(BadRequest) as refused:
                set_it()
            assert refused.value.field == "reconnect_interval", wrong
    assert link.sign_message("hello ☂") == sign("s", "hello ☂")
