"""The end of a relay: tasks, clients and webhooks go on at the next start, and a call that hangs holds up nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import aiohttp
import requests

from clawlink.config import ServerConfig
from clawlink.doors.a2a import Settings
from clawlink.doors.a2a.rules import states
from clawlink.doors.a2a.wire.remotes import Remote, add_remote
from clawlink.server.app import App
from clawlink.store.sqlite.folder import DataFolder
from tests.conftest import Running
from tests.doors.a2a.conftest import Rest, client_of
from tests.doors.a2a.test_door import claim, respond, worker
from tests.doors.a2a.test_push import Hook
from tests.processes import Popen
from tests.waiting import PATIENCE, until


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


# A relay whose name server does not answer about one host.
SILENT_NAME_SERVER = """
import runpy, socket, threading
known = socket.getaddrinfo
def ask(host, *more, **options):
    if host == "silent.example":
        print("asked", flush=True)
        threading.Event().wait()
    return known(host, *more, **options)
socket.getaddrinfo = ask
runpy.run_module("clawlink.server", run_name="__main__")
"""


def test_a_silent_name_server_does_not_hold_up_the_end(tmp_path: Path) -> None:
    agents = tmp_path / "agents.json"
    far = "http://silent.example"
    add_remote(agents, Remote(name="far", url=far, interface=far, binding="JSONRPC"))
    flags = ["--port", "0", "--loop", "asyncio", "--a2a", "--a2a-agents", str(agents)]
    command = [sys.executable, "-c", SILENT_NAME_SERVER, *flags]
    with Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        assert relay.stderr is not None
        url = relay.stdout.readline().split()[-1]
        requests.post(f"{url}/register", json={"agent_id": "a", "name": "a"}, timeout=PATIENCE)
        ask = {"from_agent": "a", "to_agent": "far", "task": "look"}
        requests.post(f"{url}/delegate", json=ask, timeout=PATIENCE).raise_for_status()
        while relay.stdout.readline() != "asked\n":
            assert relay.poll() is None
        relay.terminate()
        try:
            assert relay.wait(PATIENCE) == 0
        finally:
            relay.kill()
        assert " stopped" in relay.stderr.read()
