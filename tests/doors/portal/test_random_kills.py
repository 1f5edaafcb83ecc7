"""Portals that are killed at any moment: files, tasks, answers and messages are neither lost nor doubled."""

from __future__ import annotations

import asyncio
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import Start
from tests.doors.portal.conftest import Bridges
from tests.doors.portal.old_peer import OldBridge
from tests.doors.portal.test_adopted import facts
from tests.doors.portal.test_files import PART, download, give
from tests.doors.portal.test_forwarded_tasks import heard, task_in, well
from tests.doors.portal.test_processes import KEYS, Portal
from tests.doors.portal.test_task_files import bring, delegate, read, share
from tests.effort import size
from tests.waiting import eventually, until

ROUNDS = size(2, 6, 40)
_MOST_SECONDS = 0.3
_PARTS = 6
_ENV = {**KEYS, "CLAWLINK_TOKEN": "t"}


@pytest.mark.storm
async def test_kills_at_random_moments_lose_and_double_nothing(
    start_relay: Start, session: aiohttp.ClientSession, bridges: Bridges, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    a, b = (Portal(start_relay, session, tmp_path / name) for name in ("a", "b"))
    a_url, b_url = (f"http://127.0.0.1:{portal.port}" for portal in (a, b))
    for portal in (a, b):
        portal.begin(_ENV)
    key = await a.own.befriend(b_url, agent_name="B-bot")
    await b.own.well("POST", "/api/contacts", {"portal_url": a_url, "agent_name": "A-bot", "SHARED_KEY": key})

    async def kill_some() -> None:
        await asyncio.sleep(rng.uniform(0, _MOST_SECONDS))
        victims = rng.choice(([a], [b], [a, b]))
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.begin(_ENV)

    files: dict[str, bytes] = {}
    tasks: dict[str, str] = {}
    messages: dict[str, str] = {}
    for number in range(ROUNDS):
        data = os.urandom(_PARTS * PART + number)
        files |= {f"file-{number}": data, f"attached-{number}": data[::-1]}
        attached = await share(a.own, f"attached-{number}", data[::-1])
        await give(a.own, "B-bot", f"file-{number}", data)
        tasks[f"task {number}"] = await delegate(a.own, "B-bot@portal", f"task {number}", attached)
        hello = {"from_agent": "ann", "to_agent": "B-bot@portal", "content": f"hello {number}"}
        messages[f"Ann: hello {number}"] = (await well(a.own, "POST", "/send", hello))["message_id"]
        await kill_some()

    async def all_there() -> Any:
        found = (await b.own.well("GET", "/api/portal/files"))["files"]
        return found if [one["status"] for one in found] == ["completed"] * len(files) else None

    came = {one["filename"]: one["file_id"] for one in await eventually(all_there)}
    assert set(came) == set(files), seed
    for name, data in files.items():
        assert (await download(b.own, came[name]))[1] == data, (seed, name)
    bridge = await bridges(b.own)
    there = {text: await heard(bridge, f": {text}\nAnswer it") for text in tasks}  # each once, or heard fails
    for text, id in messages.items():
        await facts(a.own, id, "acked_at")
        await until(partial(_once, bridge, text))
    answers = {text: os.urandom(_PARTS * PART) for text in tasks}
    for text, id in there.items():
        brought = await bring(b.own, id, f"answer to {text}", answers[text])
        await b.own.well("POST", f"/api/portal/tasks/{id}", {"result": text.upper(), "files": [brought]})
    await bridge.close()
    await kill_some()
    for text, id in tasks.items():
        done = await task_in(a.own, id, "completed")
        assert done["result"] == text.upper(), seed
        (one,) = done["result_attachments"]
        assert await read(a.own, one["file_key"]) == (200, answers[text]), seed
    told = (await well(a.own, "GET", "/poll/ann?max=100"))["messages"]
    ends = [one["message_id"] for one in told if one["type"] == "task_response" and one["status"] == "completed"]
    assert sorted(ends) == sorted(tasks.values()), (seed, told)
    found = (await a.own.well("GET", "/api/portal/files"))["files"]
    assert len(found) == 3 * ROUNDS, (seed, "those that were sent, and the answers")


def _once(bridge: OldBridge, text: str) -> bool:
    return [one.endswith(text) for one in bridge.texts].count(True) == 1
