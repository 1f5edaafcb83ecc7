"""Shared files, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawlink.cli.output import Output
from clawlink.client.sync import Client
from tests.cli.conftest import Run

Fresh = Callable[[str], str]
CONTENTS = {
    "text": "Grüße\n".encode(),
    "crlf": b"a\r\nb\r\n",
    "empty": b"",
    "bytes": bytes(range(256)),
    "no line end": b"x",
}


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("by", ["path", "pipe"])
def test_bytes_come_back_as_they_went(
    run: Run, call: Run, me: str, fresh: Fresh, tmp_path: Path, content: bytes, by: str
) -> None:
    key = fresh("dir/100% of ü?#")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    if by == "path":
        assert "version 1" in call("file-put", "--key", key, "--file", str(source)).ok().out
        assert "Wrote" in call("file-get", "--key", key, "--output", str(target)).ok().out
        assert target.read_bytes() == content
    else:
        run("file-put", "--key", key, "--file", "-", stdin=content).ok()
        assert run("file-get", "--key", key).ok().raw == content
        assert run("file-get", "--key", key, "--output", "-").ok().raw == content


def test_with_json_text_is_text_and_bytes_are_base64(call: Run, me: str, fresh: Fresh, tmp_path: Path) -> None:
    key = fresh("key")
    saved = call("file-put", "--key", key, "--file", "-", "--json", stdin=b"text").ok().json
    sha256 = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert saved == {"status": "saved", "version": 1, "file_key": key, "size": 4, "sha256": sha256, "readers": None}
    read = call("file-get", "--key", key, "--json").ok().json
    assert (read["content"], read["encoding"], read["file_type"], read["size"]) == ("text", "utf-8", "text", 4)
    call("file-put", "--key", key, "--file", "-", stdin=b"\xff").ok()
    read = call("file-get", "--key", key, "--json").ok().json
    assert (read["content"], read["encoding"], read["file_type"]) == ("/w==", "base64", "binary")
    target = tmp_path / "target"
    read = call("file-get", "--key", key, "--json", "--output", str(target)).ok().json
    assert (read["output"], "content" in read) == (str(target), False)


def test_a_version_that_has_moved_on_is_a_conflict(call: Run, me: str, fresh: Fresh) -> None:
    key = fresh("key")
    put = ["file-put", "--key", key, "--file", "-"]
    call(*put, "--if-version", "0").ok()
    call(*put, "--if-version", "0").failed(7)
    call(*put, "--if-version", "1", "--type", "note").ok()
    assert "version 2" in call(*put, "--if-version", "1").failed(7).err
    call("file-rm", "--key", key, "--if-version", "1").failed(7)
    assert call("file-rm", "--key", key, "--if-version", "2", "--json").ok().json["version"] >= 2


def test_list_and_remove(run: Run, call: Run, me: str, fresh: Fresh) -> None:
    key = fresh("listed")
    call("file-put", "--key", key, "--file", "-", "--type", "note", stdin=b"x" * 2048).ok()
    shown = run("file-list").ok().out
    [line] = [line for line in shown.splitlines() if line.startswith(key)]
    assert "note" in line
    assert "2 KiB" in line
    listed = run("file-list", "--json").ok().json
    assert key in [file["file_key"] for file in listed["files"]]
    assert listed["count"] == len(listed["files"])
    assert run("file-rm", "--key", key).ok().out.startswith(f"Deleted {key}")
    assert key not in call("file-list").ok().out


def test_no_files(call: Run, own_relay: Callable[..., str]) -> None:
    assert call("--relay", own_relay(), "file-list").ok().out == "No shared files.\n"


def test_a_long_list_is_read_to_its_end(call: Run, me: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawlink.domain.limits.MAX_LIST_LENGTH", 1)
    keys = [fresh("page") for _ in range(3)]
    for key in keys:
        call("file-put", "--key", key, "--file", "-").ok()
    listed = [file["file_key"] for file in call("file-list", "--json").ok().json["files"]]
    assert set(keys) <= set(listed)


def test_reading_needs_no_identity(call: Run, peer: Client, fresh: Fresh) -> None:
    key = fresh("key")
    peer.put_file(key, "for all")
    assert call("file-get", "--key", key).ok().raw == b"for all"
    assert key in call("file-list").ok().out


def test_a_file_that_is_too_large_names_the_limit(
    call: Run, own_relay: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_RELAY", own_relay("--max-file-bytes", "2000000"))
    call("register", "--name", "me").ok()
    big = tmp_path / "big"
    big.write_bytes(b"x" * (3 << 20))
    assert "2000000 bytes" in call("file-put", "--key", "big", "--file", str(big)).failed(8).err
    assert "2000000 bytes" in call("file-put", "--key", "big", "--file", "-", stdin=b"x" * (3 << 20)).failed(8).err


def test_a_file_that_is_too_large_names_each_flag_that_refuses_it(
    call: Run, own_relay: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWLINK_RELAY", own_relay("--max-file-bytes", "200000000", "--max-files-bytes", "40000000"))
    call("register", "--name", "me").ok()
    with (tmp_path / "big").open("wb") as big:
        big.truncate(50_000_000)
    told = call("file-put", "--key", "big", "--file", str(tmp_path / "big")).failed(8).err
    assert "a file may have 40000000 bytes at this relay" in told
    assert told.strip().endswith("with a higher --max-files-bytes")
    with (tmp_path / "big").open("wb") as big:
        big.truncate(250_000_000)
    told = call("file-put", "--key", "big", "--file", str(tmp_path / "big")).failed(8).err
    assert told.strip().endswith("with a higher --max-file-bytes and --max-files-bytes")


def test_the_content_of_a_file_never_acts_on_a_terminal(
    call: Run, peer: Client, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fresh("key")
    peer.put_file(key, "\x1b[2Jgone\nnext\n")
    monkeypatch.setattr("clawlink.cli.output.Output.__init__", _terminal)
    assert call("file-get", "--key", key).ok().out.splitlines() == ["│ ␛[2Jgone", "│ next"]
    peer.put_file(key, b"\xff")
    assert "--output PATH" in call("file-get", "--key", key).failed(2).err


_MAKE: Any = Output.__init__


def _terminal(self: object, stream: object) -> None:
    """Stand in for ``Output.__init__``: the stream is a terminal."""
    _MAKE(self, stream)
    self.__dict__.update(bar="│ ", terminal=True)
