"""The parts of AsyncClient that Client does not have. Shared parts are tested with Client, on both."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import clawlink
from clawlink import errors
from clawlink.client import endpoints, mailbox_endpoints
from clawlink.client.aio import AsyncClient
from clawlink.client.base_client import BaseClient
from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.client.wait_steps import StillPending
from clawlink.protocol.paths import ENDPOINTS
from clawlink.protocol.replies import TaskView
from tests.conftest import Start
from tests.tables import each

DATA = Path(__file__).parent.parent / "data"
# Attributes that only one of them has.
ONLY_ASYNC = {"stream"}
ONLY_SYNC = {"lines"}
PUBLIC = sorted(name for name in dir(Client) if not name.startswith("_") and name not in ONLY_SYNC)


@pytest.fixture
async def ann(relay: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(relay) as client:
        await client.register(f"Ann {uuid.uuid4().hex}")
        yield client
        await client.leave()


@pytest.fixture
async def bob(relay: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(relay) as client:
        await client.register(f"Bob {uuid.uuid4().hex}")
        yield client
        await client.leave()


def of(client: AsyncClient) -> str:
    assert client.agent_id is not None
    return client.agent_id


def test_both_clients_have_the_same_methods() -> None:
    assert {name for name in dir(AsyncClient) if not name.startswith("_")} == {*PUBLIC, *ONLY_ASYNC}
    assert {
        endpoint.name
        for endpoint in ENDPOINTS
        if hasattr(endpoints, endpoint.name) or hasattr(mailbox_endpoints, endpoint.name)
    } <= set(PUBLIC)


@each("name", PUBLIC)
def test_a_method_is_the_same_in_both(name: str) -> None:
    blocking, awaited = getattr(Client, name), getattr(AsyncClient, name)
    assert awaited.__doc__ == blocking.__doc__
    if isinstance(blocking, property):
        assert awaited is blocking
        return
    one, other = inspect.signature(blocking), inspect.signature(awaited)
    assert list(other.parameters.values()) == list(one.parameters.values())
    assert inspect.iscoroutinefunction(awaited) or inspect.isasyncgenfunction(awaited)


def test_both_are_made_with_the_same_arguments() -> None:
    assert Client.__init__ is BaseClient.__init__ is AsyncClient.__init__
    with pytest.raises(NotImplementedError):
        type("Neither", (BaseClient,), {})


def test_the_package_offers_it_and_is_quick_to_import() -> None:
    assert clawlink.AsyncClient is AsyncClient
    told = "import sys, clawlink; print([m for m in ('aiohttp', 'requests', 'msgspec', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_can_be_made_before_there_is_a_loop(relay: str) -> None:
    client = AsyncClient(relay + "/")

    async def use() -> str:
        async with client:
            return (await client.health()).status

    assert [asyncio.run(use()), asyncio.run(use())] == ["ok", "ok"]
    asyncio.run(client.close())


async def test_many_calls_go_on_at_once(ann: AsyncClient, bob: AsyncClient) -> None:
    waiting = asyncio.create_task(bob.poll(wait=20, max=100))
    sent = await asyncio.gather(*(ann.send(of(bob), n) for n in range(10)))
    claimed = await waiting
    while len(claimed) < 10:
        claimed += await bob.poll(wait=20)
    assert {one.message_id for one in claimed} >= {one.message_id for one in sent}


async def test_a_call_can_be_cancelled(ann: AsyncClient) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(ann.poll(wait=30), 0.05)
    assert (await ann.heartbeat()).status == "ok"


async def test_news_may_be_told_to_plain_and_to_async_functions(
    ann: AsyncClient, bob: AsyncClient, until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    id = (await ann.delegate(of(bob), "count")).message_id
    seen: list[str] = []

    async def note(task: TaskView) -> None:
        await asyncio.sleep(0)
        seen.append(task.status)

    done = asyncio.create_task(ann.wait_for(id, 20, note))
    await until(lambda: bool(seen))
    await bob.respond(id, "3")
    assert (await done).result == "3"
    assert (await ann.wait_any([id], 20, lambda task: seen.append("again"))).result == "3"
    assert seen == ["queued", "completed", "again"]


async def test_who_stops_taking_results_stops_the_asking(ann: AsyncClient, bob: AsyncClient) -> None:
    ids = [(await ann.delegate(of(bob), text)).message_id for text in ("a", "b", "c")]
    await bob.respond(ids[1], "done")
    before = len(asyncio.all_tasks())
    results = ann.as_completed(ids, 30)
    async for task in results:
        assert task.task_id == ids[1]
        assert len(asyncio.all_tasks()) > before
        break
    await results.aclose()
    assert len(asyncio.all_tasks()) == before
    with pytest.raises(StillPending):
        await ann.wait_any([ids[0], ids[2]], 0.2)
    assert len(asyncio.all_tasks()) == before


async def test_tls_is_trusted_as_it_is_told(start_relay: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = str(DATA / "tls-cert.pem"), str(DATA / "tls-key.pem")
    url = start_relay("--tls-cert", cert, "--tls-key", key, "--token", "t").url
    async with AsyncClient(url, token="t", ca=cert) as client:
        assert (await client.health()).status == "ok"
        assert (await client.info()).auth_required
    async with AsyncClient(url, token="t", backoff=Backoff(tries=1)) as client:
        with pytest.raises(errors.NotARelay, match="TLS") as failed:
            await client.health()
        assert "\n" not in failed.value.message
        client._on_loopback = False  # what the environment trusts counts for any relay but this machine's
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", cert)
        monkeypatch.setenv("no_proxy", "*")
        client._tls = None
        assert (await client.health()).status == "ok"
    async with AsyncClient(url.replace("https:", "http:"), token="t", backoff=Backoff(tries=1)) as client:
        with pytest.raises((errors.RelayUnreachable, errors.NotARelay)):
            await client.health()


async def test_a_name_that_dns_cannot_have_is_no_address() -> None:
    for relay in ("http://a..b", f"http://{64 * 'a'}"):
        async with AsyncClient(relay, agent_id="a") as client:
            for reached in (client.health, client.stream().__aenter__):
                with pytest.raises(errors.NotARelay, match="no address of a relay"):
                    await reached()
