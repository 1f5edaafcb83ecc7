"""A relay goes on from the folder of each earlier version."""

from __future__ import annotations

from pathlib import Path

from clawlink.store.sqlite.check import findings
from clawlink.store.sqlite.database import VERSION
from tests.restarting import Restarting
from tests.server.asks import ack, delegate, ok, poll, refused, send, status_of, task_of, with_key
from tests.system.old_folders import FOLDERS, restored


async def test_a_relay_goes_on_from_the_folder_of_each_version(tmp_path: Path) -> None:
    kept = {path.stem: path for path in FOLDERS.glob("*.json")}
    assert set(kept) == {f"schema-{version}" for version in range(1, VERSION + 1)}, "each version keeps a folder"
    for name, path in kept.items():
        folder = tmp_path / name
        folder.mkdir()
        facts = restored(path.read_text(), folder)
        restarting = Restarting(folder)
        try:
            for _ in range(2):  # and once more, from the folder as this version leaves it
                relay = await restarting.begin()
                assert relay.app.relay.id == facts["relay_id"], name
                await ok(relay.post("/heartbeat", {"agent_id": "k"}, headers=with_key(facts["agent_key"])))
                await refused(relay.post("/heartbeat", {"agent_id": "k"}), 403, "not_allowed")
                for state, id in facts["tasks"].items():
                    assert (await task_of(relay, "a", id))["status"] == state, (name, state)
                    listed = (await ok(relay.get(f"/admin/tasks?status={state}")))["tasks"]
                    assert id in {task["task_id"] for task in listed}, (name, state)
                assert (await status_of(relay, "a", facts["acked"]))["state"] == "acked", name
                assert [one["content"] for one in (await ok(relay.get("/broadcasts?topic=build")))["broadcasts"]] == [
                    "news"
                ], name
                for version, data in ((1, b"first"), (2, b"second")):
                    async with relay.session.get(f"{relay.url}/blobs/plan?version={version}&agent_id=a") as reply:
                        assert (reply.status, await reply.read()) == (200, data), name
                tus = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "a"}
                async with relay.session.head(relay.url + facts["upload"], headers=tus) as reply:
                    assert (reply.status, reply.headers["Upload-Offset"]) == (200, "5"), name
            assert (await ack(relay, "b", facts["receipt"]))["results"][0]["status"] == "acked", name
            reply_ = await poll(relay, "b", lease=60, max=100)
            assert facts["tasks"]["queued"] in {message["message_id"] for message in reply_["messages"]}, name
            await send(relay, "b", "a", "on")
            await delegate(relay, "b", "a")
        finally:
            await restarting.end()
        assert {one.status for one in findings(folder)} <= {"ok", "warn"}, list(findings(folder))
