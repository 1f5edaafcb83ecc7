"""Scripts of Agent P2P: where they run, which portal they use, and the authority that they trust."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from clawlink import portal as functions
from clawlink.cli.main import main
from clawlink.doors.portal.client import scripts
from clawlink.doors.portal.client.portal import authority, gateway, place
from clawlink.errors import BadRequest, RelayUnreachable
from tests.conftest import Start
from tests.doors.portal.conftest import OWNER, Peers, Portals
from tests.ports import free_port

DATA = Path(__file__).parents[3] / "data"
CERT = str(DATA / "tls-cert.pem")


async def test_the_scripts_take_the_flags_of_all_releases(
    portals: Portals, old_portals: Peers, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    monkeypatch.setenv("AGENTP2P_HUB_URL", portal.url)
    folder = tmp_path / "scripts"
    assert main(["portal", "install-scripts", str(folder)]) == 0
    assert main(["portal", "install-scripts", str(folder)]) == 0, "its own files it replaces"

    async def run(script: str, *words: str) -> tuple[int, str]:
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, str(folder / script), *words], capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    assert await run("send.py", "one", "--to-contact", "1") == (0, "消息发送完成\n")
    assert await run("client.py", "bob", "two") == (0, "消息发送完成\n")
    for words, code in (
        (["three", "--to-user", "1"], 0),
        (["four", "--to-portal", peer.url + "/"], 0),
        (["-m", "five", "-t", "bob"], 0),
        (["done", "--to-owner"], 0),
        (["--list"], 0),
        (["--contacts"], 0),
        (["six", "--to-contact", "99"], 1),
    ):
        assert await asyncio.to_thread(scripts.send, words) == code, words
    assert [one["content"] for one in peer.stored] == ["one", "two", "three", "four", "five"]
    newest = await asyncio.to_thread(lambda: scripts.AgentP2PClient().get_messages(peer.url, 1))
    assert [one["content"] for one in newest] == ["five"]
    path = tmp_path / "x.txt"
    path.write_text("a file")
    for words, code in (
        (["-f", str(path), "-t", "bob"], 0),
        (["-m", "seven", "-f", str(path), "-t", "1"], 0),
        (["-f", str(path), "--to-owner"], 1),
        (["-f", str(path)], 1),
        (["nobody"], 1),
        (["--to-contact", "1"], 1),
    ):
        assert await asyncio.to_thread(scripts.send, words) == code, words
    assert [one["filename"] for one in peer.files.known.values()] == ["x.txt", "x.txt"]
    assert peer.stored[-1]["content"] == "seven"
    assert await asyncio.to_thread(scripts.files, ["-f", str(path)]) == 1
    monkeypatch.delenv("AGENTP2P_HUB_URL")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert await asyncio.to_thread(scripts.send, ["--list"]) == 1, "no portal is named"
    (folder / "send.py").write_text("print('mine')")
    assert main(["portal", "install-scripts", str(folder)]) == 1
    assert (folder / "send.py").read_text() == "print('mine')"


def test_a_script_runs_by_any_python(tmp_path: Path) -> None:
    """Prompts say ``python3 send.py``, and ClawLink may be in an environment of its own."""
    folder = tmp_path / "scripts"
    assert main(["portal", "install-scripts", str(folder)]) == 0
    venv.create(tmp_path / "other", symlinks=os.name == "posix")
    other = tmp_path / "other" / ("bin/python" if os.name == "posix" else "Scripts/python.exe")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AGENTP2P"))}
    env = {**bare, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(other), *words], cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", timeout=60
        )
        return done.returncode, done.stderr

    for words in (["send.py", "--list"], ["client.py", "1", "a 'b' $c"], ["send_file.py", "-f", "x", "-t", "1"]):
        code, said = run(*words)
        assert code == 1
        assert said.startswith("no portal is named"), said
    assert run("start.py", "status") == (1, ""), "its words go to the output"
    code, said = run("-c", "import send")
    assert code == 1
    assert f"use {sys.executable}, or run 'clawlink portal install-scripts" in said


def test_the_place_is_read_from_one_source(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="AGENTP2P_HUB_URL"):
        place({}, home=tmp_path)
    (tmp_path / ".openclaw").mkdir()
    (tmp_path / ".openclaw" / "gateway.env").write_text(
        "# mine\nAGENTP2P_HUB_URL=https://Me.example/\nAGENTP2P_API_KEY = ap2p_$x=y \nOTHER\n", "utf-8"
    )
    for environ in ({}, {"AGENTP2P_HUB_URL": "https://other.example"}, {"AGENTP2P_API_KEY": "other"}):
        source = f"AGENTP2P_HUB_URL in {tmp_path / '.openclaw' / 'gateway.env'}"
        assert place(environ, home=tmp_path) == ("https://me.example", "ap2p_$x=y", source), environ
    both = {"AGENTP2P_HUB_URL": "https://other.example", "AGENTP2P_API_KEY": "k"}
    assert place(both, home=tmp_path) == ("https://other.example", "k", "AGENTP2P_HUB_URL")
    kept = place({}, home=tmp_path, at="https://at.example")
    assert kept == ("https://at.example", "ap2p_$x=y", "--at"), "the flag goes first"
    assert place(both, home=tmp_path, at="https://at.example") == ("https://at.example", "k", "--at")
    assert place({"AGENTP2P_API_KEY": "other"}, home=tmp_path, at="https://at.example").key == "other"
    assert place(both, home=tmp_path, key="given") == ("https://other.example", "given", "AGENTP2P_HUB_URL")
    with pytest.raises(BadRequest, match="not 'ftp:"):
        place(both, home=tmp_path, at="ftp://at.example")
    assert gateway("#A=1\n\nB=2=3\n") == {"B": "2=3"}


def test_the_authority_is_that_of_the_flag_the_environment_or_the_gateway(tmp_path: Path) -> None:
    assert authority(None, {}, home=tmp_path) is None
    (tmp_path / ".openclaw").mkdir()
    kept = tmp_path / ".openclaw" / "gateway.env"
    kept.write_text("CLAWLINK_CA=/none\n")
    for given, environ in ((CERT, {}), (None, {"CLAWLINK_CA": CERT}), (CERT, {"CLAWLINK_CA": "/none"})):
        assert authority(given, environ, home=tmp_path) == CERT
    with pytest.raises(BadRequest, match="/none cannot be trusted: No such file"):
        authority(None, {}, home=tmp_path)
    kept.write_text(f"CLAWLINK_CA={CERT}\n")
    assert authority(None, {}, home=tmp_path) == CERT
    with pytest.raises(BadRequest, match="is no certificate in PEM format; give --ca or CLAWLINK_CA"):
        authority(__file__, {}, home=tmp_path)


async def test_commands_functions_and_scripts_trust_the_authority_of_the_environment(
    start_relay: Start, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment is all that an agent which runs ``send.py`` can set."""
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    keys = {"AGENTP2P_API_KEY": OWNER, "CLAWLINK_PORTAL_PASSWORD": "the password"}
    files = ("--tls-cert", CERT, "--tls-key", str(DATA / "tls-key.pem"))
    start_relay("--portal", url, "--port", str(port), *files, env=keys)
    for name, value in (("AGENTP2P_HUB_URL", url), ("AGENTP2P_API_KEY", OWNER)):
        monkeypatch.setenv(name, value)
    uses = (
        lambda: main(["portal", "contacts"]),
        lambda: scripts.send(["done", "--to-owner"]),
        lambda: len(functions.get_contacts()),
    )
    for use in uses[:2]:
        assert await asyncio.to_thread(use) != 0
        assert "name its authority with --ca or CLAWLINK_CA" in capsys.readouterr().err
    with pytest.raises(RelayUnreachable, match="CLAWLINK_CA"):
        await asyncio.to_thread(functions.get_contacts)
    monkeypatch.setenv("CLAWLINK_CA", CERT)
    for use in uses:
        assert await asyncio.to_thread(use) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert await asyncio.to_thread(main, ["portal", "chat", "--timeout", "1"]) == 0
    told = capsys.readouterr()
    assert ("done" in told.out, told.err) == (True, ""), "what follows the chat trusts it, too"
    monkeypatch.setenv("CLAWLINK_CA", str(DATA / "none.pem"))
    for action in ("contacts", "bridge"):
        assert await asyncio.to_thread(main, ["portal", action]) == 2
        assert "none.pem cannot be trusted" in capsys.readouterr().err
