"""Where a request comes from: the rule, pure; then over the wire, where it decides and where it is told."""

from __future__ import annotations

import logging

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from clawlink.server.address import Addresses, block_of, network
from tests.conftest import Serve
from tests.server.test_options import config
from tests.system.raw import exchange, request
from tests.waiting import soon

PROXIES = [network(text) for text in ("127.0.0.1", "10.0.0.0/8", "fd00::/8")]


def headers(*lines: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(lines))


def test_the_address_is_the_last_untrusted_one() -> None:
    cases: list[tuple[str, tuple[str, ...], str | None]] = [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # nobody's proxy: its header is its own invention
        ("127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("127.0.0.1", ("1.1.1.1, 198.51.100.7",), "198.51.100.7"),
        ("127.0.0.1", ("1.1.1.1", "198.51.100.7, 10.1.2.3"), "198.51.100.7"),
        ("127.0.0.1", ("10.9.9.9, 10.1.2.3",), "10.9.9.9"),
        ("fd00::1", ("198.51.100.7:4711",), "198.51.100.7"),
        ("::ffff:10.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("127.0.0.1", ("2001:DB8::1",), "2001:db8::1"),
        ("127.0.0.1", ("::ffff:198.51.100.7",), "198.51.100.7"),
        ("127.0.0.1", ("fe80::1%eth0",), "fe80::1"),
        ("127.0.0.1", ("198.51.100.7, unknown",), None),
        ("127.0.0.1", ("198.51.100.7,",), None),
        ("127.0.0.1", ("9" * 5000,), None),
        ("fe80::1%eth0", (), "fe80::1"),
        ("", (), None),
    ]
    for peer, told, expected in cases:
        got = Addresses(PROXIES).of(peer, headers(*(("X-Forwarded-For", value) for value in told)))
        assert got == expected, (peer, told)


def test_a_proxy_that_nobody_declared_has_no_address_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("Forwarded", "via", "X-FORWARDED-FOR", "x-forwarded-proto"):
        addresses = Addresses([network("10.0.0.0/8")])
        with caplog.at_level(logging.WARNING, "clawlink"):
            caplog.clear()
            assert addresses.of("192.0.2.1", headers((name, "x"))) == "192.0.2.1", name
            assert not addresses.undeclared, name
            assert addresses.of("::1", headers((name, "x"))) is None, name
            assert addresses.of("127.0.0.1", headers((name, "x"))) is None, name
        assert addresses.undeclared, name
        assert len(caplog.records) == 1, name
        assert "--trust-proxy" in caplog.text, name
    assert Addresses().of("127.0.0.1", headers(("X-Forward", "x"))) == "127.0.0.1"


def test_local_is_a_loopback_peer_a_loopback_host_and_no_proxy() -> None:
    yes: list[tuple[str, str]] = [
        ("127.0.0.1", "127.0.0.1:9077"),
        ("::1", "[::1]:9077"),
        ("127.8.9.1", "LOCALHOST"),
        ("::ffff:127.0.0.1", "localhost:1"),
    ]
    for peer, host in yes:
        assert Addresses().is_local(peer, headers(("Host", host))), (peer, host)
        assert not Addresses().is_local(peer, headers(("Host", host), ("Via", "1.1 x"))), (peer, host)
        assert not Addresses(PROXIES).is_local(peer, headers(("Host", host), ("Forwarded", "for=x"))), (peer, host)
        assert not Addresses().is_local("192.168.1.5", headers(("Host", host))), host
        assert not Addresses().is_local("", headers(("Host", host))), host
    for host in ("relay.example", "192.168.1.5:9077", "localhost.evil.example", "evil.localhost", "[", ""):
        assert not Addresses().is_local("127.0.0.1", headers(("Host", host))), host
    assert not Addresses().is_local("127.0.0.1", headers())
    assert not Addresses().is_local("127.0.0.1", headers(("Host", "localhost"), ("Host", "localhost")))


def test_a_public_ipv6_network_counts_as_one() -> None:
    assert block_of("2a00:1450:4001:81b::200e") == block_of("2a00:1450:4001:81b:ffff::1") == "2a00:1450:4001:81b::/64"
    for alone in ("192.0.2.1", "fe80::1", "fd00::1", "::1", "no address"):
        assert block_of(alone) == alone


def test_the_flag_takes_addresses_and_networks() -> None:
    assert config("--trust-proxy", "10.1.2.3/8", "--trust-proxy", "::1").trust_proxies == ("10.0.0.0/8", "::1/128")
    assert config(CLAWLINK_TRUST_PROXY="127.0.0.1,fd00::/8").trust_proxies == ("127.0.0.1/32", "fd00::/8")
    with pytest.raises(ValueError, match=r"CLAWLINK_TRUST_PROXY: .*10\.0\.0\.0/8 is needed, not 'nginx'"):
        config(CLAWLINK_TRUST_PROXY="nginx")


async def test_an_agent_is_shown_with_the_address_of_its_client_however_it_came(serve: Serve) -> None:
    relay = await serve(trust_proxies=("127.0.0.1/32",))
    headers = {"X-Forwarded-For": "1.1.1.1, 198.51.100.7"}
    assert (await relay.post("/register", {"agent_id": "registered"}, headers=headers))[0] == 200
    assert (await relay.get("/poll/polls", headers=headers))[0] == 200
    async with relay.session.ws_connect(f"{relay.url}/ws/listens", headers=headers):
        agents = (await relay.get("/discover"))[1]["agents"]
    assert {agent["agent_id"]: agent["machine"] for agent in agents} == dict.fromkeys(
        ("registered", "polls", "listens"), "198.51.100.7"
    )
    assert (await relay.get("/"))[1]["undeclared_proxy"] is False


async def test_an_agent_behind_an_undeclared_proxy_is_shown_with_the_address_of_the_proxy(serve: Serve) -> None:
    relay = await serve()
    headers = {"X-Forwarded-For": "198.51.100.7"}
    assert (await relay.post("/register", {"agent_id": "a"}, headers=headers))[1]["agent"]["machine"] == "127.0.0.1"


async def test_a_frame_that_is_refused_is_logged_with_the_address(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    relay = await serve(trust_proxies=("127.0.0.1/32",))
    for agent_id in ("requester", "worker", "other"):
        await relay.register(agent_id, agent_id=agent_id)
    ask = {"from_agent": "requester", "to_agent": "worker", "task": "t"}
    task_id = (await relay.post("/delegate", ask))[1]["message_id"]
    headers = {"X-Forwarded-For": "198.51.100.7"}
    async with relay.session.ws_connect(f"{relay.url}/ws/other?lease=30", headers=headers) as ws:
        with caplog.at_level(logging.WARNING, "clawlink"):
            await ws.send_json({"type": "respond", "id": 1, "message_id": task_id, "result": "r", "receipt": "junk"})
            answer = await soon(ws.receive_json())
    assert answer["code"] == "not_allowed", answer
    told = [vars(record) for record in caplog.records if record.getMessage() == "refused"]
    assert [line.get("address") for line in told] == ["198.51.100.7"]


async def test_the_relay_tells_of_a_proxy_that_nobody_declared(serve: Serve) -> None:
    relay = await serve()
    await exchange(relay.url, request("POST", "/register", b'{"agent_id":"a"}', X_Forwarded_For="198.51.100.7"))
    assert (await relay.get("/"))[1]["undeclared_proxy"] is True
