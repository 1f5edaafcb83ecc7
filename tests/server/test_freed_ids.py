"""Over the wire: a stranger that has taken the id of a claimed agent asks every route about that agent's tasks."""

from __future__ import annotations

from typing import Any

from tests.conftest import Running

KEYS = {"ann": "a" * 43, "stranger": "s" * 43, "bob": "b" * 43}


class As:
    """A relay as one agent asks it."""

    def __init__(self, relay: Running, key: str) -> None:
        self._relay = relay
        self._headers = {"ClawLink-Agent-Key": KEYS[key]}

    async def get(self, path: str) -> tuple[int, Any]:
        return await self._relay.get(path, headers=self._headers)

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return await self._relay.post(path, body, headers=self._headers)

    async def register(self, id: str) -> None:
        status, body = await self.post("/register", {"agent_id": id, "name": id, "claim": True})
        assert status == 200, body

    async def leave(self, id: str) -> None:
        status, body = await self._relay.ask("DELETE", f"/agents/{id}", headers=self._headers)
        assert status == 200, body


async def test_a_stranger_with_the_id_of_an_agent_that_left_is_a_third_agent(relay: Running) -> None:
    ann, bob, stranger = As(relay, "ann"), As(relay, "bob"), As(relay, "stranger")
    await ann.register("ann")
    await bob.register("bob")
    work = {"from_agent": "ann", "to_agent": "bob", "task": "a secret", "idempotency_key": "job-1"}
    _, body = await ann.post("/delegate", work)
    task = body["message_id"]
    _, body = await bob.get("/poll/bob?lease=60")
    _, body = await bob.post(
        "/respond", {"from_agent": "bob", "message_id": task, "status": "in_progress", "result": 1}
    )
    report = body["response_id"]
    await ann.leave("ann")
    await stranger.register("ann")

    asks: list[tuple[str, dict[str, Any] | None, int]] = [
        (f"/tasks/{task}?agent_id=ann", None, 403),
        (f"/tasks/{task}?agent_id=ann&wait=1", None, 403),
        (f"/messages/{task}?agent_id=ann", None, 403),
        (f"/messages/{report}?agent_id=ann", None, 403),
        (f"/tasks/{task}/cancel", {"from_agent": "ann"}, 403),
        (f"/tasks/{task}/answer", {"from_agent": "ann", "content": "yes"}, 403),
        ("/respond", {"from_agent": "ann", "message_id": task, "result": 1}, 403),
        ("/delegate", {"from_agent": "ann", "to_agent": "bob", "task": "t", "parent_task": task}, 403),
        ("/send", {"from_agent": "ann", "to_agent": "bob", "content": "t", "parent_task": task}, 403),
        ("/broadcast", {"from_agent": "ann", "content": "t", "parent_task": task}, 403),
    ]
    for path, said, expected in asks:
        status, body = await (stranger.get(path) if said is None else stranger.post(path, said))
        assert (status, body["code"]) == (expected, "not_allowed"), (path, body)
        assert "secret" not in str(body), path
        assert not body.get("current"), (path, body)
    for query in (
        "",
        "&status=open",
        "&status=final",
        "&requester=ann",
        "&assignee=ann",
        "&requester=ann&assignee=bob",
    ):
        status, body = await stranger.get(f"/tasks?agent_id=ann{query}")
        assert (status, body["tasks"]) == (200, []), query
    assert (await stranger.get("/poll/ann?lease=60"))[1]["count"] == 0
    _, body = await stranger.post("/ack", {"agent_id": "ann", "tasks": [task]})
    assert body["count"] == 0, body
    _, body = await stranger.post("/delegate", work)
    assert body["message_id"] != task

    status, body = await bob.post("/respond", {"from_agent": "bob", "message_id": task, "result": "the answer"})
    assert (status, body["delivery"], body["recipient"]) == (200, "none", None), body
    assert (await stranger.get("/poll/ann?lease=60"))[1]["count"] == 0
    await stranger.leave("ann")
    await ann.register("ann")
    status, body = await ann.get(f"/tasks/{task}?agent_id=ann")
    assert (status, body["result"]) == (200, "the answer")
    _, body = await ann.get("/tasks?agent_id=ann")
    assert [one["task_id"] for one in body["tasks"]] == [task]
    _, body = await ann.post("/delegate", work)
    assert body["message_id"] == task
