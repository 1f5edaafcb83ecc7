"""Near relays are asked directly, far ones through the environment's proxy, in both clients alike."""

from __future__ import annotations

import asyncio
import socket

import pytest

from clawlink.client.address import address
from clawlink.client.aio import AsyncClient
from clawlink.client.proxy import nearby, on_this_machine, proxy_for
from clawlink.client.retry import Backoff
from clawlink.client.sync import Client
from clawlink.errors import ClawLinkError, NotARelay, RelayUnreachable

NOWHERE = "http://user:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give the environment no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "clawlink_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_what_is_near() -> None:
    here = "127.0.0.1 127.9.9.9 127.1 ::1 localhost localhost. LOCALHOST a.localhost 0.0.0.0 0 :: ::ffff:127.0.0.1"
    near = "10.1.2.3 192.168.1.5 172.16.0.1 169.254.1.1 100.64.0.7 fe80::1 fe80::1%eth0 fd00::1 ::ffff:192.168.1.5 "
    near += f"box box.local relay.lan {socket.gethostname()}"
    far = "8.8.8.8 relay.example.org 2606:4700::1111 ::ffff:8.8.8.8 1.2.3 172.32.0.1 relay.example1"
    for host in here.split():
        assert on_this_machine(host), host
        assert nearby(host), host
    for host in near.split():
        assert not on_this_machine(host), host
        assert nearby(host), host
    for host in far.split():
        assert not nearby(host), host


def test_which_proxy_is_asked(environ: pytest.MonkeyPatch) -> None:
    far, near = "http://relay.example.org:9077", "http://192.168.1.5:9077"
    assert proxy_for(far) is None
    environ.setenv("ALL_PROXY", "http://user:secret@all:1")
    environ.setenv("http_proxy", "plain:2")
    for relay, shown in ((far, "http://plain:2 (http_proxy)"), ("https://far.example", "http://all:1 (ALL_PROXY)")):
        proxy = proxy_for(relay)
        assert proxy is not None, relay
        assert proxy.shown == shown
    assert proxy_for(near) is None
    environ.setenv("NO_PROXY", "relay.example.org")
    assert proxy_for(far) is None
    environ.setenv("CLAWLINK_PROXY", "mine:3")
    for relay in (far, near, "http://127.0.0.1:9077"):
        proxy = proxy_for(relay)
        assert proxy is not None, relay
        assert (proxy.shown, proxy.place) == ("http://mine:3 (CLAWLINK_PROXY)", ("mine", 3))


def failure(relay: str, *, websocket: bool = False, sync: bool = False) -> ClawLinkError:
    """Return what a client says that cannot reach a relay."""
    once = Backoff(tries=1)

    async def ask() -> None:
        async with AsyncClient(relay, agent_id="a", backoff=once, timeout=5) as client:
            if websocket:
                async with client.stream():
                    pass
            await client.health()

    def work() -> None:
        if sync:
            with Client(relay, backoff=once, timeout=5) as client:
                client.health()
        else:
            asyncio.run(ask())

    with pytest.raises(ClawLinkError) as failed:
        work()
    return failed.value


def test_a_failure_names_the_proxy_its_variable_and_the_way_past_it(environ: pytest.MonkeyPatch) -> None:
    ways: tuple[dict[str, bool], ...] = ({"sync": True}, {}, {"websocket": True})
    for scheme in ("http", "https"):
        environ.setenv(f"{scheme}_proxy", NOWHERE)
        for way in ways:
            told = failure(f"{scheme}://relay.example.org:9077", **way)
            assert isinstance(told, RelayUnreachable), (way, told)
            for part in (f"http://127.0.0.1:9 ({scheme}_proxy)", "NO_PROXY=relay.example.org"):
                assert part in told.message, (way, told)
            assert "secret" not in told.message
        environ.delenv(f"{scheme}_proxy")
    environ.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    for way in ways:
        told = failure("http://relay.example.org", **way)
        assert isinstance(told, NotARelay), (way, told)
        assert "socks5://127.0.0.1:9 (ALL_PROXY)" in told.message
        assert "NO_PROXY=relay.example.org" in told.message
        assert "no relay answers at http://127.0.0.1:9;" in failure("http://127.0.0.1:9", **way).message
    environ.setenv("CLAWLINK_PROXY", NOWHERE)
    assert "unset CLAWLINK_PROXY" in failure("http://127.0.0.1:9", sync=True).message


def test_a_name_that_stands_for_no_host_is_no_relay_that_does_not_run() -> None:
    for way in ({"sync": True}, {}, {"websocket": True}):
        told = failure("http://nothing.invalid", **way)
        assert "no host is known by the name 'nothing.invalid'" in told.message, way
        assert "is it running" not in told.message


def test_an_address_as_people_type_it() -> None:
    for typed, kept in {
        "192.168.1.5": "http://192.168.1.5:9077",
        "http://192.168.1.5/": "http://192.168.1.5:9077",
        "HTTP://Relay.Example": "http://relay.example:9077",
        "http://relay.example:80": "http://relay.example:80",
        "https://relay.example": "https://relay.example",
        "https://relay.example:9077": "https://relay.example:9077",
        "::1": "http://[::1]:9077",
        "[::1]": "http://[::1]:9077",
        "[::1]:8000": "http://[::1]:8000",
        "http://[FE80::1%25eth0]": "http://[fe80::1%25eth0]:9077",
        "http://relay.example/clawlink": "http://relay.example:9077/clawlink",
    }.items():
        assert address(typed) == kept, typed
        assert address(kept) == kept, kept
