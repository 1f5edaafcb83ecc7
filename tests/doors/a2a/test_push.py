"""Webhooks: what they get, what they may be, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clawlink.doors.a2a.rules import updates
from clawlink.doors.a2a.server import push
from clawlink.doors.a2a.wire.failures import A2AError
from clawlink.doors.a2a.wire.screening import require_url
from tests.doors.a2a.conftest import Rest, ServeA2A, message, reason
from tests.doors.a2a.test_door import claim, respond, worker
from tests.waiting import eventually, until


class Hook:
    """A webhook; ``answers`` are its statuses in turn, the last for all that follow. 0 never answers."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers) or [200]
        self.got: list[tuple[dict[str, str], Any]] = []
        self.asked = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Hook]:
        async def take(request: web.BaseRequest) -> web.Response:
            self.asked += 1
            status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            body = await request.json()
            if status == 0:
                await asyncio.Event().wait()
            if 200 <= status < 300:
                self.got.append((dict(request.headers), body))
            return web.Response(status=status, headers={"Location": self.url} if 300 <= status < 400 else {})

        runner = web.ServerRunner(web.Server(take), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook?x=1"
        try:
            yield self
        finally:
            await runner.cleanup()

    def told(self) -> list[str]:
        """Return the states and artifacts that came."""
        return [
            body["artifactUpdate"]["artifact"]["artifactId"]
            if "artifactUpdate" in body
            else str(updates.ends(body))[11:]
            for _, body in self.got
        ]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(push, "_MOST_SECONDS", 0.02)


@pytest.fixture
async def rest(serve_a2a: ServeA2A) -> Rest:
    made = Rest(await serve_a2a(private_webhooks=True), "/a2a/bob")
    await worker(made)
    return made


async def test_a_webhook_gets_each_change_until_the_end(rest: Rest) -> None:
    async with (
        Hook().open() as hook,
        Hook(500, 503, 200).open() as failing,
        Hook(302).open() as moved,
    ):
        config = {"url": hook.url, "token": "tok", "authentication": {"scheme": "Bearer", "credentials": "cred"}}
        status, answer = await rest.post(
            "/message:send",
            {
                "message": message(),
                "configuration": {"returnImmediately": True, "taskPushNotificationConfig": config},
            },
        )
        assert status == 200, answer
        id = answer["task"]["id"]
        for other in (failing, moved):
            status, made = await rest.post(f"/tasks/{id}/pushNotificationConfigs", {"url": other.url})
            assert (status, made["taskId"], bool(made["id"])) == (200, id, True), made
        _, listed = await rest.get(f"/tasks/{id}/pushNotificationConfigs")
        assert (len(listed["configs"]), listed["nextPageToken"]) == (3, "")
        await claim(rest)
        await until(lambda: hook.told() == ["WORKING"])
        await respond(rest, id, "done")
        all_of_it = ["WORKING", "result", "COMPLETED"]
        await until(lambda: hook.told() == failing.told() == all_of_it)
        headers, body = hook.got[0]
        assert headers["Content-Type"] == "application/a2a+json"
        assert (headers["Authorization"], headers["X-A2A-Notification-Token"]) == ("Bearer cred", "tok")
        assert body["statusUpdate"]["taskId"] == id
        await until(lambda: moved.asked == 3 * push.ATTEMPTS)
        assert moved.got == [], "a redirect is not followed"


async def test_a_webhook_that_never_answers_holds_up_no_other(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "POST_SECONDS", 0.3)  # a slow machine may repeat a post that arrived
    async with Hook().open() as hook, Hook(0).open() as slow:
        task = await rest.send()
        for one in (slow, hook):
            assert (await rest.post(f"/tasks/{task['id']}/pushNotificationConfigs", {"url": one.url}))[0] == 200
        await claim(rest)
        await until(lambda: "WORKING" in hook.told())
        await respond(rest, task["id"], "done")
        await until(lambda: "COMPLETED" in hook.told())
        await until(lambda: slow.asked >= 2)
        assert slow.got == []


async def test_a_deleted_webhook_hears_no_more(rest: Rest) -> None:
    async with Hook().open() as hook:
        task = await rest.send()
        base = f"/tasks/{task['id']}/pushNotificationConfigs"
        await rest.post(base, {"url": hook.url, "id": "h"})
        assert (await rest.get(f"{base}/h"))[1]["url"] == hook.url
        await claim(rest)
        await until(lambda: hook.told() == ["WORKING"])
        for _ in range(2):
            assert await rest.delete(f"{base}/h") == (200, {})
        status, answer = await rest.get(f"{base}/h")
        assert (status, reason(answer)) == (404, "TASK_NOT_FOUND")

        async def none_left() -> bool:
            return bool((await rest.relay.get("/"))[1]["doors"]["a2a"]["webhooks"] == 0)

        await eventually(none_left)
        await respond(rest, task["id"])
        assert hook.told() == ["WORKING"]
        for n in range(push.MAX_OF_TASK):
            assert (await rest.post(base, {"url": hook.url, "id": str(n)}))[0] == 200
        status, answer = await rest.post(base, {"url": hook.url})
        assert (status, reason(answer)) == (400, "UNSUPPORTED_OPERATION")
        assert (await rest.post(base, {"url": hook.url, "id": "0"}))[0] == 200, "it replaces the one of its id"


async def test_a_webhook_that_waits_holds_no_task_in_memory(rest: Rest) -> None:
    size, tasks, hooks = 200_000, 4, push.MAX_OF_TASK
    ids = [(await rest.send("x" * size))["id"] for _ in range(tasks)]
    gc.collect()
    tracemalloc.start()
    try:
        for id in ids:
            for n in range(hooks):
                body = {"id": str(n), "url": "http://127.0.0.1:9/"}
                assert (await rest.post(f"/tasks/{id}/pushNotificationConfigs", body))[0] == 200
        assert (await rest.relay.get("/"))[1]["doors"]["a2a"]["webhooks"] == tasks * hooks
        await until(lambda: bool(gc.collect() + 1) and tracemalloc.get_traced_memory()[0] < tasks * hooks * size // 4)
    finally:
        tracemalloc.stop()


async def test_a_webhook_in_a_private_network_is_refused(serve_a2a: ServeA2A, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = Rest(await serve_a2a(), "/a2a/bob")
    await worker(rest)
    async with Hook().open() as hook:
        config = {"url": hook.url}
        status, answer = await rest.post(
            "/message:send",
            {"message": message(), "configuration": {"taskPushNotificationConfig": config, "returnImmediately": True}},
        )
        assert (status, reason(answer)) == (400, "INVALID_PARAMS")
        assert await claim(rest, wait=0) == [], "the message was not taken"
        task = await rest.send()
        # A name may lead anywhere, and later elsewhere: its address is looked at when it is used.
        resolved = asyncio.Event()

        async def lookup(_: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
            resolved.set()
            found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET}
            return [found | {"proto": 0, "flags": socket.AI_NUMERICHOST}]

        named = hook.url.replace("127.0.0.1", "hooks.example.com")
        assert (await rest.post(f"/tasks/{task['id']}/pushNotificationConfigs", {"url": named}))[0] == 200
        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", lookup)
        await claim(rest)
        await asyncio.wait_for(resolved.wait(), 10)
        await respond(rest, task["id"])

        async def given_up() -> bool:
            return bool((await rest.relay.get("/"))[1]["doors"]["a2a"]["webhooks"] == 0)

        await eventually(given_up)
        assert hook.asked == 0


def test_a_url_is_screened_before_any_look_up() -> None:
    for url, private, taken in (
        ("https://example.com/hook", False, True),
        ("http://93.184.215.14:8080/x?y=1", False, True),
        ("https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/", False, True),
        ("http://127.0.0.1/", True, True),
        ("http://localhost:1/", True, True),
        ("http://localhost/", False, False),
        ("http://LOCALHOST./", False, False),
        ("http://a.localhost/", False, False),
        ("http://printer.local/", False, False),
        ("http://metadata.google.internal/", False, False),
        ("http://127.1/", False, False),
        ("http://2130706433/", False, False),
        ("http://0x7f.1/", False, False),
        ("http://[::1]/", False, False),
        ("http://[::ffff:169.254.169.254]/", False, False),
        ("http://user:pw@example.com/", False, False),
        ("ftp://example.com/", False, False),
        ("file:///etc/passwd", True, False),
        ("//example.com", False, False),
        ("https://", False, False),
        ("https://example.com:0/", False, False),
        ("https://example.com:99999/", False, False),
        ("https://exämple.com/", False, False),
        ("https://example.com/ x", False, False),
        ("https://[::1", True, False),
        ("", True, False),
    ):
        refusal: Any
        refusal = (
            contextlib.nullcontext() if taken else pytest.raises(A2AError, match="the url of a webhook is refused")
        )
        with refusal:
            require_url(url, private=private)
