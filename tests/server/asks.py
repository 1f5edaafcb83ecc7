"""How the suites of the routes talk to a relay whose index may lag: they ask until they have what they wait for."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.conftest import Running
from tests.waiting import eventually

NEWS = ("agent_joined", "agent_left")

Headers = dict[str, str]


class Got(NamedTuple):
    """A message as it was claimed."""

    message: dict[str, Any]
    receipt: str
    attempt: int
    lease_expires_at: str


def with_key(agent_key: str) -> Headers:
    """Return the header that proves a claimed agent."""
    return {"ClawLink-Agent-Key": agent_key}


async def ok(asked: Awaitable[tuple[int, Any]]) -> Any:
    """Return the JSON of a reply that must be 200."""
    status, body = await asked
    assert status == 200, (status, body)
    return body


async def refused(asked: Awaitable[tuple[int, Any]], status: int, code: str) -> Any:
    """Return the JSON of a refusal that must have this status and code, and a sentence."""
    got, body = await asked
    assert (got, body.get("code")) == (status, code), (got, body)
    assert isinstance(body["error"], str)
    assert len(body["error"]) > 8
    return body


async def poll(relay: Running, agent_id: str, **query: Any) -> Any:
    """Poll once and return the reply."""
    headers = query.pop("headers", None)
    return await ok(relay.get(f"/poll/{quote(agent_id, safe='')}", params=query, headers=headers))


async def ack(relay: Running, agent_id: str, *receipts: str, headers: Headers | None = None) -> Any:
    """Ack and return the reply."""
    return await ok(relay.post("/ack", {"agent_id": agent_id, "receipts": list(receipts)}, headers=headers))


async def claim(
    relay: Running, agent_id: str, count: int = 1, *, headers: Headers | None = None, news: bool = False, **query: Any
) -> list[Got]:
    """Claim until ``count`` messages have come, each claimed once. Who joined and left is acked and left out."""
    found: list[Got] = []

    async def more() -> bool:
        reply = await poll(relay, agent_id, headers=headers, **{"lease": 60, "max": 100, **query})
        assert reply["count"] == len(reply["messages"]) == len(reply["deliveries"])
        for message, held in zip(reply["messages"], reply["deliveries"], strict=True):
            if message["type"] in NEWS and not news:
                await ack(relay, agent_id, held["receipt"], headers=headers)
            else:
                found.append(Got(message, held["receipt"], held["attempt"], held["lease_expires_at"]))
        return len(found) >= count

    await eventually(more)
    assert len(found) == count, found
    return found


async def claim_one(relay: Running, agent_id: str, **query: Any) -> Got:
    """Claim the one message that is there."""
    (got,) = await claim(relay, agent_id, **query)
    return got


async def nothing_due(relay: Running, agent_id: str, *, headers: Headers | None = None) -> None:
    """Check that nothing is due but who joined and left. Asks three times, because an index may lag."""
    for _ in range(3):
        reply = await poll(relay, agent_id, headers=headers, lease=60)
        assert [m for m in reply["messages"] if m["type"] not in NEWS] == []


async def delegate(relay: Running, sender: str, to: str, task: str = "do it", **fields: Any) -> str:
    """Delegate a task and return its id."""
    headers = fields.pop("headers", None)
    body = {"from_agent": sender, "to_agent": to, "task": task, **fields}
    reply = await ok(relay.post("/delegate", body, headers=headers))
    return str(reply["message_id"])


async def send(relay: Running, sender: str, to: str, content: Any = "hello", **fields: Any) -> str:
    """Send a message and return its id."""
    headers = fields.pop("headers", None)
    body = {"from_agent": sender, "to_agent": to, "content": content, **fields}
    reply = await ok(relay.post("/send", body, headers=headers))
    return str(reply["message_id"])


async def respond(relay: Running, sender: str, message_id: str, result: Any = "done", **fields: Any) -> Any:
    """Respond and return the reply."""
    body = {"from_agent": sender, "message_id": message_id, "result": result, **fields}
    return await ok(relay.post("/respond", body))


async def status_of(relay: Running, asker: str, message_id: str, *, headers: Headers | None = None) -> Any:
    """Ask how far a message came."""
    return await ok(relay.get(f"/messages/{quote(message_id, safe='')}", params={"agent_id": asker}, headers=headers))


async def task_of(relay: Running, asker: str, task_id: str, *, headers: Headers | None = None, **query: Any) -> Any:
    """Ask what became of a task."""
    asked = {"agent_id": asker, **query}
    return await ok(relay.get(f"/tasks/{quote(task_id, safe='')}", params=asked, headers=headers))


async def tasks_of(relay: Running, asker: str, **query: Any) -> list[Any]:
    """List an agent's tasks, page by page to the end."""
    found: list[Any] = []
    after: dict[str, str] = {}
    while True:
        page = await ok(relay.get("/tasks", params={"agent_id": asker, **query, **after}))
        assert page["count"] == len(page["tasks"])
        found += page["tasks"]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


async def pool_task(relay: Running, sender: str, capability: str | list[str] = "python", **fields: Any) -> str:
    """Delegate to whoever has the capability, and return the task's id."""
    body = {"from_agent": sender, "capability": capability, "task": "do it", **fields}
    return str((await ok(relay.post("/delegate", body)))["message_id"])


async def load_of(relay: Running, agent_id: str) -> tuple[int, int]:
    """Return what discover says of an agent: messages in its mailbox, open tasks."""
    reply = await ok(relay.get("/discover", params={"status": "all"}))
    (load,) = [a["load"] for a in reply["agents"] if a["agent_id"] == agent_id]
    return load["mailbox"], load["open_tasks"]


async def metrics(relay: Running) -> dict[str, float]:
    """Return the relay's counters and gauges by name."""
    async with relay.session.get(relay.url + "/metrics") as response:
        assert response.status == 200
        text = await response.text()
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name.split("{")[0].removeprefix("clawlink_")] = float(value)
    return values
