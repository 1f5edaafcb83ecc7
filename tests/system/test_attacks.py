"""Two hundred hostile connections: no defect, no traceback, and nobody else is kept waiting."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from random import Random, randrange
from typing import Any

import pytest

from tests.conftest import Running, Serve
from tests.server.asks import ok, poll
from tests.system.attacks import OWN, Targets, attacks
from tests.system.raw import connect

COUNT, AT_ONCE = int(os.environ.get("CLAWLINK_ATTACKS", "208")), 16
# The time of the processor that may go by until another request is answered. Other programs do not count in it.
MOST_SECONDS = 0.5
# The torture runs with the relay's own routes and with five doors, on two loops each.
TORTURES = 12
SEED = int(os.environ.get("CLAWLINK_ATTACKS_SEED", "20261129"))
_STATUS = re.compile(rb"(?:^|\r\n|\})HTTP/1\.[01] (\d{3}) ")
_ALLOWED = (503, 507)


async def answers(relay: Running, data: bytes) -> list[int]:
    """Send the bytes on a connection of their own, and return the statuses of all that comes back in a moment.

    Once the relay has answered a later request, its answer to these bytes is here, however busy the machine is.
    """
    connection = await connect(relay.url)
    try:
        await connection.send(data)
        for _ in range(2):
            await ok(relay.get("/healthz"))
        came = b""
        try:
            while part := await asyncio.wait_for(connection.reader.read(65536), 0.1):
                came += part
        except (asyncio.TimeoutError, ConnectionError):
            pass
        return [int(status) for status in _STATUS.findall(came)]
    finally:
        connection.close()


@pytest.fixture
def open_doors() -> Mapping[str, Any]:
    """Return the settings of the relay's doors."""
    return {}


@pytest.fixture
async def attacked(
    serve: Serve, open_doors: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Running]:
    """A relay on which all goes on once the attacks are over, and which has logged no defect."""
    limits = {"rate_agent": 0.0, "rate_pair": 0.0, "max_uploads": 100_000, "max_agent_uploads": 100_000}
    relay = await serve(limits=limits, doors=open_doors)
    for name in ("victim", "attacker", "honest"):
        await relay.register(name, agent_id=name)
    with caplog.at_level(logging.WARNING):
        yield relay
    defects = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert not defects, [record.getMessage() for record in defects]
    await resume(relay)
    await relay.register("honest", agent_id="honest")
    sent = await ok(relay.post("/send", {"from_agent": "honest", "to_agent": "honest", "content": "still there"}))
    got = await poll(relay, "honest", wait=1, lease=60)
    assert sent["message_id"] in [message["message_id"] for message in got["messages"]]


async def resume(relay: Running) -> None:
    """Let work go on: an attack from this machine, which has the operator's right, may have stopped it."""
    await ok(relay.post("/admin/stop", {"stopped": False}))


async def healthy(relay: Running, attacked: asyncio.Future[Any], seen: object) -> None:
    """Ask for the relay's health until the attacks are over, and check that no answer is kept waiting.

    Relay and attackers share this thread, so its time on the processor until the answer is the work of both.
    """
    while not attacked.done():
        began = time.thread_time()
        await asyncio.wait({attacked}, timeout=0.005)
        status, _ = await asyncio.wait_for(relay.get("/healthz"), 30)
        took = time.thread_time() - began
        assert (status, took < MOST_SECONDS) == (200, True), (took, seen)


async def begin_upload(relay: Running, length: int | None) -> str:
    """Begin an upload of this length, or of one that comes later, and return its address."""
    size = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    headers = {"Tus-Resumable": "1.0.0", "ClawLink-Agent": "attacker", "Upload-Metadata": "key aGkudHh0", **size}
    async with relay.session.post(relay.url + "/uploads", headers=headers) as reply:
        assert reply.status == 201, await reply.text()
        return reply.headers["Location"]


async def torture(relay: Running, targets: Targets = OWN) -> None:
    """Make attacks from other seeds for its part of the minutes of the torture. A failure names its seed."""
    until = time.monotonic() + 60 / TORTURES * float(os.environ.get("CLAWLINK_TORTURE_MINUTES", "0"))
    while True:
        await attack(relay, randrange(1 << 32), COUNT, targets)
        if time.monotonic() >= until:
            return


async def attack(relay: Running, seed: int, count: int, targets: Targets = OWN) -> None:
    """Make this many attacks from a seed, some at once, and ask for the relay's health beside each."""
    answered = 0
    await resume(relay)
    targets = targets._replace(uploads=[await begin_upload(relay, length) for length in (3, 3000, 70_000, None)])
    made = list(attacks(Random(seed), count, targets))
    for some in (made[at : at + AT_ONCE] for at in range(0, count, AT_ONCE)):
        attacked = asyncio.gather(*(answers(relay, attack.data) for attack in some))
        await healthy(relay, attacked, (seed, some))
        told = await attacked
        for one, statuses in zip(some, told, strict=True):
            fine = all(status < 500 or status in _ALLOWED for status in statuses)
            assert fine, (seed, one.name, statuses, one.data[:300])
            answered += bool(statuses)
    for upload in targets.uploads:  # unless an attack has
        async with relay.session.delete(relay.url + upload, headers={"Tus-Resumable": "1.0.0"}) as ended:
            assert ended.status in (204, 403, 404), await ended.text()
    # Nine of ten are answered in time on a quiet machine, and 91 of 208 were on a loaded one.
    assert answered > count // 10, "attacks reach the relay"


@pytest.mark.both_loops
async def test_two_hundred_attacks_disturb_nobody(attacked: Running) -> None:
    await attack(attacked, SEED, COUNT)


@pytest.mark.torture
@pytest.mark.both_loops
async def test_attacks_of_other_seeds_disturb_nobody(attacked: Running) -> None:
    await torture(attacked)
