"""Where nothing says which relay is meant: the one on this machine, or the only one that announces itself."""

from __future__ import annotations

import functools
import re
import socket
import sys
from collections.abc import Iterator

import pytest

from clawlink import lan
from clawlink.lan import find_one
from tests.announcing import LOOPBACK, OWN_TYPE, announced, crafted, relay
from tests.cli.conftest import Relays, Run

# An mDNS responder may wait a second before it repeats itself.
_LISTEN_SECONDS = 2.5


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.fixture(autouse=True)
def nobody_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Let commands look around, on loopback alone, and have no relay at the default address; give its port."""
    monkeypatch.delenv("CLAWLINK_NO_MDNS")
    monkeypatch.setattr(lan, "SERVICE_TYPE", OWN_TYPE)
    monkeypatch.setattr(lan, "find_one", functools.partial(find_one, _LISTEN_SECONDS, interfaces=[LOOPBACK]))
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))  # nobody else gets this port, and nobody listens there
        port: int = taken.getsockname()[1]
        default_is(monkeypatch, port)
        yield port


def default_is(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Put the relay of this machine at another port, so that nobody's own is asked."""
    monkeypatch.setattr("clawlink.cli.nearby.DEFAULT_PORT", port)
    monkeypatch.setattr("clawlink.cli.settings.DEFAULT_RELAY", f"http://{LOOPBACK}:{port}")


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if the network is listened to."""

    def fail() -> None:
        raise AssertionError("the network was listened to")

    monkeypatch.setattr(lan, "find_one", fail)


def test_the_only_relay_found_is_used_and_named(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    with announced(relay(port_of(url))):
        joined = call("register", "--name", "ada").ok()
    said = joined.err.splitlines()
    assert len(said) == 1
    assert f"using the relay at {url} (" in said[0]
    assert "local network" in said[0]
    assert f"on {url}" in joined.out
    # From now on it is known, though nobody announces it any more.
    assert call("heartbeat").ok().err == ""
    assert call("discover").ok().err == ""


def test_a_script_is_told_as_json(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    with announced(relay(port_of(url))):
        told = call("info", "--json").ok()
    assert told.json["service"] == "ClawLink Relay"
    assert re.fullmatch(rf'{{"warning":"using the relay at {url} .*"}}\n', told.err)


def test_nobody_guesses_between_two(call: Run) -> None:
    with announced(crafted("\u202e[bold red]mine", 49093, auth="no"), relay(49094, auth=True, tls=True)):
        refused = call("discover").failed(2).err
        told = call("discover", "--json").failed(2).err
    assert '"<U+202E>[bold red]mine" at http://127.0.0.1:49093' in refused
    assert "https://127.0.0.1:49094" in refused
    assert "--relay URL or CLAWLINK_RELAY" in refused
    assert '"code":"several_relays"' in told
    assert '"current":["http://127.0.0.1:49094","http://127.0.0.1:49093"]' in told.replace("https", "http")


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_no_token_goes_to_a_relay_that_was_merely_found(call: Run, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as stranger:
        stranger.setblocking(False)
        port = stranger.getsockname()[1]
        if by == "variable":
            monkeypatch.setenv("CLAWLINK_TOKEN", "secret")
        flag = ["--token", "secret"] if by == "flag" else []
        with announced(crafted("stranger", port, auth="yes")):
            refused = call("register", "--name", "ada", *flag).failed(2).err
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert f"--relay http://127.0.0.1:{port}" in refused
    assert "secret" not in refused


def test_a_relay_that_asks_for_a_token_is_named_and_not_asked(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "t")
    with announced(relay(port_of(url), auth=True)):
        refused = call("register", "--name", "ada").failed(4).err
    found = re.search(r"--relay \S+ --token TOKEN", refused)
    assert found is not None
    confirmed = found[0].replace("TOKEN", "t").split()
    assert call("register", "--name", "ada", *confirmed).ok().err == ""


def test_where_none_is_found_the_sentence_says_so(call: Run, nobody_here: int) -> None:
    refused = call("info").failed(3).err
    assert f"no relay answers at http://127.0.0.1:{nobody_here}" in refused
    assert "nor does one announce itself on the local network" in refused


def test_doctor_looks_where_the_others_would(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    with announced(relay(port_of(url))):
        found = call("doctor", "--json")
        checks = {check["name"]: check for check in found.json["checks"]}
        assert checks["address"]["detail"] == url
        assert checks["relay"]["status"] == "ok"
        with announced(relay(49095)):
            several = call("doctor")
    assert several.code == 2
    assert "FAIL  address     several relays answer" in several.out
    assert "fix: clawlink --relay" in several.out


@pytest.mark.usefixtures("unheard")
def test_a_relay_on_this_machine_goes_first(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_relay()
    default_is(monkeypatch, port_of(url))
    assert call("discover").ok().err == ""
    assert call("register", "--name", "ada", "--json").ok().json["relay"] == url


@pytest.mark.usefixtures("unheard")
def test_what_is_known_is_not_looked_for(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url, other = own_relay(), own_relay()
    call("discover", "--relay", url).ok()
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    call("discover").ok()
    call("register", "--name", "ada").ok()
    monkeypatch.delenv("CLAWLINK_RELAY")
    call("discover").ok()
    call("register", "--name", "bob").ok()
    # Identities on two relays know theirs, and disagree. That is no reason to ask strangers.
    call("register", "--name", "carol", "--relay", other).ok()
    call("info").failed(2)
    call("--help").ok()


@pytest.mark.usefixtures("unheard")
def test_who_does_not_want_it_has_only_the_default(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAWLINK_NO_MDNS", "yes")
    assert "local network" not in call("info").failed(3).err


@pytest.mark.parametrize("fails", [ImportError("no zeroconf"), OSError("no network")])
def test_without_zeroconf_or_network_there_is_only_the_default(
    call: Run, monkeypatch: pytest.MonkeyPatch, fails: Exception
) -> None:
    def find_one() -> None:
        raise fails

    monkeypatch.setattr(lan, "find_one", find_one)
    assert "local network" not in call("info").failed(3).err


def test_looking_around_loads_nothing_that_a_known_relay_does_not_need(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    monkeypatch.setitem(sys.modules, "clawlink.cli.nearby", None)
    call("discover", "--relay", own_relay()).ok()


def test_eight_of_many_are_listed(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [lan.Found(f"r{at}", f"http://192.0.2.{at}:1", "", "", False) for at in range(10)]

    def find_one() -> None:
        raise lan.SeveralRelays("several", many, 3)

    monkeypatch.setattr(lan, "find_one", find_one)
    refused = call("discover").failed(2).err
    assert '"r7" at http://192.0.2.7:1, 2 more, 3 whose address did not come; say which' in refused
