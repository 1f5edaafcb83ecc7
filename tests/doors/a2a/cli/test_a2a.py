"""``clawlink a2a``: clients and their file, and cards."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shlex
import sys
import threading
from pathlib import Path

import pytest

from clawlink.doors.a2a import DOOR
from tests.cli.conftest import Run
from tests.conftest import Start


def test_clients_come_and_go(call: Run, tmp_path: Path) -> None:
    file = tmp_path / "clients.json"
    where = ("--file", str(file))
    done = call("a2a", "client", "add", "shop", *where).ok()
    (entry,) = json.loads(file.read_text())["clients"]
    assert f"--a2a-clients {shlex.quote(str(file))}   (a relay that runs with this flag reads it again" in done.out
    assert entry["name"] == "shop"
    (credential,) = (word for word in done.out.split() if word.startswith("a2a_"))
    assert entry["sha256"] == hashlib.sha256(credential.encode()).hexdigest()
    if sys.platform != "win32":
        assert os.stat(file).st_mode & 0o777 == 0o600
    call("a2a", "client", "add", "SHOP", *where).failed(7)
    second = call("a2a", "client", "add", "shop", "--replace", "--json", *where).ok()
    (entry,) = json.loads(file.read_text())["clients"]
    assert entry["sha256"] == hashlib.sha256(second.json["credential"].encode()).hexdigest()
    listed = call("a2a", "client", "list", *where).ok()
    assert "shop" in listed.out
    assert call("a2a", "client", "list", "--json", *where).ok().json["count"] == 1
    call("a2a", "client", "remove", "shop", *where).ok()
    assert json.loads(file.read_text())["clients"] == []
    assert "no clients" in call("a2a", "client", "list", *where).ok().out
    for wrong in (
        ("client",),
        ("add",),
        ("remove",),
        ("list", "x"),
        ("client", "add"),
        ("client", "list", "x"),
        ("client", "add", "a b"),
        ("card", "a", "b"),
    ):
        call("a2a", *wrong, *where).failed(2)
    file.write_text('{"clients": 5}')
    assert str(file) in call("a2a", "client", "list", *where).failed(2).err


def test_a_card_behind_a_token_asks_for_the_credential(call: Run, tmp_path: Path) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            return

    where = ("--file", str(tmp_path / "agents.json"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/a2a/bob"
            assert "give --credential" in call("a2a", "add", url, *where).failed(4).err
            assert "does not take" in call("a2a", "add", url, "--credential", "c", *where).failed(4).err
        finally:
            server.shutdown()
            thread.join()
    alone = call("a2a").failed(2).err
    assert "client|add|list|remove|key|card" in alone
    assert "WORD" not in alone


def test_remote_agents_come_and_go(call: Run, start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay("--a2a", "--a2a-url", "https://relay.example.com")
    call("register", "Bob", "--caps", "python", "--relay", relay.url).ok()
    file = tmp_path / "agents.json"
    where = ("--file", str(file))
    added = call("a2a", "add", f"{relay.url}/a2a/Bob", *where, "--json").ok().json
    assert (added["name"], added["capabilities"]) == ("Bob", ["python"])
    (entry,) = json.loads(file.read_text())["agents"]
    assert entry["interface"].startswith("https://relay.example.com/a2a/")
    call("a2a", "add", f"{relay.url}/a2a/Bob", *where).failed(7)
    done = call("a2a", "add", f"{relay.url}/a2a/Bob", "--as", "far-bob", "--credential", "-", *where, stdin=b"c\n").ok()
    assert "far-bob" in done.out
    assert json.loads(file.read_text())["agents"][1]["credential"] == "c"
    if sys.platform != "win32":
        assert os.stat(file).st_mode & 0o777 == 0o600
    listed = call("a2a", "list", *where).ok()
    assert "far-bob" in listed.out
    assert call("a2a", "list", "--json", *where).ok().json["count"] == 2
    call("a2a", "remove", "Bob", *where).ok()
    call("a2a", "remove", "Bob", *where).failed(5)
    nowhere = "http://127.0.0.1:1"
    for url, code in (("x", 2), (f"{relay.url}/a2a/nobody", 2), (f"{relay.url}/x.json", 2), (nowhere, 3)):
        call("a2a", "add", url, *where).failed(code)


def test_the_examples_work(call: Run, start_relay: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = start_relay("--a2a")
    monkeypatch.chdir(tmp_path)  # the files of clients and agents are made in the current folder
    monkeypatch.setenv("CLAWLINK_RELAY", relay.url)
    call("register", "bob").ok()
    (verb,) = DOOR.verbs()
    for example in verb.examples:
        call(*shlex.split(example)).ok()


def test_a_signature_is_checked_when_an_agent_is_added(call: Run, start_relay: Start, tmp_path: Path) -> None:
    key, file = tmp_path / "key.pem", tmp_path / "agents.json"
    made = call("a2a", "key", "--file", str(key), "--json").ok().json
    call("a2a", "key", "--file", str(key)).failed(7)
    signing, plain = start_relay("--a2a", "--a2a-key", str(key)), start_relay("--a2a")
    for relay in (signing, plain):
        call("register", "Bob", "--caps", "python", "--relay", relay.url).ok()
    where = ("--as", "bob", "--file", str(file), "--json")
    added = call("a2a", "add", f"{signing.url}/a2a/Bob", "--signed", *where).ok().json
    assert added["signed_by"] == made["kid"]
    # An agent in its place has to be signed by the same key.
    call("a2a", "add", f"{plain.url}/a2a/Bob", "--replace", *where).failed(4)
    call("a2a", "add", f"{plain.url}/a2a/Bob", "--signed", *where).failed(2)
    call("a2a", "add", f"{signing.url}/a2a/Bob", "--replace", *where).ok()
    assert call("a2a", "card", "--relay", signing.url, "--json").ok().json["signatures"]


def test_cards_are_shown(call: Run, start_relay: Start) -> None:
    relay = start_relay("--a2a", "--a2a-url", "https://relay.example.com/mesh")
    where = ("--relay", relay.url)
    call("register", "Bob", "--caps", "python", *where).ok()
    own = call("a2a", "card", "--json", *where).ok().json
    assert own["supportedInterfaces"][0]["url"] == "https://relay.example.com/mesh/a2a-relay"
    card = call("a2a", "card", "Bob", "--json", *where).ok().json
    assert [skill["id"] for skill in card["skills"]] == ["python"]
    assert card["supportedInterfaces"][0]["url"].startswith("https://relay.example.com/mesh/a2a/")
    extended = call("a2a", "card", "Bob", "--extended", "--json", *where).ok().json
    assert len(extended["capabilities"]["extensions"]) == 2
    assert call("a2a", "card", "python", "--pool", "--json", *where).ok().json["name"] == "python"
    call("a2a", "card", "nobody", *where).failed(5)
    without = start_relay()
    assert "--a2a" in call("a2a", "card", "--relay", without.url).failed(1).err


def test_flags_that_make_no_sense_stop_the_start(call: Run, tmp_path: Path) -> None:
    file = tmp_path / "clients.json"
    file.write_text("{")
    for flags, named in (
        (("--a2a-url", "https://x"), "--a2a"),
        (("--a2a-private-webhooks",), "--a2a"),
        (("--a2a", "--a2a-url", "x"), "--a2a-url"),
        (("--a2a", "--a2a-url", "https://x?y"), "--a2a-url"),
        (("--a2a", "--a2a-clients", str(file)), str(file)),
        (("--a2a", "--a2a-agents", str(file)), str(file)),
        (("--a2a-agents", "x"), "--a2a"),
        (("--a2a", "--a2a-key", str(file)), str(file)),
    ):
        assert named in call("serve", *flags).failed(2).err, flags
