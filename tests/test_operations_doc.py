"""The flags, metrics and systemd units of references/operations.md are right. Its proxies are in tests/proxy."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from clawlink.cli.parser import everything
from tests.conftest import Serve, Start
from tests.operations import PAGE, block, replaced
from tests.waiting import PATIENCE

TEXT = PAGE.read_text("utf-8")


def test_every_flag_exists() -> None:
    verbs = next(action.choices for action in everything()._actions if isinstance(action.choices, dict))
    known = {flag for verb in verbs.values() for action in verb._actions for flag in action.option_strings}
    without_other_programs = re.sub(r"^.*(systemctl|openssl|pip install).*$", "", TEXT, flags=re.MULTILINE)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", without_other_programs)) <= known


async def test_every_metric_exists(serve: Serve) -> None:
    relay = await serve()
    async with relay.session.get(relay.url + "/metrics") as response:
        names = set(re.findall(r"^(clawlink_\w+)", await response.text(), re.MULTILINE))
    named = set(re.findall(r"(?<!/)\bclawlink_\w+", TEXT)) - {"clawlink_connection"}  # a variable of nginx
    assert named
    assert named <= names


async def test_the_unit_keeps_all_over_a_restart_in_its_state_directory(start_relay: Start, tmp_path: Path) -> None:
    unit = replaced(block("ini", "ExecStart"), {"/var/lib/clawlink": str(tmp_path / "state")})
    environment = dict(re.findall(r"^Environment=(\w+)=(.+)$", unit, re.MULTILINE))
    (command,) = re.findall(r"^ExecStart=\S+ serve (.+)$", unit, re.MULTILINE)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "private")  # as with DynamicUser
    for action, said in (("register", "registered"), ("heartbeat", "ok")):
        relay = start_relay(*shlex.split(command), env={**environment, "CLAWLINK_TOKEN": "t"})
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session,
            session.post(f"{relay.url}/{action}", json={"agent_id": "ada", "name": "ada"}) as reply,
        ):
            body = await reply.json()
        assert (reply.status, body["status"]) == (200, said)
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    unit = replaced(block("ini", "ExecStart"), {"/opt/clawlink/bin/clawlink": sys.executable})
    (tmp_path / "clawlink.service").write_text(unit)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "clawlink.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    # It also tells of units of the system that this one needs.
    said = [line for line in done.stderr.splitlines() if "clawlink.service" in line]
    assert (done.returncode, said) == (0, []), done.stderr
