"""Answers to wrong tokens wait, longer with each of an address; nothing else does."""

from __future__ import annotations

import asyncio

import pytest

from clawlink.domain.auth_throttle import FREE, MOST_HELD_ADDRESS
from tests.conftest import Serve
from tests.system.conftest import Dial
from tests.system.raw import request

pytestmark = pytest.mark.both_loops

RIGHT = request("GET", "/", Authorization="Bearer right")


def wrong(address: str) -> bytes:
    return request("GET", "/", Authorization="Bearer wrong", X_Forwarded_For=address)


@pytest.fixture
def store_kind() -> str:
    """Name the store, of which nothing here depends."""
    return "memory"


async def test_many_wrong_tokens_of_an_address_wait_and_only_they(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.domain.auth_throttle.FIRST_SECONDS", 600.0)
    monkeypatch.setattr("clawlink.domain.auth_throttle.MOST_SECONDS", 600.0)
    relay = await serve(token="right", trust_proxies=("127.0.0.1",))
    connection = await dial(relay.url)
    for _ in range(FREE):
        assert (await connection.ask(wrong("192.0.2.1"))).status == 401
    held = [await dial(relay.url) for _ in range(MOST_HELD_ADDRESS)]
    for waiting in held:
        await waiting.send(wrong("192.0.2.1"))
    for waiting in held:
        with pytest.raises(asyncio.TimeoutError):
            await waiting.answer(0.01)
    assert (await connection.ask(wrong("192.0.2.1"))).status == 401, "no more than so many wait"
    assert (await connection.ask(RIGHT)).status == 200, "a right token never waits"
    assert (await connection.ask(wrong("192.0.2.2"))).status == 401, "nor does another address"
    undeclared = await serve(token="right")
    connection = await dial(undeclared.url)
    for _ in range(2 * FREE):
        assert (await connection.ask(wrong("192.0.2.1"))).status == 401, "nor does one that nobody tells"
    held[0].reset()
    for _ in range(100):
        last = await dial(relay.url)
        await last.send(wrong("192.0.2.1"))
        try:
            assert (await last.answer(0.2)).status == 401
        except asyncio.TimeoutError:
            break
    else:
        raise AssertionError("a peer that has hung up still has its place")


async def test_the_answer_comes_after_its_delay(serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.domain.auth_throttle.FREE", 0)
    relay = await serve(token="right")
    connection = await dial(relay.url)
    loop = asyncio.get_running_loop()
    for least in (0.05, 0.1, 0.2):
        began = loop.time()
        assert (await connection.ask(request("GET", "/", Authorization="Bearer wrong"))).status == 401
        assert loop.time() - began >= least - 0.02


async def test_guesses_of_one_time_links_and_admin_tokens_wait(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clawlink.domain.auth_throttle.FIRST_SECONDS", 600.0)
    relay = await serve(token="right", admin_token="boss", trust_proxies=("127.0.0.1",))
    for address, guess in (("192.0.2.1", b'{"code":"%d"}'), ("192.0.2.2", b'{"admin_token":"%d"}')):
        connection = await dial(relay.url)
        for number in range(FREE):
            sent = request("POST", "/admin/sessions", guess % number, X_Forwarded_For=address)
            assert (await connection.ask(sent)).status == 401, guess
        await connection.send(request("POST", "/admin/sessions", guess % FREE, X_Forwarded_For=address))
        with pytest.raises(asyncio.TimeoutError):
            await connection.answer(0.05)
