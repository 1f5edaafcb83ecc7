"""Locks, versions, differences, and waiting for the next version."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Run
from tests.tables import each
from tests.waiting import PATIENCE

Fresh = Callable[[str], str]


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


def test_a_lock_is_seen_by_all_and_keeps_others_out(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("locked")
    peer.put_file(key, "one")
    peer.lock_file(key, seconds=300, note="until five\x1b[2J")
    [line] = [line for line in call("file-list").ok().out.splitlines() if line.startswith(key)]
    assert 'locked by "peer-' in line
    assert 'until five␛[2J"' in line
    assert "until five" in call("file-history", key).ok().out
    for command in (["file-put", key, "--file", "-"], ["file-rm", key], ["file-unlock", key], ["file-lock", key]):
        refused = call(*command, stdin=b"two").failed(7).err
        assert "is locked by 'peer-" in refused
        assert "\x1b" not in refused
    call("file-put", key, "--file", "-", "--force", stdin=b"two").ok()
    call("file-unlock", key, "--force").ok()
    call("file-rm", key).ok()


def test_a_lock_of_mine(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("mine")
    done = call("file-lock", key, "--for", "10m", "--note", "mine").ok()
    assert "for 10 min" in done.out
    assert f"clawlink file unlock --key {key}" in done.out
    call("file-put", key, "--file", "-", stdin=b"x").ok()
    told = call("file-lock", key, "--for", "90", "--json").ok().json
    assert (told["status"], told["file_key"], told["note"]) == ("locked", key, None)
    assert "No agent" in call("file-unlock", key).ok().out
    assert call("file-unlock", key, "--json").ok().json == {"status": "unlocked", "file_key": key}
    peer.put_file(key, "theirs")


@each("span", ["0", "2d", "soon"])
def test_a_lock_has_an_end(call: Run, me: str, span: str) -> None:
    assert "24 hours" in call("file-lock", "k", "--for", span).failed(2).err or span == "soon"


def test_the_versions_that_are_kept(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("versions")
    for number in range(12):
        peer.put_file(key, f"{number}")
    shown = call("file-history", key).ok().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == [str(number) for number in range(12, 2, -1)]
    told = call("file-history", key, "--json").ok().json
    assert (told["version"], len(told["versions"])) == (12, 10)
    call("file-history", fresh("nothing")).failed(5)


def test_what_changed_is_shown_as_diff_does(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("dir/diff")
    for text in ("a\nb\n", "a\nB\n", "a\nB\nc"):
        peer.put_file(key, text)
    assert "\n-b\n+B\n" in call("file-diff", key, "1", "2").ok().out
    assert call("file-diff", key).ok().out.endswith("\n a\n B\n+c\n\\ No newline at end of file\n")
    assert "\n-b\n+B\n+c\n" in call("file-diff", "--key", key, "1").ok().out
    assert "\n+b\n" in call("file-diff", key, "2", "1").ok().out
    assert call("file-diff", key, "2", "2").ok().out.endswith("are the same.\n")
    told = call("file-diff", key, "1", "2", "--json").ok().json
    assert (told["from"], told["to"], told["same"], told["binary"]) == (1, 2, False, False)
    assert "+B" in told["diff"]
    call("file-diff", key, "1", "9").failed(5)
    assert "numbers" in call("file-diff", key, "one").failed(2).err
    assert "at most two" in call("file-diff", key, "1", "2", "3").failed(2).err
    assert "at most two" in call("file-diff").failed(2).err
    missing = fresh("missing")
    assert f"there is no file '{missing}'; see which there are" in call("file-diff", missing).failed(5).err
    only = fresh("only")
    peer.put_file(only, "x")
    lonely = call("file-diff", only).failed(5).err
    assert "nothing to compare" in lonely
    assert f"see which there are: clawlink file history --key {only}" in lonely


def test_a_diff_in_a_pipe_can_be_applied(run: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("patch")
    texts = ("one\ntwo\x1b[31m\nthree\r\n", "one\n2\x1b[31m\nthree\r\nfour\n")
    for text in texts:
        peer.put_file(key, text)
    raw = run("file-diff", key).ok().raw
    assert b"-two\x1b[31m\n+2\x1b[31m\n three\r\n+four\n" in raw


def test_on_a_terminal_a_diff_is_in_colours_and_harmless(
    call: Run, me: str, peer: Client, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fresh("evil")
    peer.put_file(key, "a\n")
    peer.put_file(key, "\x1b[2Jb\n")
    shown: list[tuple[str, str | None]] = []
    monkeypatch.setattr("clawlink.cli.output.Output.__init__", _terminal)
    monkeypatch.setattr(
        "clawlink.cli.output.Output.line", lambda self, text="", style=None: shown.append((text, style))
    )
    call("file-diff", key).ok()
    assert ("-a", "red") in shown
    assert ("+␛[2Jb", "green") in shown


def _terminal(self: object, stream: object) -> None:
    """Stand in for ``Output.__init__``: the stream is a terminal."""
    self.__dict__.update(_stream=stream, bar="│ ", terminal=True)


def test_bytes_are_not_shown_as_lines(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("bytes")
    peer.put_file(key, b"a\x00")
    peer.put_file(key, b"\xff")
    assert "not both text" in call("file-diff", key).ok().out
    assert call("file-diff", key, "--json").ok().json["diff"] is None


def test_what_only_one_may_read_is_not_read_for_a_comparison(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("once")
    peer.put_blob(key, b"x", burn=True)
    assert "gone once it is read" in call("file-diff", key, "1", "1").failed(2).err
    assert peer.stat_blob(key).size == 1


def test_a_file_that_is_not_there_is_named(call: Run, me: str) -> None:
    for verb in ("get", "rm", "history"):
        told = call("file", verb, "nope").failed(5).err
        assert "there is no file 'nope'" in told
        assert "see which there are: clawlink file list" in told


def test_a_folder_is_read_into_a_folder(
    call: Run, me: str, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("x")
    key = fresh("site")
    told = call("file", "put", key, str(tmp_path / "site")).ok().out
    [read] = [line.partition("clawlink ")[2] for line in told.splitlines() if line.startswith("  read:")]
    assert read == f"file get --key {key} --output {key}/"
    monkeypatch.chdir(tmp_path)
    call(*read.split()).ok()
    assert (tmp_path / key / "index.html").read_text() == "x"


def test_the_next_version_is_waited_for_and_told(relay: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("watched")
    peer.put_file(key, "one")
    watch = [*COMMAND, "file-watch", key, "--since", "1", "--timeout", "30"]
    process = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(1.0, lambda: peer.put_file(key, "two"))
    timer.start()
    out, _ = process.communicate(timeout=PATIENCE)
    timer.join()
    assert process.returncode == 0
    assert out.startswith(f"{key} is at version 2, 3 bytes.\n")
    assert f"clawlink file get --key {key}" in out
    assert f"clawlink file diff --key {key}" in out


def test_a_version_that_is_there_already_is_not_waited_for(call: Run, relay: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("watched")
    peer.put_file(key, "one")
    assert "is at version 1" in call("file-watch", key, "--since", "0").ok().out
    assert call("file-watch", key, "--since", "7", "--json").ok().json["version"] == 1
    peer.delete_file(key)
    assert "was deleted" in call("file-watch", key, "--since", "1").ok().out
    over = call("file-watch", key, "--timeout", "0.3")
    assert (over.code, "still not there after 0.3 s" in over.err) == (6, True)


def test_a_file_is_got_to_where_the_flags_are_in_any_order(call: Run, me: str, fresh: Fresh, tmp_path: Path) -> None:
    key = fresh("order")
    (tmp_path / "x").write_bytes(b"x")
    call("file-put", "--file", str(tmp_path / "x"), key, "--force").ok()
    call("file-get", "--output", str(tmp_path / "y"), key, "--json").ok()
    call("file-lock", "--for", "1m", key).ok()


def test_a_deletion_names_the_version_that_was_there(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("removed")
    for number in range(3):
        peer.put_file(key, f"{number}")
    assert call("file-rm", key).ok().out == f"Deleted {key}, which was at version 3.\n"


def test_a_refusal_names_the_flag(call: Run, me: str, peer: Client, fresh: Fresh) -> None:
    key = fresh("flags")
    peer.put_file(key, "one")
    for name, version, said in (
        (key, "0", "is at version 1, and --if-version asks for none; read it, merge, and write with --if-version 1"),
        (key, "3", "is at version 1, and --if-version asks for another; read it, merge, and write with --if-version 1"),
        (fresh("none"), "3", "and --if-version asks for a version of it; to make the file write with --if-version 0"),
    ):
        refused = call("file-put", name, "--file", "-", "--if-version", version).failed(7).err
        assert said in refused, (name, version)
        assert "Match" not in refused, (name, version)
    peer.lock_file(key)
    for verb in (["file-put", key, "--file", "-"], ["file-rm", key], ["file-unlock", key], ["file-lock", key]):
        assert "--force" in call(*verb).failed(7).err
    assert "Locked" in call("file-lock", key, "--force").ok().out
    lock = peer.file_history(key).lock
    assert lock is not None
    assert lock.holder != peer.agent_id


@each("span", ["0", "400d", "soon"])
def test_how_long_a_file_is_kept_is_checked_at_once(call: Run, relay: str, span: str) -> None:
    refused = call("file-put", "k", "--file", "-", "--ttl", span).failed(2).err
    assert "--ttl" in refused
    assert "365 days" in refused or span == "soon"


def test_what_begins_with_a_dash_is_shown_as_it_has_to_be_typed(call: Run) -> None:
    assert "--key=-dash.txt or --file=-dash.txt" in call("file-put", "-dash.txt").failed(2).err
    assert "'--file=-$a'" in call("file-put", "k", "--file", "-$a").failed(2).err
    assert "--key=-dash.txt" in call("file-rm", "-dash.txt").failed(2).err
    assert "join" not in call("file-put", "k", "--no-such-flag").failed(2).err
    assert "join" not in call("poll", "-x").failed(2).err


def test_a_file_is_put_under_its_own_name(
    call: Run, me: str, peer: Client, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = fresh("réport نام 🙂"), fresh("site")
    (tmp_path / name).write_bytes(b"what we found")
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for version, words in enumerate(([name], [str(tmp_path / name)], ["--file", name], [f"{folder}/../{name}"]), 1):
        assert call("file", "put", *words).ok().out.startswith(f"Saved {name}, version {version}, ")
    assert peer.get_file(name).content == b"what we found"
    assert f"Saved {folder}, version 1" in call("file", "put", f"./{folder}/").ok().out
    assert "has no name for a key; give it as: clawlink file put KEY PATH" in call("file", "put", "-").failed(2).err
    refused = call("file", "put", "docs/none.md").failed(2).err
    assert "there is no file 'docs/none.md' here; to share a file under this key, give it as: clawlink" in refused
    assert "has no name that can be a key" in call("file", "put", os.path.abspath(os.sep)).failed(2).err
