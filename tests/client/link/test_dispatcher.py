"""The handling of messages against a real relay, at a time of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from clawlink.client.aio import AsyncClient
from clawlink.client.calls import Call
from clawlink.client.link.delegation import PendingReplies
from clawlink.client.link.dispatcher import Dispatcher
from clawlink.client.link.handlers import Handlers
from clawlink.client.link.outbox import Outbox
from clawlink.client.link.runner import Runner
from clawlink.client.link.transport import Transport, WebsocketTransport, connect
from clawlink.domain.limits import MIB
from clawlink.errors import StorageFull
from tests.conftest import UNPACED, Serve
from tests.system.raw import Clock
from tests.virtual_time import pass_time
from tests.waiting import PATIENCE

_LEASE = 600.0


@contextlib.asynccontextmanager
async def connected(client: AsyncClient) -> AsyncIterator[Transport]:
    """Connect as a link does."""
    transport = await connect(client, lease=_LEASE, credit=1, free=lambda: 1, freed=asyncio.Event())
    try:
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def working(client: AsyncClient, do: Callable[[Any], Any]) -> AsyncIterator[Dispatcher]:
    """Handle tasks as a link does."""
    handlers, outbox = Handlers("worker"), Outbox[Call[Any]](10, MIB)
    handlers.set_task(do)
    dispatcher = Dispatcher(
        client.identity,
        handlers,
        Runner(asyncio.get_running_loop()),
        outbox,
        PendingReplies(lambda *_: None, lambda *_: None),
        concurrency=1,
        handler_timeout=None,
        send=lambda *_: None,
    )
    async with connected(client) as transport:
        dispatcher.transport = transport

        async def take() -> None:
            async for claimed in transport:
                dispatcher.take(claimed, transport)

        ways = [asyncio.create_task(outbox.pump(transport)), asyncio.create_task(take())]
        try:
            yield dispatcher
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await dispatcher.close()


async def test_a_task_that_never_came_is_due_again_after_its_lease(serve: Serve) -> None:
    clock = Clock()
    relay = await serve(clock=clock)
    async with AsyncClient(relay.url) as boss, AsyncClient(relay.url) as worker:
        await boss.register("boss", subscriptions=[])
        await worker.register("worker", subscriptions=[])
        task = (await boss.delegate("worker", "x")).message_id
        assert [one.message_id for one in await worker.poll(lease=_LEASE)] == [task]  # as if its connection had broken
        async with connected(worker) as transport:
            assert isinstance(transport, WebsocketTransport)
            for _ in range(2):
                clock.skip(_LEASE * 2 / 3)
                await transport.beat()
        (again,) = await worker.poll(lease=_LEASE)
        assert (again.message_id, again.attempt) == (task, 2)


@pytest.mark.virtual_time
async def test_a_result_waits_until_the_storage_has_room_for_it(serve: Serve) -> None:
    most = MIB * 3 // 2
    relay = await serve(limits={"max_memory": most, "max_unread_total": most, **UNPACED})
    async with AsyncClient(relay.url) as boss, AsyncClient(relay.url) as worker:
        await boss.register("boss", subscriptions=[])
        await worker.register("worker", subscriptions=[])
        with contextlib.suppress(StorageFull):
            while True:
                await worker.send("boss", "x" * 20_000)
        result = "x" * 900_000

        async def do(task: Any) -> str:
            return result

        async with working(worker, do):
            task = (await boss.delegate("worker", "x")).message_id
            await boss.wait_message(task, "delivered", 60)
            await pass_time(100)
            assert (await boss.task(task)).status == "delivered"
            while read := await boss.poll(max=100, lease=_LEASE):
                await boss.ack([one.receipt for one in read])
            await pass_time(100)
            assert (await boss.task(task)).result == result


async def test_an_exception_that_is_too_long_to_be_told_is_a_failure_that_says_so(serve: Serve) -> None:
    relay = await serve()
    async with AsyncClient(relay.url) as boss, AsyncClient(relay.url) as worker:
        await boss.register("boss", subscriptions=[])
        await worker.register("worker", subscriptions=[])

        async def do(task: Any) -> str:
            raise ValueError("a long sentence " * MIB)

        async with working(worker, do):
            done = await boss.wait_for((await boss.delegate("worker", "x")).message_id, timeout=PATIENCE)
        assert done.status == "failed"
        assert "could not be delivered" in done.result
