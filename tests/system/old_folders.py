"""Data folders as text, so that later versions are tested on those of earlier ones.

``python -m tests.system.old_folders`` writes the folder of this version's schema to ``tests/data/folders``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from clawlink.store.sqlite.database import APPLICATION_ID, NAME, VERSION
from tests.restarting import Restarting
from tests.server.asks import ack, claim, delegate, ok, send, with_key

FOLDERS = Path(__file__).parent.parent / "data" / "folders"


async def fill(restarting: Restarting) -> dict[str, Any]:
    """Leave some of everything in a folder, and return the facts that a later relay must know."""
    relay = await restarting.begin()
    for agent in ("a", "b"):
        await relay.register(agent, agent_id=agent, capabilities=["go"])
    key = (await ok(relay.post("/register", {"agent_id": "k", "name": "Kim", "claim": True})))["agent_key"]
    unread, acked = await send(relay, "a", "b", "unread"), await send(relay, "a", "b", "acked")
    first, second = await claim(relay, "b", 2, max=2)
    await ack(relay, "b", second.receipt)
    tasks = {state: await delegate(relay, "a", "b") for state in ("completed", "delivered", "queued")}
    done, held = await claim(relay, "b", 2, max=2)
    for got, id, result in ((done, tasks["completed"], [1]), (held, tasks["delivered"], None)):
        await ack(relay, "b", got.receipt)
        answer = {"from_agent": "b", "message_id": id, "receipt": got.receipt}
        if result is not None:
            await ok(relay.post("/respond", answer | {"result": result}))
    await ok(relay.post("/delegate", {"from_agent": "a", "capability": "go", "task": "for whoever can"}))
    await ok(relay.post("/broadcast", {"from_agent": "a", "content": "news", "topic": "build", "tags": ["t"]}))
    for data in (b"first", b"second"):
        headers = {"ClawLink-Agent": "a", "Idempotency-Key": data.decode()}
        async with relay.session.put(f"{relay.url}/blobs/plan", data=data, headers=headers) as reply:
            assert reply.status in (200, 201), await reply.text()
    await ok(relay.post("/locks", {"agent_id": "a", "file_key": "plan", "seconds": 600}))
    tus = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "a"}
    begun = {"Upload-Length": "10", "Upload-Metadata": "filename " + base64.b64encode(b"coming").decode()}
    async with relay.session.post(f"{relay.url}/uploads", headers=tus | begun) as reply:
        upload = reply.headers["Location"].removeprefix(relay.url)
    part = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    async with relay.session.patch(relay.url + upload, data=b"01234", headers=tus | part) as reply:
        assert reply.status == 204, await reply.text()
    await ok(relay.post("/heartbeat", {"agent_id": "k"}, headers=with_key(key)))
    await restarting.end()
    return {
        "relay_id": relay.app.relay.id, "agent_key": key, "unread": unread, "acked": acked, "receipt": first.receipt,
        "tasks": tasks, "upload": upload,
    }  # fmt: skip


def dumped(folder: Path, facts: dict[str, Any]) -> str:
    """Return a folder as text."""
    db = sqlite3.connect(folder / NAME)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        lines = list(db.iterdump())
    finally:
        db.close()
    parts = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (NAME, "lock", "reserve")
    ]
    files = {path.relative_to(folder).as_posix(): base64.b64encode(path.read_bytes()).decode() for path in parts}
    return json.dumps({"schema": version, "facts": facts, "files": files, "database": lines}, indent=1) + "\n"


def restored(text: str, folder: Path) -> dict[str, Any]:
    """Make the folder again, and return its facts."""
    told = json.loads(text)
    for name, data in told["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(base64.b64decode(data))
    db = sqlite3.connect(folder / NAME)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.executescript("\n".join(told["database"]))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {told['schema']}")
    finally:
        db.close()
    facts: dict[str, Any] = told["facts"]
    return facts


def main() -> None:
    """Write the folder of this version."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        facts = asyncio.run(fill(Restarting(folder)))
        (FOLDERS / f"schema-{VERSION}.json").write_text(dumped(folder, facts))


if __name__ == "__main__":
    main()
