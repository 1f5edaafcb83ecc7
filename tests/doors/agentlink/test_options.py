"""The settings of a relay for Agent Link."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from clawlink.config import ServerConfig
from clawlink.doors.agentlink import DOOR, Settings
from clawlink.doors.registry import settings_of
from clawlink.server import options
from clawlink.server.banner import banner
from tests.tables import each


def config(*argv: str, **environ: str) -> ServerConfig:
    """Return what these flags and these variables say."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.read(parser.parse_args(argv), environ)


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "relay-config.json"
    file.write_text('{"port": 8765, "secret": "s", "registered_instances": [{"instance_id": "a"}]}')
    return str(file)


def test_the_door_is_closed_unless_it_is_asked_for(path: str) -> None:
    assert settings_of(DOOR, config()) == Settings()
    assert settings_of(DOOR, config("--agentlink-config", path)) == Settings(config=path)
    assert settings_of(DOOR, config(CLAWLINK_AGENTLINK_CONFIG=path)) == Settings(config=path)
    assert settings_of(DOOR, config("--agentlink-config", path, "--no-store")) == Settings(config=path, no_store=True)


@each(
    ("argv", "says"),
    [
        (["--agentlink-config", "missing.json"], "missing.json: No such file"),
        (["--agentlink-self-register"], "needs a token"),
        (["--agentlink-self-register", "--no-auth", "--host", "0.0.0.0"], "needs a token"),
        (["--no-store"], "--agentlink-config"),
        (
            ["--store", "redis://h", "--agentlink-self-register", "--token", "t", "--no-store"],
            "--no-store and --store contradict",
        ),
    ],
)
def test_what_makes_no_sense_is_told(argv: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(*argv)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"registered_instances": [{"instance_id": "a"}]}', "has no secret"),
        ('{"secret": "s", "registered_instances": [{"instance_id": "a"}, {"instance_id": "A"}]}', "twice"),
        ('{"secret": "s", "registered_instances": [{"instance_id": "a:b"}]}', "no / and :"),
        ('{"secret": "s", "registered_instances": [{"instance_id": "a", "agents": ["x/y"]}]}', "no / and :"),
        ('{"secret": "", "registered_instances": []}', "secret may not be empty"),
        ("{", "not JSON"),
    ],
)
def test_a_file_that_makes_no_sense_is_told(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "relay-config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=says) as refused:
        config("--agentlink-config", str(path))
    assert str(path) in str(refused.value)


def test_self_registering_needs_no_file(path: str) -> None:
    told = config("--agentlink-self-register", "--token", "t")
    assert settings_of(DOOR, told) == Settings(self_register=True)
    assert (
        config("--agentlink-self-register", "--host", "0.0.0.0").token is None
    )  # one is made where others can reach it


def test_the_operator_is_told_where_it_is_served(path: str) -> None:
    assert "Agent Link" not in " ".join(banner(config(), 9077))
    assert banner(config("--agentlink-config", path), 1234)[2] == (
        "Agent Link is served at ws://127.0.0.1:1234/agentlink"
    )
    served = ServerConfig(host="192.168.1.5", doors={"agentlink": Settings(path)}, tls_cert="c", tls_key="k", token="t")
    assert "wss://192.168.1.5:9077/agentlink" in banner(served, 9077)[2]
