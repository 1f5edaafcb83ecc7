"""The configurations of references/nodes.md are right. Its nginx is in tests/proxy."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from clawlink.cli.parser import parse
from clawlink.config import ServerConfig
from clawlink.relay.timestamps import steady_clock
from clawlink.server import options
from clawlink.store.valkey.mesh import Mesh
from clawlink.store.valkey.server import StoreError
from tests import valkey
from tests.operations import replaced

PAGE = Path(__file__).parent.parent / "references" / "nodes.md"
TEXT = PAGE.read_text("utf-8")


def block(language: str, word: str = "") -> str:
    """Return the page's only block of a language, or the one with a word in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    (found,) = (one for one in blocks if word in one)
    return str(found)


def configured(command: str, blobs: Path, **environment: str) -> ServerConfig:
    """Return what ``clawlink serve`` makes of a command line."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    words = shlex.split(command)
    if "--blobs" in words:
        words[words.index("--blobs") + 1] = str(blobs)
    return options.read(parser.parse_args(words[words.index("serve") + 1 :]), environment)


async def test_two_relays_to_try_with_share_a_server_that_loses_nothing(tmp_path: Path) -> None:
    server, variables, relays, ready, *agents = block("bash").splitlines()
    environment = dict(word.split("=") for word in shlex.split(variables)[1:])
    configs = [configured(one, tmp_path, **environment) for one in relays.split("&")[:-1]]
    assert {config.store for config in configs} == {environment["CLAWLINK_STORE"]}
    ports = {config.port for config in configs}
    assert len(ports) == 2
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)/readyz", ready)) == set(map(str, ports))
    commands = [shlex.split(command)[1:] for line in agents for command in line.split(" && ")]
    told = [parse(words)[1] for words in commands]
    assert {int(args.relay.rpartition(":")[2]) for args in told if args.relay} == ports
    assert [words[0] for words in commands if "--relay" not in words] == ["send", "poll"]
    program, *flags = shlex.split(server.removesuffix(' --dir "$(mktemp -d)" >/dev/null &'))
    assert program == "valkey-server"
    at = flags.index("--port")
    assert environment["CLAWLINK_STORE"].endswith(f":{flags[at + 1]}")
    if valkey.program() is None:
        pytest.skip("there is no valkey-server here")
    with valkey.running(*flags[:at], *flags[at + 2 :]) as running:
        mesh = await Mesh.open(running.patient_url, steady=steady_clock())
        assert mesh.warnings == []
        await mesh.close()


@pytest.mark.skipif(valkey.program() is None, reason="there is no valkey-server here")
async def test_the_server_of_three_nodes_asks_for_its_password_and_loses_nothing(tmp_path: Path) -> None:
    """The server of the tests may have no TLS: ``tests/store/test_primary.py`` has a server behind TLS."""
    settings = dict(line.split(" ", 1) for line in block("conf").splitlines())
    (address,) = re.findall(r"rediss://[^\"]+", TEXT)
    url, options = address.split("?")
    assert url.endswith(f"@{settings.pop('bind')}:{settings['tls-port']}")
    assert options.startswith("ssl_ca_certs=")
    assert (settings.pop("port"), settings.pop("dir"), settings.pop("save")) == ("0", "/var/lib/valkey", '""')
    flags = [word for name, value in settings.items() if not name.startswith("tls-") for word in (f"--{name}", value)]
    flags.remove("--requirepass")
    flags.remove(settings["requirepass"])
    with valkey.running(*flags) as server:
        server.ask("CONFIG", "SET", "requirepass", settings["requirepass"])
        reached = server.patient_url.replace("redis://", "redis://:PASSWORD@")
        mesh = await Mesh.open(reached, steady=steady_clock())
        assert mesh.warnings == []
        await mesh.close()
        with pytest.raises(StoreError, match="invalid username-password pair"):
            await Mesh.open(reached.replace("PASSWORD", "another"), steady=steady_clock())


def test_the_unit_starts_a_node_of_a_mesh(tmp_path: Path) -> None:
    unit = block("ini")
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    told = configured(command.replace("%i", "10.0.0.1"), tmp_path, CLAWLINK_STORE="rediss://:s@h", CLAWLINK_TOKEN="t")
    assert (told.host, told.store, told.data) == ("10.0.0.1", "rediss://:s@h", None)
    shown = re.findall(r"CLAWLINK_[A-Z]+=", TEXT)
    assert {f"CLAWLINK_{name}=" for name in ("TOKEN", "STORE")} <= set(shown)
    if shutil.which("systemd-analyze") is None:
        return
    (tmp_path / "clawlink@.service").write_text(replaced(unit, {"/opt/clawlink/bin/clawlink": sys.executable}))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "clawlink@.service")], capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if "clawlink@" in line and "User" not in line] == []


async def test_the_compose_file_runs_three_relays_over_a_server_that_loses_nothing(tmp_path: Path) -> None:
    compose: dict[str, Any] = yaml.safe_load(block("yaml"))
    services = compose["services"]
    relays = [name for name in services if name.startswith("relay")]
    assert len(relays) == 3
    for name in relays:
        relay = services[name]
        told = configured(
            relay["command"], tmp_path, CLAWLINK_TOKEN="t", CLAWLINK_STORE=relay["environment"]["CLAWLINK_STORE"]
        )
        assert told.store == "redis://valkey:6379"
        (subnet,) = told.trust_proxies
        assert str(subnet) == compose["networks"]["default"]["ipam"]["config"][0]["subnet"]
        assert relay["build"]["dockerfile_inline"].startswith("FROM python:3.")
        assert set(relay["depends_on"]) <= set(services)
        (place,) = (network["ipv4_address"] for network in relay["networks"].values())
        assert ip_address(place) in ip_network(subnet)
        assert f"{place}:9077" in TEXT
    assert set(services["nginx"]["depends_on"]) == set(relays)
    named = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert set(compose["volumes"]) == {name for name in named if not name.startswith((".", "/"))}
    server, *flags = shlex.split(services["valkey"]["command"])
    assert server == "valkey-server"
    if valkey.program() is None:
        pytest.skip("there is no valkey-server here")
    with valkey.running(*flags) as running:
        mesh = await Mesh.open(running.patient_url, steady=steady_clock())
        assert mesh.server
        assert running.ask("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"always"]
        await mesh.close()
