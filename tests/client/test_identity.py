"""Identities are files that only their owner can read, and that never get in each other's way."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from clawlink.client.identity import Identities, NoIdentity, Saved, SeveralIdentities, home

RELAY = "http://127.0.0.1:9077"
NAMES = [
    "Ann",
    "../../etc/passwd",
    "a/b\\c",
    "☃",
    "名前",
    ".",
    "..",
    "x" * 128,
    "con",
    "two words",
    "-rf",
    "%00",
    "\u202eevil",
]


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    return Identities(tmp_path / "home")


def ann(**changes: object) -> Saved:
    return msgspec.structs.replace(Saved(name="Ann", agent_id="a1", relay=RELAY, token="t", agent_key="k"), **changes)


def test_home_is_in_the_account_unless_told_otherwise(tmp_path: Path) -> None:
    assert home({"CLAWLINK_HOME": str(tmp_path)}) == tmp_path
    assert home({}) == Path.home() / ".clawlink"
    assert home({"CLAWLINK_HOME": ""}) == Path.home() / ".clawlink"


def test_nothing_is_kept_at_first(identities: Identities) -> None:
    assert identities.all() == []
    assert not identities.folder.exists()


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_kept_inside_the_folder_and_found_again(identities: Identities, name: str) -> None:
    saved = ann(name=name)
    path = identities.save(saved)
    assert path.parent == identities.folder
    assert path.resolve().parent == identities.folder.resolve()
    assert identities.all() == [saved]
    assert identities.pick(named=name, relay=None) == saved


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_only_the_owner_can_read_them(identities: Identities) -> None:
    before = os.umask(0)
    try:
        path = identities.save(ann())
        identities.save(ann(token="new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_saving_again_replaces_and_leaves_nothing_else_behind(identities: Identities) -> None:
    first = identities.save(ann())
    second = identities.save(ann(name="ANN", agent_id="a2"))
    assert first == second
    assert identities.all() == [ann(name="ANN", agent_id="a2")]
    assert len(list(identities.folder.iterdir())) == 1


def test_a_crash_while_saving_leaves_the_old_one(identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    identities.save(ann())

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="disk is full"):
                identities.save(ann(token="new"))
    assert identities.all() == [ann()]
    assert len(list(identities.folder.iterdir())) == 1


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"name":"x"}', b"\xff\xfe", b"[]", b'{"name":1,"agent_id":"a","relay":"r"}']
)
def test_a_torn_file_hides_no_other(identities: Identities, torn: bytes) -> None:
    identities.save(ann())
    (identities.folder / "torn.json").write_bytes(torn)
    (identities.folder / "notes.txt").write_text("not ours")
    assert identities.all() == [ann()]


def test_a_file_of_a_newer_version_can_be_read(identities: Identities) -> None:
    path = identities.save(ann())
    path.write_text(path.read_text().replace("{", '{"from_the_future": {"x": 1},', 1))
    assert identities.all() == [ann()]


def test_the_only_one_needs_no_name(identities: Identities) -> None:
    identities.save(ann())
    assert identities.pick(named=None, relay=None) == ann()
    assert identities.pick(named=None, relay=RELAY + "/") == ann()


def test_of_several_one_must_be_named_and_all_are_listed(identities: Identities) -> None:
    bob = ann(name="Bob", agent_id="b1")
    identities.save(bob)
    identities.save(ann())
    with pytest.raises(SeveralIdentities) as several:
        identities.pick(named=None, relay=None)
    assert "Ann" in several.value.message
    assert "Bob" in several.value.message
    assert "--as" in several.value.message
    assert identities.pick(named="bOB", relay=None) == bob
    assert identities.pick(named="b1", relay=None) == bob
    assert [saved.name for saved in identities.all()] == ["Ann", "Bob"]


def test_one_name_on_two_relays_needs_the_relay(identities: Identities) -> None:
    other = ann(relay="http://192.168.1.5:9077", agent_id="a2")
    identities.save(ann())
    identities.save(other)
    with pytest.raises(SeveralIdentities, match="--relay"):
        identities.pick(named="Ann", relay=None)
    assert identities.pick(named="ann", relay=other.relay) == other
    assert identities.pick(named=None, relay=RELAY) == ann()


def test_an_identity_of_one_of_several_relays_is_found_by_all_of_them(identities: Identities) -> None:
    other = ann(relay="http://192.168.1.5:9077", agent_id="a2")
    for saved in (ann(), other):
        identities.save(saved)
    both, mesh = f"{RELAY},http://c.example:1", "http://c.example:1,http://192.168.1.5:9077/"
    assert identities.pick(named="Ann", relay=both) == ann()
    assert identities.pick(named="Ann", relay=mesh) == other
    with pytest.raises(SeveralIdentities):
        identities.pick(named="Ann", relay=f"{RELAY},{other.relay}")
    with pytest.raises(NoIdentity):
        identities.pick(named="Ann", relay="http://c.example:1,http://d.example:1")
    identities.save(whole := ann(relay=both, agent_id="a3"))
    assert identities.pick(named="Ann", relay=both) == whole
    assert identities.pick(named="Ann", relay=RELAY) == ann()
    assert identities.pick(named="Ann", relay="c.example:1") == whole


def test_none_that_fits_says_how_to_get_one(identities: Identities) -> None:
    with pytest.raises(NoIdentity, match="clawlink register"):
        identities.pick(named=None, relay=None)
    identities.save(ann())
    with pytest.raises(NoIdentity, match="Bob"):
        identities.pick(named="Bob", relay=None)
    with pytest.raises(NoIdentity, match="elsewhere"):
        identities.pick(named="Ann", relay="http://elsewhere:1")


def test_the_key_of_a_claim_is_kept_until_the_identity_is_and_told_to_one_relay(identities: Identities) -> None:
    here, there = "http://a.example:9077", "http://b.example:9077"
    with identities.place("ada") as place:
        first = place.key(here)
    with identities.place("Ada") as place:
        assert place.key(here) == first
        other = place.key(there)
        assert other != first
        place.keep(Saved("ada", "1", there))
    with identities.place("ada") as place:
        assert place.key(there) not in (first, other)


def test_what_is_forgotten_is_gone_and_may_be_forgotten_twice(identities: Identities) -> None:
    identities.save(ann())
    identities.forget(ann())
    identities.forget(ann())
    assert identities.all() == []
