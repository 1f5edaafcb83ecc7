"""A relay with ``--data`` that ends while a client streams: the task goes on, and so do its client and its webhook."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from clawlink.config import ServerConfig
from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.rules import states
from clawlink.server.app import App
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running
from tests.doors.a2a.conftest import Rest, client_of
from tests.doors.a2a.test_door import claim, respond, worker
from tests.doors.a2a.test_push import Hook
from tests.waiting import until


async def test_a_client_and_a_webhook_see_the_end_of_a_task_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "clients.json"
    credential = client_of(file, "ann")
    settings = Settings(on=True, private_webhooks=True, clients=str(file))
    config = ServerConfig(port=0, secret=b"s" * 32, doors={"a2a": settings})
    async with aiohttp.ClientSession() as session, Hook().open() as hook:

        async def start() -> tuple[DataFolder, App, Rest]:
            data = DataFolder(tmp_path / "data", sync="normal")
            app = App(config, data=data)
            port = await app.start(close_seconds=0.1)
            return data, app, Rest(Running(f"http://127.0.0.1:{port}", app, session), "/a2a/bob", credential)

        data, app, rest = await start()
        await worker(rest)
        task = await rest.send()
        path = f"/tasks/{task['id']}"
        assert (await rest.post(f"{path}/pushNotificationConfigs", {"url": hook.url}))[0] == 200
        async with rest.stream("GET", f"{path}:subscribe") as following:
            assert (await following())["task"]["status"]["state"] == states.SUBMITTED
            await claim(rest)
            assert (await following())["statusUpdate"]["status"]["state"] == states.WORKING
            await app.relay.drain()
            assert await following() is None, "the stream ends with the relay, and says no end of the task"
        await until(lambda: hook.told() == ["WORKING"])
        await app.stop()
        data.close()

        data, app, rest = await start()
        try:
            async with rest.stream("POST", f"{path}:subscribe") as following:
                assert (await following())["task"]["status"]["state"] == states.WORKING
                await respond(rest, task["id"], "done")
                assert (await following())["artifactUpdate"]["artifact"]["parts"] == [{"text": "done"}]
                assert (await following())["statusUpdate"]["status"]["state"] == states.COMPLETED
                assert await following() is None
            _, listed = await rest.get("/tasks")
            assert [(one["id"], one["status"]["state"]) for one in listed["tasks"]] == [(task["id"], states.COMPLETED)]
            # The webhook gets the task as it was found after the restart, and then each change.
            await until(lambda: hook.told() == ["WORKING", "WORKING", "result", "COMPLETED"])
        finally:
            await app.stop()
            data.close()
