"""Times on the wire: fields of Agent P2P in the time of Beijing, all others in UTC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.doors.portal.conftest import Bridges, Portals
from tests.doors.portal.test_files import give, pair, status_of
from tests.doors.portal.test_forwarded_tasks import B_KEY, delegate, heard, task_in
from tests.doors.portal.test_messages import send


def times(told: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give all times of an answer, each with the name of its field."""
    for name, value in told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ():
        if isinstance(value, str) and (str(name).endswith(("_at", "timestamp")) or name in ("since", "until")):
            yield str(name), value
        yield from times(value)


async def test_fields_of_agent_p2p_keep_their_zone_and_all_others_are_utc(portals: Portals, bridges: Bridges) -> None:
    a, b = await pair(portals)
    ours, theirs = await bridges(a), await bridges(b, key=B_KEY)
    number = await send(a, b.url, "hello")
    await a.state(number, "acknowledged")
    await a.well("POST", "/api/guest/leave-message", {"content": "a stranger"}, key="")
    await a.well("POST", "/api/chat/owner/send", {"content": "hello"})
    await a.well("POST", "/api/key/create", {"agent_name": "laptop"})
    await a.well("POST", "/api/portal/contacts/B-bot", {"until": "2099-01-01T00:00:00Z"})
    await status_of(a, await give(a, "B-bot", "x", b"x"), "sent")
    task = await delegate(a, "B-bot@portal", "count")
    await b.well("POST", f"/api/portal/tasks/{await heard(theirs, 'count')}", {"result": "a hundred"})
    await task_in(a, task, "completed")
    key = (await a.contact(b.url))["SHARED_KEY"]
    told = [
        *[
            await a.well("GET", path)
            for path in (
                "/api/contacts",
                "/api/guest/messages",
                f"/api/messages/history?contact_portal={b.url}",
                f"/api/messages?contact_portal={b.url}",
                "/api/chat/owner/history",
                "/api/portal/files",
            )
        ],
        *[one for one in ours.frames if one["type"] != "notice"],
    ]
    zones = {(name, value[-6:]) for name, value in times(told)}
    assert zones == {("created_at", "+08:00"), ("timestamp", "+08:00"), ("until", "+00:00")}
    message = (await a.well("GET", f"/api/portal/messages/{number}"))["message_id"]
    ask = {"api_key": key, "from_portal": a.url, "idempotency_key": message}
    told = [
        await a.well("GET", f"/api/portal/messages/{number}"),
        await a.well("GET", "/api/portal/tasks"),
        await a.well("GET", "/api/portal/reach"),
        await b.well("POST", "/api/message/status", ask, key=""),
        {"last_used_at": (await a.well("GET", "/api/key/list"))["api_keys"][0]["last_used_at"]},
        *[one for one in theirs.frames if one["type"] == "notice"],
    ]
    found = list(times(told))
    assert {value[-6:] for _, value in found} == {"+00:00"}, found
    names = {"stored_at", "sent_at", "acknowledged_at", "expires_at", "created_at", "since", "heard_at", "timestamp"}
    assert {name for name, _ in found} == names
