"""Reports on a task of another portal: each comes once and in its order, or ends with a reason."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.file_poster import FilePoster
from clawlink.doors.portal.server.held_back import HeldBack
from clawlink.doors.portal.server.poster import Poster
from clawlink.store.base import Failed
from tests.doors.portal.conftest import Bridges, Portals
from tests.doors.portal.test_errands import B_KEY, heard, task_in
from tests.doors.portal.test_files import pair
from tests.doors.portal.test_task_files import bring, delegate
from tests.waiting import until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(outbox, "_MISHAP_SECONDS", 0.05)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold up all files until this is set."""
    gate = asyncio.Event()
    part = FilePoster.part

    async def wait(self: FilePoster, *given: Any) -> Any:
        await gate.wait()
        return await part(self, *given)

    monkeypatch.setattr(FilePoster, "part", wait)
    return gate


async def test_reports_behind_a_file_come_once_and_in_their_order(
    portals: Portals, bridges: Bridges, gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    told: list[tuple[str, Any]] = []
    held: list[str] = []
    tell, put = Poster.tell, HeldBack.put
    mishaps: list[str] = []

    async def note(self: Poster, peer: Any, news: dict[str, Any]) -> Any:
        if news["kind"] == "response":
            told.append((news["task_id"], news["content"]))
        return await tell(self, peer, news)

    def note_held(self: HeldBack, delivery: Any, task_id: str) -> None:
        held.append(delivery.id)
        put(self, delivery, task_id)
        if not mishaps and len(set(held)) == 10:
            mishaps.append(delivery.id)
            raise Failed("the disk went away")

    monkeypatch.setattr(Poster, "tell", note)
    monkeypatch.setattr(HeldBack, "put", note_held)
    tasks = [await delegate(a, "B-bot@portal", text) for text in ("first", "second")]
    theres = [await heard(bridge, text) for text in ("first", "second")]
    wanted = ["draft", "1", "2", "3", "final"]
    for there in theres:
        file = await bring(b, there, "draft.txt", b"draft")
        for text in wanted:
            body = {"result": text, "status": "completed" if text == "final" else "in_progress"}
            await b.well("POST", f"/api/portal/tasks/{there}", body | ({"files": [file]} if text == "draft" else {}))
    await until(lambda: len(held) >= 20)
    assert told == []
    gate.set()
    for id in tasks:
        done = await task_in(a, id, "completed")
        assert (done["result"], done["result_attachments"]) == ("final", [])
        assert [text for of, text in told if of == id] == wanted
    assert len(held) <= 40, "no report waits over and over"
