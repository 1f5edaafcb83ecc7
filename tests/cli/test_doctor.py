"""Doctor looks at everything, and each failure names the command that puts it right."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
import requests

from clawlink.cli.relay.doctor import _fix_of
from clawlink.cli.settings import Where
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.errors import InternalError, NotARelay
from clawlink.protocol.replies import Info
from clawlink.server.keys import noted
from tests.cli.conftest import Relays, Result, Run
from tests.tables import each

Fresh = Callable[[str], str]


@dataclass
class Checks:
    """The findings of doctor, by name."""

    code: int
    by_name: dict[str, dict[str, str]]

    def status(self, name: str) -> str:
        return self.by_name[name]["status"]

    def fix(self, name: str) -> str:
        return self.by_name[name]["fix"]

    @property
    def failed(self) -> list[str]:
        return [name for name, check in self.by_name.items() if check["status"] == "FAIL"]


def checks(told: Result) -> Checks:
    """Read what ``doctor --json`` printed."""
    assert told.err == ""
    assert told.json["ok"] is (told.code == 0)
    assert all(check["fix"] for check in told.json["checks"] if check["status"] == "FAIL")
    return Checks(told.code, {check["name"]: check for check in told.json["checks"]})


@contextmanager
def broken_server() -> Iterator[tuple[str, list[str]]]:
    """Serve 502 with HTML at an address, as a proxy without its relay. Give the address and the paths that come."""
    asked: list[str] = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


def only_file(account: Path) -> Path:
    [file] = (account / ".clawlink" / "identities").glob("*.json")
    return file


def test_all_is_well(run: Run, call: Run, me: str) -> None:
    shown = run("doctor").ok().out
    names = [line.split()[1] for line in shown.splitlines()]
    expected = ["install", "address", "connection", "relay", "token", "version", "clock", "identity", "agent"]
    assert names == expected + (["files"] if os.name == "posix" else [])
    assert all(line.startswith("ok    ") for line in shown.splitlines())
    assert checks(call("doctor", "--json")).failed == []


def test_of_several_relays_each_is_checked_and_one_that_is_away_is_a_warning(call: Run, relay: str, me: str) -> None:
    away = "http://127.0.0.1:1"
    told = call("--relay", f"{away},{relay}", "doctor", "--json")
    found = checks(told)
    assert (found.code, found.failed) == (0, [])
    connections = [check for check in told.json["checks"] if check["name"] == "connection"]
    assert [check["status"] for check in connections] == ["warn", "ok"]
    assert connections[0]["fix"] == "clawlink serve --port 1   with its --data DIR, if it had one"
    assert connections[1]["detail"].startswith(relay)
    assert found.status("agent") == "ok"
    none = checks(call("--relay", f"{away},http://127.0.0.1:2", "doctor", "--json"))
    assert (none.code, none.failed) == (3, ["connection", "identity"])


def test_several_relays_that_share_no_store_are_a_fault(call: Run, relay: str, own_relay: Relays) -> None:
    found = checks(call("--relay", f"{relay},{own_relay()}", "doctor", "--json"))
    assert found.status("store") == "FAIL"
    assert "CLAWLINK_STORE" in found.fix("store")


def test_a_relay_that_failed_is_not_asked_for_its_store(call: Run, relay: str) -> None:
    with broken_server() as (url, asked):
        found = checks(call("--relay", f"{url},{relay}", "doctor", "--json"))
    assert "relay" in found.by_name
    assert asked
    assert "/healthz" not in asked


def test_nothing_listens(call: Run, tmp_path: Path) -> None:
    found = checks(call("--relay", "http://127.0.0.1:1", "doctor", "--json"))
    assert (found.code, found.failed) == (3, ["connection", "identity"])
    assert found.fix("connection") == "clawlink serve --port 1   with its --data DIR, if it had one"
    assert found.fix("identity") == "clawlink register --name NAME --relay http://127.0.0.1:1"
    assert found.by_name["identity"]["detail"] == "no identity is kept here for http://127.0.0.1:1"
    (tmp_path / "a mesh").mkdir()
    with noted(ServerConfig(port=1, data=str(tmp_path / "a mesh")), 1, os.environ):
        pass
    found = checks(call("--relay", "http://127.0.0.1:1", "doctor", "--json"))
    assert found.fix("connection") == f"clawlink serve --port 1 --data {shlex.quote(str(tmp_path / 'a mesh'))}"
    shown = call("--relay", "http://127.0.0.1:1", "doctor")
    assert "FAIL  connection" in shown.out
    assert "fix: clawlink serve --port 1" in shown.out


def test_the_default_relay_is_served_without_flags(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    why: OSError = ConnectionRefusedError("refused")

    def refuse(*args: object, **options: object) -> None:
        raise why

    monkeypatch.setattr("socket.create_connection", refuse)
    assert checks(call("doctor", "--json")).fix("connection") == "clawlink serve   with its --data DIR, if it had one"
    why = TimeoutError("timed out")
    silent = "clawlink serve --port PORT   with another port: the program at 9077 takes no connections"
    assert checks(call("doctor", "--json")).fix("connection") == silent
    assert "--host 0.0.0.0" in checks(call("--relay", "https://relay.example", "doctor", "--json")).fix("connection")


@each("address", ["ftp://x", "http://", "http://[::1", "http://127.0.0.1:99999"])
def test_an_address_that_is_none(call: Run, address: str) -> None:
    found = checks(call("--relay", address, "doctor", "--json"))
    assert (found.code, "address" in found.failed) == (3, True)
    assert "connection" not in found.by_name


def test_a_token_that_is_missing(call: Run, own_relay: Relays) -> None:
    url = own_relay("--token", "sesame")
    found = checks(call("--relay", url, "doctor", "--json"))
    assert (found.code, found.status("relay"), found.failed) == (4, "ok", ["token", "identity"])
    assert found.fix("token").startswith(f"clawlink --relay {url} --token TOKEN register")
    found = checks(call("--relay", url, "--token", "sesame", "doctor", "--json"))
    assert (found.code, found.failed, found.by_name["token"]["detail"]) == (5, ["identity"], "right")


def test_a_wrong_token_comes_with_its_source_and_a_fix_that_works(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_relay("--token", "sesame")
    monkeypatch.setenv("CLAWLINK_TOKEN", "wrong")
    found = checks(call("--relay", url, "doctor", "--json"))
    assert found.by_name["token"]["detail"].endswith("; the wrong one comes from CLAWLINK_TOKEN")
    assert found.fix("token") == "export CLAWLINK_TOKEN=TOKEN   with the token that serve printed"
    call("--relay", url, "--token", "sesame", "register", "--name", "ada").ok()
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed) == (4, ["token"])
    assert found.fix("token") == "unset CLAWLINK_TOKEN   as the kept token is right"
    assert "; the wrong one comes from CLAWLINK_TOKEN" in call("discover").failed(4).err
    monkeypatch.delenv("CLAWLINK_TOKEN")
    assert checks(call("doctor", "--json")).failed == []
    found = checks(call("--token", "wrong", "doctor", "--json"))
    assert found.by_name["token"]["detail"].endswith("; the wrong one comes from --token")
    assert found.fix("token") == "leave --token out   as the kept token is right"
    own_relay.stop(url)
    own_relay.restart(url, "--token", "other")
    found = checks(call("doctor", "--json"))
    assert found.by_name["token"]["detail"].endswith("; the wrong one comes from the kept identity")
    assert found.fix("token").startswith(f"clawlink --relay {url} --token TOKEN register")
    assert "; the wrong one comes from the kept identity" in call("discover").failed(4).err
    call("--relay", url, "--token", "other", "register", "--name", "bob").ok()  # its token helps no other identity
    for flags in ((), ("--token", "wrong")):
        found = checks(call(*flags, "--as", "ada", "doctor", "--json"))
        assert found.fix("token").startswith(f"clawlink --relay {url} --token TOKEN register"), flags


def test_an_identity_that_must_be_chosen(call: Run, me: str, fresh: Fresh) -> None:
    call("register", "--name", fresh("other")).ok()
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed, found.status("identity")) == (0, [], "note")
    assert found.fix("identity") == "clawlink --as NAME doctor"
    assert checks(call("doctor", "--as", me, "--json")).failed == []
    assert checks(call("doctor", "--as", "nobody", "--json")).code == 5


def test_a_mistyped_name_is_answered_with_the_kept_agents_and_their_relay_is_checked(
    call: Run, own_relay: Relays
) -> None:
    url = own_relay("--token", "sesame")
    call("--relay", url, "--token", "sesame", "register", "--name", "ada").ok()
    found = checks(call("doctor", "--as", "adda", "--json"))
    assert (found.code, found.failed) == (5, ["identity"])
    assert (found.by_name["address"]["detail"], found.by_name["token"]["detail"]) == (url, "right")
    assert found.by_name["identity"]["detail"] == f"no identity 'adda' is kept here; kept are ada (on {url})"
    assert found.fix("identity") == "clawlink --as NAME doctor"


def test_identities_on_several_relays_are_no_fault_and_each_relay_is_checked(call: Run, own_relay: Relays) -> None:
    one, other = own_relay(), own_relay("--token", "sesame")
    call("--relay", one, "register", "--name", "ada").ok()
    call("--relay", other, "--token", "sesame", "register", "--name", "bob").ok()
    told = call("doctor", "--json")
    found = checks(told)
    assert (found.code, found.failed, found.status("identity")) == (0, [], "note")
    assert found.fix("identity") == "clawlink --as NAME doctor"
    shown = [(check["name"], check["detail"]) for check in told.json["checks"]]
    listed = [one for one in shown if one[0] in ("address", "token")]
    assert listed == [("address", one), ("token", "not asked for"), ("address", other), ("token", "right")]
    assert "agent" not in found.by_name
    assert "FAIL" not in call("doctor").ok().out
    own_relay.stop(one)
    told = call("doctor", "--json")
    failed = [check["name"] for check in told.json["checks"] if check["status"] == "FAIL"]
    assert (told.code, failed) == (3, ["connection"])


def test_no_identity_is_a_note_where_a_program_is_connected(
    call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_RELAY", own_relay())
    found = checks(call("doctor", "--json"))
    assert (found.code, found.status("identity")) == (5, "FAIL")
    call("connect", "claude", "--yes").ok()
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed, found.status("identity")) == (0, [], "note")
    assert found.fix("identity").startswith("clawlink register --name NAME ")
    found = checks(call("doctor", "--as", "nobody", "--json"))
    assert (found.code, found.status("identity")) == (5, "FAIL")


def test_an_agent_that_the_relay_has_forgotten(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    own_relay.stop(url)
    own_relay.restart(url)
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed, found.fix("agent")) == (5, ["agent"], "clawlink register --name ada")


def test_a_key_that_is_wrong(call: Run, me: str, account: Path) -> None:
    file = only_file(account)
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "agent_key": "stolen"}))
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed) == (4, ["agent"])
    assert "clawlink agent leave --offline" in found.fix("agent")


def test_a_relay_that_fails_at_the_agent(call: Run, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Client) -> None:
        raise InternalError("the relay failed at this request")

    monkeypatch.setattr(Client, "heartbeat", fail)
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed) == (1, ["agent"])


def test_an_agent_without_a_key(call: Run, relay: str, fresh: Fresh) -> None:
    call("register", "--name", fresh("open"), "--no-claim").ok()
    found = checks(call("doctor", "--json"))
    assert found.failed == []
    assert "it has no agent key" in found.by_name["identity"]["detail"]


@pytest.mark.skipif(os.name != "posix", reason="modes are a matter of POSIX")
def test_files_that_others_can_read(call: Run, me: str, account: Path) -> None:
    file = only_file(account)
    file.chmod(0o644)
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed, found.fix("files")) == (1, ["files"], f"chmod 600 {file}")
    file.chmod(0o600)
    file.parent.chmod(0o755)
    assert checks(call("doctor", "--json")).fix("files") == f"chmod 700 {file.parent}"


def test_something_that_is_no_relay(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_relay()
    found = checks(call("--relay", url.replace("http:", "https:"), "doctor", "--json"))
    assert (found.code, "relay" in found.failed) == (3, True)
    assert found.fix("relay").startswith("clawlink --relay http://")
    untrusted = _fix_of(NotARelay("no trusted TLS connection"), Where("https://relay:9077", None, None, None))
    assert "--ca CERTIFICATE.pem" in untrusted
    found = checks(call("--relay", url + "/no/relay", "doctor", "--json"))
    assert found.code == 5
    assert "the address that serve printed" in found.fix("relay")


def test_a_relay_of_another_version_time_and_mood(call: Run, me: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Client.info

    def altered(**changes: object) -> Callable[[Client], Info]:
        return lambda self: msgspec.structs.replace(real(self), **changes)

    monkeypatch.setattr(Client, "info", altered(version="0.1", server_time="2001-01-01T00:00:00+00:00", draining=True))
    found = checks(call("doctor", "--json"))
    assert (found.code, found.failed) == (0, [])
    assert (found.status("version"), found.status("clock"), found.status("relay")) == ("warn", "warn", "warn")
    assert found.fix("version").startswith("pip install .   in a checkout of ")
    assert "ahead of" in found.by_name["clock"]["detail"]
    monkeypatch.setattr("sys.platform", "darwin")
    assert "sntp" in checks(call("doctor", "--json")).fix("clock")
    monkeypatch.setattr(Client, "info", altered(server_time="2101-01-01T00:00:00+00:00"))
    assert "behind" in checks(call("doctor", "--json")).by_name["clock"]["detail"]
    monkeypatch.setattr(Client, "info", altered(server_time="half past nine"))
    assert "not readable" in checks(call("doctor", "--json")).by_name["clock"]["detail"]


def test_a_relay_behind_a_proxy_that_nobody_declared(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "ada").ok()
    assert "proxy" not in checks(call("doctor", "--json")).by_name
    requests.post(
        url + "/register", json={"agent_id": "b"}, headers={"Via": "1.1 proxy"}, timeout=10
    ).raise_for_status()
    found = checks(call("doctor", "--json"))
    assert (found.failed, found.status("proxy")) == ([], "warn")
    assert "--trust-proxy" in found.fix("proxy")


def test_doctor_asks_the_way_that_commands_do(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found = checks(call("--relay", "http://relay.example.org", "doctor", "--json"))
    assert (found.code, found.status("connection")) == (3, "FAIL")
    assert "http://127.0.0.1:9 (http_proxy)" in found.by_name["connection"]["detail"]
    assert found.fix("connection").startswith("export NO_PROXY=relay.example.org")
    monkeypatch.delenv("http_proxy")
    found = checks(call("--relay", "http://nothing.invalid", "doctor", "--json"))
    assert "clawlink serve" not in found.fix("connection")
