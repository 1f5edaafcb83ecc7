"""Identities that cannot be kept or read: nothing is claimed and lost, and every file is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from clawlink.cli.main import _local
from clawlink.client.identity import Identities, Place, Saved
from clawlink.client.link.link import Link
from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Relays, Run
from tests.processes import Popen
from tests.waiting import PATIENCE


def new() -> str:
    return f"keeper-{uuid4().hex[:8]}"


def known(relay: str) -> set[str]:
    with Client(relay) as client:
        return {agent.name for agent in client.discover(status="all").agents}


def unusable(tmp_path: Path) -> Path:
    """Return a folder in which nothing can be made, also not by root."""
    (tmp_path / "file").write_text("no folder")
    return tmp_path / "file" / "home"


def test_a_name_is_not_claimed_where_its_key_cannot_be_kept(run: Run, relay: str, tmp_path: Path) -> None:
    home = str(unusable(tmp_path))
    names = [new() for _ in range(3)]
    for command in (["register", "--name", names[0]], ["work", "--name", names[1], "--exec", "true"]):
        told = run(*command, env={"CLAWLINK_HOME": home}).failed(1)
        assert "CLAWLINK_HOME" in told.err, command
    with pytest.raises(OSError, match="CLAWLINK_HOME"):
        Link(names[2], relay=relay, identities=home).run()
    assert not known(relay) & set(names)


def test_an_agent_leaves_again_if_keeping_fails(
    call: Run, relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "the disk is broken")

    names = new(), new()
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        assert "disk is broken" in call("register", "--name", names[0]).failed(1).err
        with pytest.raises(OSError, match="disk is broken"):
            Link(names[1], relay=relay, identities=tmp_path).run()
    assert not known(relay) & set(names)
    assert not list(tmp_path.glob("identities/*.new"))


def test_a_claim_whose_answer_was_not_kept_is_taken_up_by_the_next(
    call: Run, relay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process is killed, or interrupted while it waits for a lost reply."""

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    def ids(name: str) -> list[str]:
        with Client(relay) as client:
            return [agent.agent_id for agent in client.discover(name=name, status="all").agents]

    names = new(), new()
    with monkeypatch.context() as patched:
        patched.setattr(Place, "keep", die)
        assert "killed" in call("register", "--name", names[0]).failed(1).err
        with pytest.raises(RuntimeError, match="killed"):
            Link(names[1], relay=relay, identities=tmp_path).run()
    before = [ids(name) for name in names]
    assert [len(found) for found in before] == [1, 1]
    call("register", "--name", names[0]).ok()
    with Link(names[1], relay=relay, identities=tmp_path):
        pass
    assert [ids(name) for name in names] == before
    call("--as", names[0], "poll").ok()
    assert not list(tmp_path.rglob("*.begun"))


def test_eight_at_once_are_one_agent(relay: str, account: Path) -> None:
    name = new()
    started = [Popen([*COMMAND, "register", "--name", name, "--json"], stdout=subprocess.PIPE) for _ in range(8)]
    told = [json.loads(process.communicate(timeout=PATIENCE)[0]) for process in started]
    assert len({one["agent"]["agent_id"] for one in told}) == 1
    assert sorted(one["resumed"] for one in told) == [False] + [True] * 7
    assert len(list((account / ".clawlink" / "identities").iterdir())) == 1


def test_a_file_that_cannot_be_read_is_named(call: Run, relay: str, account: Path) -> None:
    name = new()
    call("register", "--name", name).ok()
    [file] = (account / ".clawlink" / "identities").glob("*.json")
    whole = file.read_bytes()
    for content in (b"", whole[:40], b"\xff\xfe" + whole, b"[]"):
        file.write_bytes(content)
        for command, code in (
            (["poll"], 1),
            (["register", "--name", name], 1),
            (["work", "--name", name, "--exec", "true"], 1),
            (["doctor"], 1),
            (["whoami"], 0),
        ):
            told = call(*command)
            assert told.code == code, (content, command, told)
            for part in (str(file), "no whole identity", "rm "):
                assert part in told.out + told.err, (content, command, told)
    file.write_bytes(b"\xef\xbb\xbf" + whole)
    call("poll").ok()
    call("doctor").ok()


@pytest.mark.skipif(os.name != "posix", reason="owners of POSIX")
def test_a_file_of_another_account_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identities = Identities(tmp_path)
    path = identities.save(Saved("ann", "a1", "http://127.0.0.1:9077"))

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    [told] = identities.unreadable()
    assert (told.path, told.why) == (path, "it belongs to another account")
    assert told.fix.endswith(f'sudo chown "$(id -un)" {path}')


@pytest.mark.skipif(os.name != "posix", reason="accounts of POSIX")
def test_without_a_home_only_what_keeps_an_identity_is_refused(relay: str) -> None:
    for command, code in ((["discover"], 0), (["info"], 0), (["register", "--name", new()], 1), (["poll"], 5)):
        script = (
            "import pathlib, sys\n"
            "def home(*_): raise RuntimeError('Could not determine home directory.')\n"
            "pathlib.Path.home = home\n"
            "from clawlink.cli.main import main\n"
            f"sys.exit(main({command!r}))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, (command, done)
        assert "defect" not in done.stderr, (command, done)
        assert code != 1 or "CLAWLINK_HOME" in done.stderr, (command, done)


def test_identities_on_two_relays_need_a_word(call: Run, own_relay: Relays, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = own_relay(), own_relay()
    call("--relay", one, "register", "--name", "ada").ok()
    call("--relay", two, "register", "--name", "bob").ok()
    for command in (["discover"], ["poll"], ["register", "--name", "cyd"], ["info"]):
        told = call(*command).failed(2).err
        for part in (one, two, "ada", "bob"):
            assert part in told, command
    assert "--relay URL" in call("register", "--name", "cyd").failed(2).err
    call("doctor").ok()
    call("discover", "--as", "bob").ok()
    call("discover", "--relay", two).ok()


def test_what_the_system_refuses_is_one_sentence() -> None:
    told = _local(OSError(28, "No space left on device; name another folder", "/x")).message
    assert told == "No space left on device (/x); name another folder"
