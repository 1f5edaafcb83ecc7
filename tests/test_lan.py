"""A relay that announces itself is found, with what a client needs to know; by real announcements on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from clawlink import lan
from clawlink.lan import SERVICE_TYPE, Found, SeveralRelays, announce, find_one, reachable_at, scan
from clawlink.version import VERSION
from tests.announcing import LOOPBACK, OWN_TYPE, announced, crafted, relay
from tests.processes import Popen
from tests.tables import each
from tests.waiting import cancelled_after, until

# An mDNS responder may wait a second before it repeats itself.
SCAN_SECONDS = 2.5
SCANS = 10
HOSTNAME = socket.gethostname()
LABEL = HOSTNAME.partition(".")[0]


def heard(count: int = 1) -> list[Found]:
    """Scan until this many relays were heard: those of a busy machine may take longer to answer than one scan."""
    found: list[Found] = []
    for _ in range(SCANS):
        found = scan(SCAN_SECONDS, interfaces=[LOOPBACK])
        if len(found) >= count:
            break
    return found


@pytest.fixture
def own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hear what these tests announce, and nothing else."""
    monkeypatch.setattr(lan, "SERVICE_TYPE", OWN_TYPE)


def test_a_relay_of_another_process_is_found_and_gone_when_it_leaves() -> None:
    with announced(relay(49077, auth=True, tls=True), type=SERVICE_TYPE):
        found = heard()
        assert Found(f"{LABEL}-49077-0001", "https://127.0.0.1:49077", VERSION, HOSTNAME, auth=True) in found
    assert not [relay for relay in scan(SCAN_SECONDS, interfaces=[LOOPBACK]) if relay.url.endswith(":49077")]


@pytest.mark.usefixtures("own_type")
async def test_two_relays_of_one_machine_are_told_apart() -> None:
    first = await announce(49078, auth=False, tls=False, address=LOOPBACK)
    second = await announce(49079, auth=True, tls=False, address=LOOPBACK)
    try:
        found = await asyncio.to_thread(heard, 2)
    finally:
        await first.close()
        await second.close()
    told = {relay.url: relay.auth for relay in found}
    assert told == {"http://127.0.0.1:49078": False, "http://127.0.0.1:49079": True}


def several(silent: int = 0) -> SeveralRelays:
    """Look for one relay until several are heard, this many of them without an address. Return the refusal."""
    for _ in range(SCANS):
        try:
            find_one(SCAN_SECONDS, interfaces=[LOOPBACK])
        except SeveralRelays as refused:
            if refused.silent == silent:
                return refused
    raise AssertionError("they were not heard")


@pytest.mark.usefixtures("own_type")
def test_the_only_relay_is_found_and_nobody_guesses_between_two() -> None:
    assert find_one(0.2, interfaces=[LOOPBACK]) is None
    with announced(relay(49080, address="192.0.2.80")):
        one = next(filter(None, (find_one(SCAN_SECONDS, interfaces=[LOOPBACK]) for _ in range(SCANS))), None)
        assert one == Found(f"{LABEL}-49080-0250", "http://192.0.2.80:49080", VERSION, HOSTNAME, auth=False)
        with announced(relay(49081, address="2001:db8::81")):
            refused = several()
    assert [found.url for found in refused.found] == ["http://192.0.2.80:49080", "http://[2001:db8::81]:49081"]
    assert "http://192.0.2.80:49080, http://[2001:db8::81]:49081" in refused.message


@pytest.mark.usefixtures("own_type")
async def test_two_relays_at_one_port_of_different_addresses_are_told_apart() -> None:
    addresses = ("192.0.2.80", "192.0.2.81", "2001:db8::81")
    open = [
        await announce(49096, auth=False, tls=False, address=address, interfaces=[LOOPBACK]) for address in addresses
    ]
    try:
        found = await asyncio.to_thread(heard, 3)
    finally:
        for announcement in open:
            await announcement.close()
    assert {relay.name: relay.url for relay in found} == {
        f"{LABEL}-49096-0250": "http://192.0.2.80:49096",
        f"{LABEL}-49096-0251": "http://192.0.2.81:49096",
        f"{LABEL}-49096-0081": "http://[2001:db8::81]:49096",
    }


def test_a_hostname_of_any_length_and_bytes_can_be_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "\u00e4" * 63 + ".\udcff.org")
    monkeypatch.setattr(lan, "SERVICE_TYPE", OWN_TYPE)

    async def once() -> list[Found]:
        announcement = await announce(
            49097, auth=False, tls=False, address="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", interfaces=[LOOPBACK]
        )
        try:
            return await asyncio.to_thread(heard)
        finally:
            await announcement.close()

    (found,) = asyncio.run(once())
    assert found.name == "\u00e4" * 25 + "-49097-ffff"
    assert found.hostname == "\u00e4" * 63 + ".?.org"


@pytest.mark.usefixtures("own_type")
def test_what_names_no_place_to_go_is_no_relay() -> None:
    nowhere = [
        crafted("multicast", 49082, address="224.0.0.7"),
        crafted("unspecified", 49083, address="0.0.0.0"),
        crafted("link-local", 49084, address="fe80::1"),
        crafted("no-port", 0),
    ]
    hostile = crafted("\u202e[bold]x", 49085, version="\x1b[2J", hostname="\x00", auth="YES", tls="\x07yes")
    with announced(*nowhere, hostile):
        found = heard()
    # It is text of strangers, given as it is; only the address is ours to make.
    assert found == [Found("\u202e[bold]x", "http://127.0.0.1:49085", "\x1b[2J", "\x00", auth=False)]


@pytest.mark.usefixtures("own_type")
def test_our_own_loopback_is_no_place_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the network's announcement had come by another interface than loopback.
    monkeypatch.setattr(lan, "_is_loopback", lambda address: False)
    with announced(relay(49086), crafted("mapped", 49087, address="::ffff:127.0.0.1")):
        assert scan(SCAN_SECONDS, interfaces=[LOOPBACK]) == []


@pytest.mark.usefixtures("own_type")
def test_more_names_than_anyone_has_relays_are_counted_and_nobody_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "_MOST", 1)
    with announced(relay(49088), relay(49089), relay(49090)):
        refused = several(silent=2)
    assert len(refused.found) == 1
    assert "2 whose address did not come" in refused.message


_RELAY = """
import functools, sys
from clawlink import lan
from clawlink.server import __main__, run
lan.SERVICE_TYPE = sys.argv.pop(1)
lan.announce = functools.partial(lan.announce, interfaces=["127.0.0.1"])
lan.reachable_at = lambda *host: "192.0.2.91"
sys.exit(__main__.main())
"""


@pytest.fixture
def three_relays() -> Iterator[dict[str, str]]:
    """Run a relay for this machine only, one that is not to be announced, and one for all; give their ports."""
    ports: dict[str, str] = {}
    running: list[subprocess.Popen[str]] = []
    try:
        for name, flags in {
            "local": ["--host", LOOPBACK],
            "silent": ["--host", "0.0.0.0", "--no-mdns"],
            "announced": ["--host", "0.0.0.0", "--token", "t"],
        }.items():
            command = [sys.executable, "-c", _RELAY, OWN_TYPE, "--port", "0", *flags]
            running.append(Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            assert running[-1].stdout is not None
            ports[name] = running[-1].stdout.readline().strip().rpartition(":")[2]
        yield ports
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.usefixtures("own_type")
def test_a_relay_is_announced_if_others_can_reach_it_and_it_may_be(three_relays: dict[str, str]) -> None:
    found = heard()  # it was the last to start: once it has announced itself, the others had the time to do so
    port = three_relays["announced"]
    assert found == [Found(f"{LABEL}-{port}-025b", f"http://192.0.2.91:{port}", VERSION, HOSTNAME, auth=True)]


async def test_what_is_no_address_cannot_be_announced() -> None:
    with pytest.raises(OSError, match="no-address"):
        await announce(49092, auth=False, tls=False, address="no-address")


@pytest.mark.usefixtures("own_type")
async def test_what_mdns_does_not_take_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "SERVICE_TYPE", "_longer-than-15-characters._tcp.local.")
    with pytest.raises(OSError, match="mDNS does not take"):
        await announce(49092, auth=False, tls=False, address=LOOPBACK)


@each("host", ["192.0.2.7", "2001:db8::7"])
def test_a_relay_on_one_address_is_reached_there(host: str) -> None:
    assert reachable_at(host) == host


@each("host", ["127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1", "fe80::7"])
def test_what_others_cannot_reach_is_not_told_to_them(host: str) -> None:
    with pytest.raises(OSError, match="no address that other machines can use"):
        reachable_at(host)


@pytest.mark.parametrize(("host", "versions"), [("0.0.0.0", "4"), ("::", "64"), ("", "46")])
def test_a_relay_on_all_addresses_is_reached_by_the_way_out(
    host: str, versions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {socket.AF_INET: "192.0.2.7", socket.AF_INET6: "2001:db8::7"}
    monkeypatch.setattr(lan, "way_out", ways.get)
    families = [{"4": socket.AF_INET, "6": socket.AF_INET6}[version] for version in versions]
    for family in families:
        assert reachable_at(host) == ways[family]
        ways[family] = "127.0.0.1"
    with pytest.raises(OSError, match="no address"):
        reachable_at(host)


def test_the_way_out_is_found_without_sending_anything() -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        way = lan.way_out(family)
        assert way is None or socket.inet_pton(family, way.partition("%")[0])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows shows no open files")
@pytest.mark.usefixtures("own_type")
async def test_a_goodbye_that_is_cancelled_closes_the_sockets() -> None:
    def open_files() -> int:
        return len(os.listdir("/dev/fd"))

    before = open_files()
    for turns in (1, 2):
        announcement = await announce(49098, auth=False, tls=False, address=LOOPBACK, interfaces=[LOOPBACK])
        assert open_files() > before
        assert not await cancelled_after(turns, announcement.close())
        await until(lambda: open_files() == before)
