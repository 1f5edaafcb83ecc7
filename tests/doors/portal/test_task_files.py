"""Files that go with tasks and answers across portals, and what is said of those that do not arrive."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from typing import Any
from urllib.parse import quote

import pytest

from clawlink.domain.agent import Agent
from clawlink.domain.file import RESTRICTED, SharedFile
from clawlink.doors.portal.records import mailbox_of
from clawlink.doors.portal.server import outbox
from clawlink.doors.portal.server.file_poster import FilePoster
from clawlink.doors.portal.transfers import TRANSFERS, Transfer
from tests.doors.portal.conftest import Bridges, Own, Peers, Portals
from tests.doors.portal.test_files import PART, contents_held, download, md5, pair, put, status_of
from tests.doors.portal.test_forwarded_tasks import B_KEY, heard, task_in, well
from tests.waiting import eventually, forever, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


async def share(own: Own, name: str, data: bytes) -> dict[str, Any]:
    """Share a file of the agent ann, as ``--attach`` does, and return the attachment."""
    await well(own, "POST", "/register", {"agent_id": "ann", "name": "Ann"})
    key = f"attachments/{name}"
    headers = {"Authorization": "Bearer t", "ClawLink-Readers": "", "ClawLink-Agent": "ann"}
    url = f"{own.url}/blobs/{quote(key, safe='')}"
    async with own.relay.session.put(url, data=io.BytesIO(data), headers=headers) as answer:
        told = await answer.json()
        assert answer.status in (200, 201), told
    sha256 = hashlib.sha256(data).hexdigest()
    return {"file_key": key, "version": told["version"], "size": len(data), "sha256": sha256, "name": name}


async def delegate(own: Own, to: str, task: str, *attached: dict[str, Any]) -> str:
    body = {"from_agent": "ann", "to_agent": to, "task": task, "attachments": list(attached)}
    return str((await well(own, "POST", "/delegate", body))["message_id"])


async def read(own: Own, key: str) -> tuple[int, bytes]:
    """Read a file of the relay as ann."""
    url = f"{own.url}/blobs/{quote(key, safe='')}"
    async with own.relay.session.get(url, headers={"Authorization": "Bearer t", "ClawLink-Agent": "ann"}) as answer:
        return answer.status, await answer.read()


async def files_of(own: Own) -> dict[str, Any]:
    """Return the files of a portal by their names."""
    return {one["filename"]: one for one in (await own.well("GET", "/api/portal/files"))["files"]}


async def bring(own: Own, task: str, name: str, data: bytes) -> str:
    """Bring a file for the answer to a task to the own portal."""
    sha256 = hashlib.sha256(data).hexdigest()
    body = {"task": task, "filename": name, "size": len(data), "md5": md5(data), "sha256": sha256, "chunk_size": PART}
    told = await own.well("POST", "/api/portal/files", body)
    for index in range(told["chunks_total"]):
        assert (await put(own, told["file_id"], index, data[index * PART : (index + 1) * PART]))[0] == 200
    return str(told["file_id"])


async def test_files_of_a_task_and_of_its_answer_cross(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    data = {"sheep.csv": os.urandom(3 * PART + 1), "empty.txt": b""}
    id = await delegate(a, "B-bot@portal", "count them", *[await share(a, name, data[name]) for name in data])
    there = await heard(bridge, "count them")
    text = next(text for text in bridge.texts if "count them" in text)
    came = await files_of(b)
    for name in data:
        assert f"File {name}, {len(data[name])} bytes: clawlink portal get-file {came[name]['file_id']}" in text
        assert came[name]["status"] == "completed"
        assert (await download(b, came[name]["file_id"]))[1] == data[name]
        assert (await files_of(a))[name]["status"] == "sent"
        assert await read(a, f"attachments/{name}") == (200, data[name]), "it stays its owner's"
    assert not any("传输完成" in text for text in bridge.texts), "the task tells of its files"
    answer = {"count.txt": b"a hundred", "photo.jpg": os.urandom(PART + 5)}
    files = [await bring(b, there, name, answer[name]) for name in answer]
    assert (await files_of(b))["photo.jpg"]["status"] == "attached"
    for _ in range(2):
        ask = {"result": "see there", "files": files, "idempotency_key": "k"}
        await b.well("POST", f"/api/portal/tasks/{there}", ask)
    done = await task_in(a, id, "completed")
    assert [one["name"] for one in done["result_attachments"]] == list(answer)
    for one in done["result_attachments"]:
        assert await read(a, one["file_key"]) == (200, answer[one["name"]])
    await status_of(b, files[1], "sent")
    await a.well("DELETE", "/api/portal/contacts/B-bot")
    assert await contents_held(a) == 2, "her own files, and none of the contact's"
    contact = (await b.contact(a.url))["id"]
    told = await b.well("DELETE", f"/api/portal/contacts/{contact}")
    assert (told["files"], await contents_held(b)) == (4, 0)
    for own in (a, b):
        assert (await own.relay.app.relay.core.store.usage(Transfer, TRANSFERS)).count == 0


async def test_a_task_waits_for_its_files_and_holds_up_nothing_else(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    gate = asyncio.Event()
    part = FilePoster.part

    async def wait(self: FilePoster, *given: Any) -> Any:
        await gate.wait()
        return await part(self, *given)

    monkeypatch.setattr(FilePoster, "part", wait)
    attached = await share(a, "sheep.csv", b"x" * PART)
    first, second = [await delegate(a, "B-bot@portal", text, attached) for text in ("count them", "never mind")]
    await well(a, "POST", "/send", {"from_agent": "ann", "to_agent": "B-bot@portal", "content": "hello"})
    await until(lambda: any("Ann: hello" in text for text in bridge.texts))
    assert (await task_in(a, first, "delivered", "queued"))["status"] == "delivered", "the portal has it, and no agent"
    assert not any("count them" in text for text in bridge.texts)
    await well(a, "POST", f"/tasks/{second}/cancel", {"from_agent": "ann"})
    gate.set()
    await heard(bridge, "count them")

    async def settled() -> bool:
        found = (await a.well("GET", "/api/portal/files"))["files"]
        return sorted(one["status"] for one in found) == ["refused", "sent"]

    await eventually(settled)
    assert not any("never mind" in text for text in bridge.texts)
    await task_in(a, first, "acknowledged", "delivered")


async def test_what_does_not_arrive_is_said_with_its_limit_and_the_next_step(
    portals: Portals, bridges: Bridges, old_portals: Peers
) -> None:
    a, b = await pair(portals, portal_contact_files=1000)
    bridge = await bridges(b, key=B_KEY)
    large = await share(a, "large.bin", b"x" * 1001)
    small = await share(a, "small.bin", b"x" * 600)
    id = await delegate(a, "B-bot@portal", "count them", small, large)
    said = (await task_in(a, id, "rejected"))["result"]
    assert said.startswith("attachments: 'large.bin' (1001 bytes) does not reach 127.0.0.1:")
    assert "a file of a contact may have 1000 bytes here, and this one has 1001; send it in smaller files" in said
    id = await delegate(a, "B-bot@portal", "count them", small)
    said = (await task_in(a, id, "rejected"))["result"]
    assert "files of one contact may take 1000 bytes here, and 600 are taken; ask the owner to delete some" in said
    id = await delegate(a, "B-bot@portal", "count them", {**small, "version": 7})
    said = (await task_in(a, id, "rejected"))["result"]
    assert "version 7 of 'attachments/small.bin' is not there" in said
    assert "share it and attach it again" in said
    assert bridge.texts == []
    # An answer arrives without the file that does not.
    await b.well("POST", "/api/portal/contacts/A-bot", {"blocked": False})
    id = await delegate(a, "B-bot@portal", "tell me")
    there = await heard(bridge, "tell me")
    await b.well(
        "POST", f"/api/portal/tasks/{there}", {"result": "here", "files": [await bring(b, there, "l", b"x" * 1001)]}
    )
    done = await task_in(a, id, "completed")
    assert (done["result"], done["result_attachments"]) == ("here", [])
    assert "attachments: 'l' (1001 bytes) does not reach" in done["note"]
    # An old portal gets the text, and the files by themselves.
    peer = await old_portals("0.9")
    peer.key, peer.from_portal = await a.befriend(peer.url, agent_name="old"), a.url
    id = await delegate(a, "old@portal", "count the sheep", small)
    said = (await task_in(a, id, "rejected"))["result"]
    assert "knows no tasks; the text goes there as message 1, and its attachments as files" in said
    await until(
        lambda: (
            [one["content"] for one in peer.stored] == ["count the sheep\n[file] small.bin, 600 bytes, comes by itself"]
        )
    )
    await until(lambda: any(one["status"] == "completed" for one in peer.files.known.values()))
    assert peer.files.contents("small.bin") == b"x" * 600


async def test_files_of_a_task_are_its_contact_s_alone_and_go_after_a_day(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    key = (await b.contact(a.url))["SHARED_KEY"]
    thief = await b.befriend("https://c.example")
    head = {"filename": "x", "size": 1, "md5": md5(b"x"), "to_portal": b.url}
    told = await b.well("POST", "/api/file/initiate", {**head, "api_key": key, "task_id": "t1"}, key="")
    ask = {"api_key": key, "from_portal": a.url, "kind": "task", "task_id": "t1", "content": "x"}
    ask["files"] = [told["file_id"]]
    status, answer = await b.ask("POST", "/api/portal/tasks", ask, key="")
    assert (status, "no complete file" in answer["detail"]) == (400, True), "a part is missing"
    assert (await put(b, told["file_id"], 0, b"x", key=key))[0] == 200
    for wrong in (
        {"task_id": "t2"},
        {"api_key": thief, "from_portal": "https://c.example"},
        {"files": ["none"]},
        {"kind": "response", "task_id": "t2"},
    ):
        status, answer = await b.ask("POST", "/api/portal/tasks", {**ask, **wrong}, key="")
        assert status in (400, 404), (wrong, answer)
    for wrong, status in (({}, 400), ({"to": "A-bot", "task": "t"}, 400), ({"task": "t"}, 404)):
        given = {"filename": "x", "size": 1, "md5": md5(b"x"), "sha256": hashlib.sha256(b"x").hexdigest(), **wrong}
        assert (await b.ask("POST", "/api/portal/files", given))[0] == status, wrong
    assert await contents_held(b) == 1
    door: Any = b.relay.app.doors["portal"]
    clock = b.relay.app.relay.core.clock
    monkeypatch.setattr(b.relay.app.relay.core, "clock", lambda: clock() + 86_401)
    await door.active.task_files.sweep()
    assert (await b.relay.app.relay.core.store.usage(SharedFile, RESTRICTED)).count == 0
    assert (await b.well("GET", "/api/portal/files"))["files"] == []


async def test_to_forget_a_contact_deletes_files_that_wait(
    portals: Portals, bridges: Bridges, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    await delegate(a, "B-bot@portal", "tell me", await share(a, "sheep.csv", b"x" * PART))
    there = await heard(bridge, "tell me")
    await bring(b, there, "answer.bin", b"y" * PART)
    key = (await b.contact(a.url))["SHARED_KEY"]
    head = {"api_key": key, "filename": "lost", "size": 1, "md5": md5(b"x"), "task_id": "never comes"}
    told = await b.well("POST", "/api/file/initiate", head, key="")
    await put(b, told["file_id"], 0, b"x", key=key)

    async def never(self: FilePoster, *given: Any) -> Any:
        await forever()

    monkeypatch.setattr(FilePoster, "part", never)
    waits = await delegate(a, "B-bot@portal", "count them", await share(a, "more.csv", b"x" * PART))
    await task_in(a, waits, "delivered")

    async def four() -> bool:
        return await contents_held(b) == 4  # of the last one no part comes

    await eventually(four)
    for own, other in ((a, b), (b, a)):
        contact = (await own.contact(other.url))["id"]
        await own.well("DELETE", f"/api/portal/contacts/{contact}")

        async def forgotten(own: Own = own) -> bool:
            return (await own.relay.app.relay.core.store.usage(Transfer, TRANSFERS)).count == 0

        await eventually(forgotten)
    assert (await contents_held(a), await contents_held(b)) == (2, 0), "ann's files stay hers"
    assert (await task_in(a, waits, "rejected", "returned"))["result"] == "the contact is removed"
    door: Any = a.relay.app.doors["portal"]
    door.active.outbox.wake(b.url)
    await until(lambda: not door.active.outbox.working)
    assert await a.relay.app.relay.core.store.get(Agent, mailbox_of(b.url)) is None
