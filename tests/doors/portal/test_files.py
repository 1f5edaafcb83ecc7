"""Files in parts: between two portals of ours, from and to those of Agent P2P, and through all that goes wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clawlink.domain.file import RESTRICTED, SharedFile
from clawlink.doors.portal import transfers
from clawlink.doors.portal.client.files import placed
from clawlink.doors.portal.records import Contact
from clawlink.doors.portal.rules import file_parts
from clawlink.doors.portal.server import file_outbox, file_routes, files, outbox
from clawlink.doors.portal.transfers import Transfer
from tests.doors.portal.conftest import OWNER, Bridges, Own, Peers, Portals
from tests.doors.portal.old_peer import FILES_SINCE, OldFileSender
from tests.waiting import eventually, until

B_KEY = "ap2p_the-key-of-another-owner-000000000000000000"
PART = 50_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(outbox, "MOST_PAUSE_SECONDS", 0.2)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def pair(portals: Portals, **settings: Any) -> tuple[Own, Own]:
    """Return two portals whose owners agreed."""
    a, b = await portals(key=OWNER, **settings), await portals(key=B_KEY, **settings)
    key = await a.befriend(b.url, agent_name="B-bot")
    await b.well("POST", "/api/contacts", {"portal_url": a.url, "agent_name": "A-bot", "SHARED_KEY": key})
    return a, b


async def begin(own: Own, to: Any, name: str, data: bytes, **fields: Any) -> Any:
    """Announce a file for a contact at the own portal."""
    sha256 = hashlib.sha256(data).hexdigest()
    body = {"to": to, "filename": name, "size": len(data), "md5": md5(data), "sha256": sha256, "chunk_size": PART}
    return await own.well("POST", "/api/portal/files", {**body, **fields})


async def put(own: Own, id: str, index: int, part: bytes, *, key: str | None = None) -> tuple[int, Any]:
    """Send a part as bytes."""
    headers = {"Authorization": f"Bearer {own.key if key is None else key}"}
    url = f"{own.url}/api/portal/files/{id}/{index}"
    async with own.relay.session.put(url, data=io.BytesIO(part), headers=headers) as answer:
        return answer.status, await answer.json()


async def give(own: Own, to: Any, name: str, data: bytes, **fields: Any) -> str:
    """Bring a file for a contact to the own portal, and return its id there."""
    told = await begin(own, to, name, data, **fields)
    for index in range(told["chunks_total"]):
        status, answer = await put(own, told["file_id"], index, data[index * PART : (index + 1) * PART])
        assert (status, answer["status"]) == (200, "received"), answer
    return str(told["file_id"])


async def status_of(own: Own, id: str, *statuses: str) -> Any:
    """Wait until a file is in one of these states, and return what the portal tells of it."""

    async def ask() -> Any:
        told = await own.well("GET", f"/api/file/status/{id}")
        return told if told["status"] in statuses else None

    return await eventually(ask)


async def the_file(own: Own) -> Any:
    """Return what the portal tells of its only file."""
    (one,) = (await own.well("GET", "/api/portal/files"))["files"]
    return one


async def download(own: Own, id: str, *, key: str | None = None, **headers: str) -> tuple[int, bytes, Any]:
    url = f"{own.url}/api/file/download/{id}?api_key={own.key if key is None else key}"
    async with own.relay.session.get(url, headers=headers) as answer:
        return answer.status, await answer.read(), answer.headers


async def contents_held(own: Own) -> int:
    """Return how many contents the portal's relay has."""
    store = own.relay.app.relay.core.store
    return (await store.usage(SharedFile, RESTRICTED)).count + own.relay.app.relay.uploads.under_way()[0]


async def chunk(own: Own, id: str, index: int, part: bytes, key: str, **fields: Any) -> tuple[int, Any]:
    """Send a part as old scripts do."""
    body = {"api_key": key, "file_id": id, "chunk_index": index, "chunk_md5": md5(part)}
    text = json.dumps({**body, "data": base64.b64encode(part).decode(), **fields})
    return await raw_chunk(own, id, index, text.encode())


async def raw_chunk(
    own: Own, id: str, index: int | str, body: bytes, kind: str = "application/json"
) -> tuple[int, Any]:
    url = f"{own.url}/api/file/chunk/{id}/{index}"
    async with own.relay.session.post(url, data=io.BytesIO(body), headers={"Content-Type": kind}) as answer:
        return answer.status, await answer.json()


async def initiate(own: Own, key: str, data: bytes, **fields: Any) -> tuple[int, Any]:
    """Announce a file as a contact does, in parts of ``PART`` bytes."""
    body = {"api_key": key, "filename": "a.bin", "size": len(data), "md5": md5(data), "to_portal": own.url}
    body |= {"chunks_total": -(-len(data) // PART), "chunk_size": PART}
    return await own.relay.ask("POST", "/api/file/initiate", json={**body, **fields})


async def test_between_two_of_ours_a_file_of_any_name_arrives_whole(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    for number, (name, shown) in enumerate(
        (
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("..\\x\r\nSet-Cookie: a=b", "xSet-Cookie_ a=b"),
            ("мой 文件.txt", "мой 文件.txt"),
            ("-rf", "rf"),
            ("...", "file"),
            ("n" * 300 + ".tar", "n" * 196 + ".tar"),
            ("", "file"),
        )
    ):
        data = os.urandom(2 * PART + number) if number < 3 else b"" if number == 3 else b"x"
        id = await give(a, "B-bot", name, data)
        assert (await status_of(a, id, "sent", "refused"))["status"] == "sent"
        (told, *_) = (await b.well("GET", "/api/portal/files"))["files"]
        assert (told["filename"], told["status"], told["size"]) == (shown, "completed", len(data))
        status, found, headers = await download(b, told["file_id"])
        assert (status, found) == (200, data)
        plain, coded = (
            headers["Content-Disposition"].removeprefix('attachment; filename="').split("\"; filename*=UTF-8''")
        )
        assert (coded, "\n" in plain) == (quote(shown, safe=""), False)
        text = f"[Agent P2P] 文件传输完成\n文件ID: {told['file_id']}\n文件已准备好下载"
        await until(lambda text=text: any(frame.get("content") == text for frame in bridge.frames))  # type: ignore[misc]
    assert [f["type"] for f in bridge.frames if "content" in f] == ["file_transfer"] * 8
    assert await contents_held(a) == 0, "what arrived is not kept at its sender's"
    keys = [file.id for file in (await b.relay.app.relay.core.store.page(SharedFile, RESTRICTED, limit=20)).records]
    assert sorted(keys)[0] == f"portal/{a.url.partition('://')[2]}/1/report.pdf"
    part = await download(b, (await b.well("GET", "/api/portal/files"))["files"][-1]["file_id"], Range="bytes=10-19")
    assert (part[0], len(part[1])) == (206, 10)


async def test_a_file_is_the_same_if_its_key_is(portals: Portals) -> None:
    a, b = await pair(portals)
    data = os.urandom(PART + 1)
    first = await give(a, b.url, "x", data, idempotency_key="k")
    await status_of(a, first, "sent")
    again = await begin(a, b.url, "x", data, idempotency_key="k")
    assert (again["file_id"], again["status"]) == (first, "sent")
    body = {"to": b.url, "filename": "y", "size": 0, "md5": md5(b""), "sha256": hashlib.sha256(b"").hexdigest()}
    status, answer = await a.ask("POST", "/api/portal/files", {**body, "idempotency_key": "k"})
    assert (status, answer["code"]) == (422, "key_reused") or answer["code"] == "key_reused", answer
    assert (await the_file(b))["status"] == "completed"


async def test_a_file_without_sums_gets_those_of_the_portal(portals: Portals) -> None:
    """A browser would have to hold all of a file for its sums."""
    a, b = await pair(portals)
    data = os.urandom(2 * PART + 7)
    body = {"to": "B-bot", "filename": "x", "size": len(data), "chunk_size": PART, "idempotency_key": "once"}
    told = await a.well("POST", "/api/portal/files", body)
    id = told["file_id"]
    for index in (0, 2, 1):
        assert (await put(a, id, index, data[index * PART : (index + 1) * PART]))[0] == 200
    assert (await status_of(a, id, "sent", "refused"))["sha256"] == hashlib.sha256(data).hexdigest()
    there = await the_file(b)
    assert (there["status"], there["sha256"]) == ("completed", hashlib.sha256(data).hexdigest())
    assert (await a.well("POST", "/api/portal/files", body))["file_id"] == id
    status, refused = await a.ask("POST", "/api/portal/files", {**body, "sha256": "0" * 64})
    assert (status, refused["code"]) == (409, "key_reused")
    key = await b.befriend("https://guest.example")
    status, refused = await initiate(b, key, data, md5=None)
    assert (status, refused["field"]) == (400, "md5"), "of a contact the portal has to know what it was to get"


async def test_old_scripts_send_to_ours(portals: Portals) -> None:
    portal = await portals()
    for number, release in enumerate(FILES_SINCE):
        key = await portal.befriend(f"https://b{number}.example")
        for data in (b"", b"x", os.urandom(PART), os.urandom(3 * PART + 7)):
            sender = OldFileSender(release, key, part_bytes=PART)
            name = f"{release} {len(data)}.bin"
            done, id = await sender.send(portal.relay.session, portal.url, name, data)
            assert done, (release, len(data))
            told = await portal.relay.ask("GET", f"/api/file/status/{id}", params={"api_key": key})
            assert (told[0], told[1]["status"], told[1]["filename"]) == (200, "completed", name)
            assert (await download(portal, id, key=key))[1] == data
            if data:
                last = data[(len(data) - 1) // PART * PART :]
                again = await chunk(portal, id, (len(data) - 1) // PART, last, key)
                assert (again[0], again[1]["status"]) == (200, "exists"), "a lost reply to the last part is no failure"
    assert OldFileSender("0.9", "k").part_bytes == file_parts.PART_BYTES


async def test_parts_come_in_any_order_and_twice(portals: Portals) -> None:
    portal = await portals()
    key = await portal.befriend("https://b.example")
    data = os.urandom(4 * PART + 9)
    _, told = await initiate(portal, key, data)
    id = told["file_id"]
    received: list[int] = []
    for index in (3, 1, 3, 4, 0, 0, 2):
        status, answer = await chunk(portal, id, index, data[index * PART : (index + 1) * PART], key)
        new = index not in received
        assert (status, answer["status"]) == (200, "received" if new else "exists"), index
        received += [index] if new else []
        told = await portal.well("GET", f"/api/file/status/{id}")
        assert told["received_chunks"] == sorted(received)
    assert told["status"] == "completed"
    assert (await download(portal, id))[1] == data
    assert await contents_held(portal) == 1, "no part is left beside the file"


async def test_what_a_sender_lies_about_is_refused(portals: Portals) -> None:
    portal = await portals(limits={"max_file_bytes": 10 * PART})
    key = await portal.befriend("https://b.example")
    data = os.urandom(2 * PART + 1)
    wrong: Any
    for wrong, status, field in (
        ({"size": -1}, 400, "size"),
        ({"size": 10 * PART + 1, "chunks_total": 11}, 413, "size"),
        ({"chunks_total": 2}, 400, "chunks_total"),
        ({"chunks_total": 10**12}, 400, "chunks_total"),
        ({"chunk_size": 0}, 400, "chunk_size"),
        ({"chunk_size": 1 << 40, "chunks_total": 1}, 400, "chunk_size"),
        ({"chunk_size": 1, "size": 10**6, "chunks_total": 10**6}, 400, "chunk_size"),
        ({"md5": "x"}, 400, "md5"),
        ({"md5": None}, 400, "md5"),
        ({"sha256": "0"}, 400, "sha256"),
        ({"size": 0, "chunks_total": 0}, 400, "md5"),
    ):
        got, answer = await initiate(portal, key, data, **wrong)
        assert (got, answer.get("field")) == (status, field), (wrong, answer)
    long = {"idempotency_key": "k" * 129}
    for wrong in ({"size": "1"}, {"filename": None}, {"size": 1.5}, {"chunks_total": "3"}, long):
        got, answer = await initiate(portal, key, data, **wrong)
        assert (got, answer["detail"][0]["loc"][-1]) == (422, next(iter(wrong))), wrong
    _, told = await initiate(portal, key, data)
    id, part = told["file_id"], data[:PART]
    text = base64.b64encode(part).decode()
    for index, wrong, status, name in (
        (0, {"chunk_md5": md5(b"other")}, 400, "chunk_md5"),
        (0, {"data": text[:-4], "chunk_md5": md5(base64.b64decode(text[:-4]))}, 400, "data"),
        (0, {"data": text[:-1]}, 400, "data"),
        (0, {"data": "=" + text[1:]}, 400, "data"),
        (0, {"data": text[:100] + "\n" + text[100:]}, 400, "data"),
        (0, {"data": text[:100] + "é" + text[100:]}, 400, "data"),
        (2, {}, 413, None),
        (2, {"data": "eHh4", "chunk_md5": md5(b"xxx")}, 400, "data"),
        (3, {}, 400, "chunk_index"),
        (0, {"data": text * 3}, 413, None),
        (0, {"api_key": "ap2p_" + "x" * 30}, 401, None),
    ):
        got, answer = await chunk(portal, id, index, part, key, **wrong)
        assert (got, answer.get("field")) == (status, name), (index, list(wrong), answer)
    for body, status in (
        (b"{", 400),
        (b"[]", 400),
        (b'{"data": "', 400),
        (b'{"data": ""}', 401),
        (b'{"x": "\\"data\\":\\"", "y": 1}', 400),
        (b'{"x": {"data": "eHg="}, "api_key": "' + key.encode() + b'"}', 400),
    ):
        assert (await raw_chunk(portal, id, 0, body))[0] == status, body
    assert (await raw_chunk(portal, id, "x", b"{}"))[0] == 404
    assert (await raw_chunk(portal, "nothing", 0, b"{}"))[0] == 404
    assert (await raw_chunk(portal, id, 0, b"{}", "text/plain"))[0] == 422
    assert (await portal.well("GET", f"/api/file/status/{id}"))["received_chunks"] == []
    for index in range(3):
        assert (await chunk(portal, id, index, data[index * PART : (index + 1) * PART], key))[0] == 200
    assert (await portal.well("GET", f"/api/file/status/{id}"))["status"] == "completed"


async def test_a_file_with_wrong_sums_fails_and_can_begin_again(portals: Portals) -> None:
    portal = await portals()
    key = await portal.befriend("https://b.example")
    data = os.urandom(PART + 1)
    right = {"md5": md5(data), "sha256": hashlib.sha256(data).hexdigest()}
    for number, (name, wrong) in enumerate((("md5", "0" * 32), ("sha256", "0" * 64))):
        sums = {"md5": right["md5"], name: wrong, "idempotency_key": str(number)}
        _, told = await initiate(portal, key, data, **sums)
        id = told["file_id"]
        assert (await chunk(portal, id, 1, data[PART:], key))[0] == 200
        status, answer = await chunk(portal, id, 0, data[:PART], key)
        assert (status, answer["field"]) == (400, name), answer
        failed = await portal.well("GET", f"/api/file/status/{id}")
        assert (failed["status"], failed["received_chunks"]) == ("failed", [])
        assert (await download(portal, id))[0] == 400
        assert (await chunk(portal, id, 0, data[:PART], key))[0] == 400
        assert await contents_held(portal) == 0
        again = await initiate(portal, key, data, **sums)
        assert (again[0], again[1]["file_id"]) == (200, id)
        assert (await portal.well("GET", f"/api/file/status/{id}"))["status"] == "transferring"
        await portal.well("DELETE", f"/api/portal/files/{id}")
    assert (await portal.well("GET", "/api/portal/files"))["files"] == []


async def test_ours_sends_to_old_portals_through_what_goes_wrong(portals: Portals, old_portals: Peers) -> None:
    portal = await portals()
    data = os.urandom(3 * PART + 1)
    for release in FILES_SINCE:
        peer = await old_portals(release)
        peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
        peer.files.broken, peer.files.lose = 2, 2
        id = await give(portal, peer.url, "a.bin", data)
        await status_of(portal, id, "sent")
        assert peer.files.contents("a.bin") == data
        assert peer.files.parts_taken == [0, 1, 2, 3], "a part whose answer was lost is not sent again"
        assert len(peer.files.known) == 1
        assert await contents_held(portal) == 0


async def test_a_file_that_fails_at_an_old_portal_ends_and_the_agent_is_told(
    portals: Portals, old_portals: Peers, bridges: Bridges
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    bridge = await bridges(portal)
    peer.files.spoil = True
    id = await give(portal, peer.url, "a.bin", os.urandom(PART + 1))
    told = await status_of(portal, id, "refused")
    assert "failed" in told["detail"]
    assert len(peer.files.known) == file_outbox.MOST_FAILED
    await until(lambda: any("File a.bin to" in text and "refused" in text for text in bridge.texts))
    assert await contents_held(portal) == 0
    peer.files.spoil = False
    id = await give(portal, peer.url, "empty", b"")
    assert (await status_of(portal, id, "refused"))["detail"], "an old portal never completes an empty file"


async def test_a_file_waits_for_a_portal_that_is_away_and_ends_in_time(portals: Portals, old_portals: Peers) -> None:
    portal = await portals(portal_ttl=0.4)
    away = "http://127.0.0.1:9"
    await portal.befriend(away)
    id = await give(portal, away, "late.bin", b"late")
    assert "within its time to live" in (await status_of(portal, id, "expired"))["detail"]
    contact = await portal.contact(away)
    patient = await give(portal, away, "x", b"x")
    await portal.well("DELETE", f"/api/contacts/{contact['id']}")
    assert "removed" in (await status_of(portal, patient, "refused"))["detail"]


async def test_room_and_numbers_are_limited_and_forgetting_frees_them(portals: Portals) -> None:
    portal = await portals(portal_contact_files=3 * PART)
    key, other = await portal.befriend("https://b.example"), await portal.befriend("https://c.example")
    data = os.urandom(2 * PART)
    _, told = await initiate(portal, key, data)
    assert (await chunk(portal, told["file_id"], 0, data[:PART], key))[0] == 200
    status, answer = await initiate(portal, key, data)
    assert (status, answer["field"]) == (507, "size"), answer
    assert (await initiate(portal, other, data))[0] == 200, "another contact has its own room"
    for number in range(files.MAX_UNFINISHED - 1):
        assert (await initiate(portal, key, b"x", idempotency_key=str(number)))[0] == 200
    assert (await initiate(portal, key, b"x"))[0] == 429
    done = await portal.well("DELETE", "/api/portal/contacts/" + quote("https://b.example", safe=""))
    assert done["files"] == files.MAX_UNFINISHED
    assert (await portal.relay.ask("GET", f"/api/file/status/{told['file_id']}", params={"api_key": OWNER}))[0] == 404
    assert (await portal.well("GET", "/api/portal/files"))["files"][0]["from_portal"] == "https://c.example"


async def test_an_unfinished_file_is_forgotten_after_a_day(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    assert transfers.UNFINISHED_SECONDS == 24 * 3600
    monkeypatch.setattr(transfers, "UNFINISHED_SECONDS", 0.2)
    portal = await portals(limits={"upload_ttl": 0.2})
    key = await portal.befriend("https://b.example")
    _, told = await initiate(portal, key, b"x" * PART)

    async def gone() -> bool:
        return (await portal.ask("GET", f"/api/file/status/{told['file_id']}"))[0] == 404

    await eventually(gone)
    await until(lambda: portal.relay.app.relay.uploads.under_way()[0] == 0)


async def test_files_of_one_contact_are_closed_to_all_others(portals: Portals) -> None:
    portal = await portals()
    key, other = await portal.befriend("https://b.example"), await portal.befriend("https://c.example")
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    data = b"x" * PART
    _, told = await initiate(portal, key, data)
    id = told["file_id"]
    outgoing = (await begin(portal, "https://b.example", "out", b"y"))["file_id"]
    for who, wrong in (
        ("none", ""),
        ("guess", "ap2p_" + "x" * 43),
        ("other", other),
        ("agent", agent),
        ("owner", OWNER),
    ):
        status, _ = await chunk(portal, id, 0, data, wrong)
        assert status in (401, 403), who
        assert (await put(portal, id, 0, data, key=wrong))[0] in (401, 403), who
    for who, wrong in (("none", ""), ("other", other), ("contact", key)):
        assert (await put(portal, outgoing, 0, b"y", key=wrong))[0] in (401, 403), who
        for path in ("status", "download"):
            got = await portal.relay.ask("GET", f"/api/file/{path}/{outgoing}", params={"api_key": wrong})
            assert got[0] in (401, 403), (who, path)
    assert (await put(portal, id, 0, data, key=key))[0] == 200
    for who, wrong, expected in (
        ("other", other, 403),
        ("agent", agent, 200),
        ("owner", OWNER, 200),
        ("own", key, 200),
    ):
        assert (await download(portal, id, key=wrong))[0] == expected, who
    number = (await portal.contact("https://b.example"))["id"]
    await portal.well("POST", f"/api/portal/contacts/{number}", {"blocked": True})
    assert (await download(portal, id, key=key))[0] == 403
    assert (await initiate(portal, key, b"x"))[0] == 403
    async with portal.relay.session.get(f"{portal.url}/discover", headers={"Authorization": "Bearer t"}) as answer:
        assert answer.status == 200
    listed = await portal.relay.ask("GET", "/files", headers={"Authorization": "Bearer t"})
    assert "portal/" not in json.dumps(listed[1]), "no agent of the relay sees what contacts send"


async def test_a_part_that_breaks_off_is_gone_on_with_where_it_broke_off(
    portals: Portals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a raw part that came before a cut stay, and the part is taken again from its beginning."""
    monkeypatch.setattr(file_routes, "RAW_BLOCK_BYTES", 5_000)
    a, b = await pair(portals)
    data = os.urandom(2 * PART)
    told = await begin(a, b.url, "x", data)
    host, _, port = a.url.partition("://")[2].partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"PUT /api/portal/files/{told['file_id']}/0 HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {a.key}\r\n"
    writer.write(head.encode() + f"Content-Length: {PART}\r\n\r\n".encode() + data[: PART // 2])
    await writer.drain()
    uploads = a.relay.app.relay.uploads
    await until(lambda: PART // 4 < uploads.under_way()[1] <= PART // 2)
    writer.close()
    assert (await a.well("GET", f"/api/file/status/{told['file_id']}"))["received_chunks"] == []
    for index in range(2):
        assert (await put(a, told["file_id"], index, data[index * PART :][:PART]))[0] == 200
    await status_of(a, told["file_id"], "sent")
    assert (await download(b, (await the_file(b))["file_id"]))[1] == data
    store = b.relay.app.relay.core.store
    contact = await store.get(Contact, a.url)
    assert contact is not None
    assert (await store.usage(Transfer, transfers.kept_from(contact.id))).bytes == 2 * PART


def test_a_file_that_cannot_be_put_in_its_place_leaves_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        placed(tmp_path / ".taken away.part", tmp_path, "report.pdf")
    assert list(tmp_path.iterdir()) == []
