"""A relay's own secrets are made once and kept where only its owner may read them."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest

from clawlink.config import ServerConfig, folder_of
from clawlink.server.keys import keep, noted, with_secrets
from tests.ports import free_port
from tests.processes import run
from tests.waiting import PATIENCE

EVERYWHERE = ["0.0.0.0", "::", "192.168.1.5", "relay.example", "127.example.org", "10.0.0.1"]


def settled(home: Path, **config: object) -> ServerConfig:
    """Settle the secrets of a relay on port 9077 in this home."""
    return with_secrets(ServerConfig(**{"port": 9077, **config}), {"CLAWLINK_HOME": str(home)})  # type: ignore[arg-type]


def test_where_others_can_reach_it_a_token_is_made_and_kept(tmp_path: Path) -> None:
    for host in EVERYWHERE:
        home = tmp_path / host.replace(":", "x")
        first, second = settled(home, host=host), settled(home, host=host)
        assert first.token is not None, host
        assert len(first.token) >= 32, host
        assert (second.token, second.secret, second.kept) == (first.token, first.secret, home / "relays" / "9077"), host
        assert settled(home, host=host, port=9078).token != first.token, host
        assert settled(home, host=host, token="mine").token == "mine", host
        assert settled(home, host=host, no_auth=True).token is None, host
        renewed = settled(home, host=host, new_token=True)
        assert renewed.token not in (None, first.token), host
        assert renewed.secret == first.secret, host  # it is the same relay
        assert settled(home, host=host).token == renewed.token, host


def test_on_loopback_no_token_is_made_but_the_relay_stays_itself(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        first, second = settled(tmp_path, host=host), settled(tmp_path, host=host)
        assert (first.token, first.kept) == (None, None), host
        assert first.secret == second.secret is not None, host


def test_a_data_folder_keeps_the_token_that_its_relay_was_given(tmp_path: Path) -> None:
    """A relay that had a token does not run without one after a restart, on loopback too."""
    data = str(tmp_path / "data")
    for token in ("mine", "anöther"):
        assert settled(tmp_path, data=data, token=token).kept is None, token
        for host in ("127.0.0.1", "0.0.0.0"):
            again = settled(tmp_path, data=data, host=host)
            assert (again.token, again.kept, again.operated_locally) == (token, Path(data), False), (token, host)
            assert again.admin_token is not None, (token, host)
    assert settled(tmp_path, data=data, no_auth=True).token is None
    assert settled(tmp_path, data=data).token == "anöther", "without a token is for one start alone"
    with pytest.raises(ValueError, match=r"--admin-token must be another than the token in .*data"):
        settled(tmp_path, data=data, admin_token="anöther")
    assert settled(tmp_path, data=str(tmp_path / "other")).token is None
    assert settled(tmp_path, token="mine").token == "mine"
    assert not (folder_of(9077, {"CLAWLINK_HOME": str(tmp_path)}) / "token").exists(), "only a data folder keeps it"


def test_a_folder_whose_token_cannot_be_kept_or_read_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, token = str(tmp_path / "data"), tmp_path / "data" / "token"
    (token / "in the way").mkdir(parents=True)
    found = settled(tmp_path, data=data, token="mine")
    assert (found.token, found.secret is not None) == ("mine", True)
    assert "cannot be kept in the data folder, so give it at each start" in caplog.text
    sentence = r"cannot be read \(.+\): set CLAWLINK_TOKEN, or give --no-auth"
    with pytest.raises(ValueError, match=sentence):
        settled(tmp_path, data=data)
    (token / "in the way").rmdir()
    token.rmdir()
    token.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=sentence):
        settled(tmp_path, data=data)
    assert settled(tmp_path, data=data, no_auth=True).token is None


def test_a_relay_that_goes_over_to_a_folder_takes_its_secrets_along(tmp_path: Path) -> None:
    """Its agents and clients notice nothing: it is the relay of before, with the token of before."""
    everywhere, data = {"host": "0.0.0.0"}, str(tmp_path / "data")
    before = settled(tmp_path, **everywhere)
    with_folder = settled(tmp_path, data=data, **everywhere)
    assert with_folder.kept == Path(data)
    for found in (with_folder, settled(tmp_path / "elsewhere", data=data, **everywhere)):
        assert (found.secret, found.token, found.admin_token) == (before.secret, before.token, before.admin_token)
    for other in ({"port": 9078}, {"port": 0}, {"new_token": True}):
        found = settled(tmp_path, data=str(tmp_path / str(other)), **everywhere, **other)
        assert found.token not in (None, before.token), other


def test_secrets_are_for_their_owner_alone_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    folder = folder_of(9077, {"CLAWLINK_HOME": str(tmp_path)})
    token = keep(folder, "token")
    path = folder / "token"
    assert [entry.name for entry in folder.iterdir()] == ["token"]
    if os.name == "posix":
        assert [stat.S_IMODE(entry.stat().st_mode) for entry in (folder, path)] == [0o700, 0o600]
        path.chmod(0o644)
        assert keep(folder, "token") == token
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for damaged in (b"", b"\n", b"\xff\xfe"):
        path.write_bytes(damaged)
        made = keep(folder, "token")
        assert len(made) >= 32, damaged
        assert keep(folder, "token") == made, damaged


def test_without_a_home_a_token_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ValueError, match="set CLAWLINK_TOKEN, or CLAWLINK_HOME"):
        settled(blocked, host="0.0.0.0")
    assert settled(blocked, host="0.0.0.0", token="mine").token == "mine"
    assert settled(blocked, host="127.0.0.1").secret is None
    assert settled(blocked, host="0.0.0.0", port=0).token is not None

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ValueError, match=r"Could not determine home.*set CLAWLINK_TOKEN"):
        with_secrets(ServerConfig(host="0.0.0.0"), {})


def test_a_start_without_a_home_ends_with_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "clawlink.server", "--host", "0.0.0.0", "--port", str(free_port()), "--no-mdns"]
    home = {"CLAWLINK_HOME": str(tmp_path / "file")}
    done = run(command, text=True, timeout=PATIENCE, env={**os.environ, **home})
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"clawlink: this relay asks for a token, and none can be kept in its home folder \(.+\): "
        r"set CLAWLINK_TOKEN, or CLAWLINK_HOME to a folder that it may write to",
        sentence,
    ), sentence


def test_commands_find_the_data_folder_of_a_relay_by_its_port(tmp_path: Path) -> None:
    """A port that the system chose stands for the relay only while it runs."""
    data, environ = tmp_path / "data", {"CLAWLINK_HOME": str(tmp_path)}

    def note(port: int) -> Path:
        return folder_of(port, environ) / "data-folder"

    fixed = settled(tmp_path, token="t", data=str(data))
    with noted(fixed, 9077, environ):
        assert Path(os.fsdecode(note(9077).read_bytes())) == data.resolve()
    assert note(9077).is_file()
    chosen = settled(tmp_path, token="t", data=str(data), port=0)
    with noted(chosen, 4711, environ):
        assert Path(os.fsdecode(note(4711).read_bytes())) == data.resolve()
    assert not note(4711).parent.exists()
    assert not note(0).parent.exists()
    with noted(chosen, 4711, environ):  # the next relay begins on its port before it is gone
        note(4711).write_bytes(b"/other")
    assert note(4711).read_bytes() == b"/other"
