"""``clawlink portal setup`` shows or writes the files of a server; ``clawlink portal password`` mends a lost one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.cli import server_files
from clawlink.cli.main import main
from clawlink.doors.portal.cli import setup
from clawlink.server import options
from clawlink.server.keys import with_secrets
from tests.conftest import Start
from tests.doors.portal.conftest import Own, Portals
from tests.doors.portal.test_processes import Portal
from tests.operations import NAME, PAGE
from tests.ports import free_port
from tests.processes import Popen
from tests.waiting import eventually


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_page_of_operations_has_the_same_texts() -> None:
    page = PAGE.read_text("utf-8")
    pem, key = "/etc/clawlink/relay.pem", "/etc/clawlink/relay-key.pem"
    flags = f"--host 127.0.0.1 --allow-host {NAME} --trust-proxy 127.0.0.1 --log-json"
    for text in (
        server_files.nginx(NAME, certificate=pem, key=key, port=9077),
        server_files.caddy(NAME, certificate=pem, key=key, port=9077),
        server_files.unit(
            title="ClawLink relay",
            program="/opt/clawlink/bin/clawlink",
            flags=flags,
            environment="/etc/clawlink/relay.env",
            state="clawlink",
        ),
    ):
        assert text in page, text[:60]
        assert "@" not in text.replace("= @", "").replace("location @", ""), text


def test_it_shows_and_writes_what_a_server_needs(
    clawlink_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    words = ["portal", "setup", "--domain", "Me.Example.org", "--into", str(root), "--json"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert not root.exists()
    assert (shown["written"], len(shown["files"])) == (False, 3)
    assert main([*words, "--apply"]) == 0
    made = json.loads(capsys.readouterr().out)
    written = files_in(root)
    conf, unit = written["etc/nginx/conf.d/clawlink-portal.conf"], written["etc/systemd/system/clawlink-portal.service"]
    assert "server_name me.example.org;" in conf
    env = written["etc/clawlink/clawlink-portal.env"]
    assert f"AGENTP2P_API_KEY={made['owner_key']}\n" in env
    assert made["owner_key"] != shown["owner_key"]
    if os.name == "posix":
        assert (root / "etc/clawlink/clawlink-portal.env").stat().st_mode & 0o777 == 0o600
        assert (root / "etc/nginx/conf.d/clawlink-portal.conf").stat().st_mode & 0o777 == 0o644
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, _, flags = line.removeprefix("ExecStart=").partition(" serve ")
    assert program.endswith("-m clawlink")
    config = with_secrets(options.read(_parsed(shlex.split(flags)), {}), {"CLAWLINK_HOME": str(tmp_path / "h")})
    assert config.allow_hosts == ("me.example.org",)
    assert main([*words, "--apply"]) == 0, "a repeat changes nothing"
    assert json.loads(capsys.readouterr().out)["owner_key"] == made["owner_key"]
    assert files_in(root) == written
    (root / "etc/nginx/conf.d/clawlink-portal.conf").write_text("mine")
    assert main([*words, "--apply", "--port", "9100"]) == 1
    assert "is there with another text, and nothing was written" in capsys.readouterr().err
    assert files_in(root) == {**written, "etc/nginx/conf.d/clawlink-portal.conf": "mine"}
    assert main([*words, "--apply", "--proxy", "caddy"]) == 0
    caddy = files_in(root)["etc/caddy/conf.d/clawlink-portal.caddy"]
    assert "me.example.org {" in caddy
    assert "tls " not in caddy
    for wrong in ("0", "99999", "-1", "http", "080000"):
        capsys.readouterr()
        assert main([*words, f"--port={wrong}"]) == 2, wrong
        told = capsys.readouterr()
        said = f"argument --port: a port from 1 to 65535 is needed, not {wrong!r}; see: clawlink portal --help"
        assert (said in told.err, told.out) == (True, ""), told
    for wrong in ("https://me.example", "me example", "me.example;}", "localhost", "-x.example"):
        capsys.readouterr()
        assert main(["portal", "setup", f"--domain={wrong}"]) == 2, wrong
        assert f"--domain {wrong!r} is no name of a server" in capsys.readouterr().err
    for given, said in (([], "setup needs --domain NAME"), (["--domain="], "--domain is empty; give a value")):
        assert main(["portal", "setup", *given]) == 2, given
        assert said in capsys.readouterr().err


async def test_nginx_leaves_all_large_bodies_to_the_portal(portals: Portals) -> None:
    """It refused parts of files, attachments, photos and databases of more than 2 MB."""
    (conf, *_) = setup.files("me.example.org", server_files.NGINX, setup.first_keys(), port=9077)
    (large,) = re.findall(r"location ~ (\S+) \{\n[^}]*client_max_body_size 0;", conf.text)
    portal: Any = (await portals()).relay.app.doors["portal"]
    routes = [one for one, _ in portal.routes() if one.takes_bytes or one.name.startswith("file_chunk")]
    assert len(routes) >= 12, "with two slashes, too"
    for one in routes:
        path = one.url(**dict.fromkeys(re.findall(r"{(\w+)}", one.path), "1"))
        assert re.match(large, path), path
        assert re.match(large, path.replace("//", "/")), "as nginx compares it"
    for other in ("/api/message/receive", "/api/files", "/api/portal/filesystem", "/tasks"):
        assert re.match(large, other) is None, other


def test_a_time_to_live_has_a_range(capsys: pytest.CaptureFixture[str]) -> None:
    """Each message to a contact would have no date at which it ends."""
    for flag, text, told in (
        ("--portal-ttl", "1e300", "a number from 0 to 100000000000 is needed, not '1e300'"),
        ("--portal-ttl", "0", "it must be 1 or more seconds, not '0'; leave it out for 259200 seconds"),
        ("--portal-inbox-ttl", "0", "it must be 1 or more seconds, not '0'; leave it out for 2592000 seconds"),
    ):
        with pytest.raises(SystemExit):
            _parsed([flag, text])
        assert f"argument {flag}: {told}" in capsys.readouterr().err


def test_a_program_in_a_home_folder_is_told_to_move(tmp_path: Path) -> None:
    """The unit hides home folders, so systemd would find no program there."""
    for home in ("/home/me/venv/bin/python", str(Path("/", "root", "bin", "python"))):
        why, _, step = setup.program_moves(Path(home))
        assert home in why
        assert step.startswith("python3 -m venv /opt/clawlink")
    assert setup.program_moves(Path("/opt/clawlink/bin/no-such-python")) == []
    if os.name == "posix":
        (tmp_path / "python").symlink_to("/home/me/python/bin/python")
        assert setup.program_moves(tmp_path / "python"), "a virtual environment leads to the Python that made it"


@pytest.mark.skipif(sys.platform == "win32", reason="units are those of systemd")
async def test_the_unit_of_setup_starts_a_portal_for_this_machine_alone_from_its_own_modules(
    clawlink_home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Agent P2P did not start without pytz, started a module that was renamed, and listened on all addresses."""
    port, root = free_port(), tmp_path / "root"
    words = ["portal", "setup", "--domain", "me.example.org", "--port", str(port), "--into", str(root), "--apply"]
    assert main([*words, "--json"]) == 0
    key = json.loads(capsys.readouterr().out)["owner_key"]
    written = files_in(root)
    unit = written["etc/systemd/system/clawlink-portal.service"]
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in ("pytz", "tzdata", "tzlocal", "dateutil"):
        (absent / f"{name}.py").write_text("raise ImportError\n")
    env = dict(one.split("=", 1) for one in written["etc/clawlink/clawlink-portal.env"].splitlines())
    folders = {"CLAWLINK_HOME": str(tmp_path / "state"), "CLAWLINK_DATA": str(tmp_path / "state" / "data")}
    modules = {"PYTHONPATH": os.pathsep.join(filter(None, (str(absent), os.environ.get("PYTHONPATH"))))}
    process = Popen(
        shlex.split(line.removeprefix("ExecStart=")),
        env={**os.environ, **env, **folders, **modules},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Host": "me.example.org"}) as session:

            async def answers() -> bool:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get("/healthz") as answer:
                        return answer.status == 200
                return process.poll() is not None

            await eventually(answers)
            assert process.poll() is None
            async with session.post("/api/guest/leave-message", json={"content": "hello"}) as answer:
                assert answer.status == 200, await answer.text()
            async with session.get("/api/guest/messages", headers={"Authorization": f"Bearer {key}"}) as answer:
                (guest,) = (await answer.json())["messages"]
        assert guest["created_at"].endswith("+08:00"), "the time of Beijing, without a list of time zones"
        with pytest.raises(OSError, match=r"refused|timed out|assign"):
            socket.create_connection(("127.0.0.2", port), timeout=2)
    finally:
        process.kill()
        process.wait()


def _parsed(flags: list[str]) -> Any:
    parser = ArgumentParser()
    options.add_arguments(parser)
    return parser.parse_args(flags)


async def test_a_lost_password_is_set_anew_on_the_machine(
    start_relay: Start, session: Any, tmp_path: Path, clawlink_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    portal = Portal(start_relay, session, folder)
    words = ["portal", "password", "--data", str(folder)]
    assert await asyncio.to_thread(main, words) == 2
    assert not folder.exists()

    async def login(own: Own, password: str) -> int:
        return (await own.ask("POST", "/api/admin/login", {"password": password}, key=""))[0]

    portal.begin()
    assert await login(portal.own, "the password") == 200
    assert await asyncio.to_thread(main, words) == 1, "it runs"
    portal.kill()
    capsys.readouterr()
    assert await asyncio.to_thread(main, [*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["password"]
    portal.begin()  # with the first password in the environment
    assert [await login(portal.own, one) for one in (made, "the password")] == [200, 401]
    portal.kill()
    assert await asyncio.to_thread(main, [*words, "short"]) == 1
    assert await asyncio.to_thread(main, [*words, "long enough"]) == 0
