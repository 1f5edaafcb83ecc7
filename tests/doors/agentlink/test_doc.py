"""``references/agentlink.md`` and the code say the same, and its examples work."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawlink.agentlink import AgentLink
from clawlink.cli.parser import everything
from clawlink.doors.agentlink import DOOR
from clawlink.doors.agentlink.client import engine, sent
from clawlink.doors.agentlink.client.message import seal
from clawlink.doors.agentlink.server import (
    connection,
    door,
    fan_out,
    instances,
    members,
    nonces,
    receipts,
    service,
)
from clawlink.doors.agentlink.wire import files, frames, signing
from clawlink.server import ws_connection
from tests.cli.test_docs import require_described
from tests.conftest import Start
from tests.tables import each

PAGE = (Path(__file__).parents[3] / "references" / "agentlink.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
SECTION = PAGE.split("### Client to relay")[1].split("###")[0].split("|---|---|")[1]
FRAMES = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", SECTION, re.MULTILINE))
LIMITS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.split("\n## Limits")[1].split("**`")[0], re.MULTILINE))


@each("kind", [frames.Register, frames.Ping, frames.Send, frames.Ack, frames.Nack, frames.Respond])
def test_every_frame_is_described_with_its_fields(kind: Any) -> None:
    assert set(FRAMES) == set(frames.TYPES) == {k.__struct_config__.tag for k in frames.Frame.__args__}
    described = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", FRAMES[kind.__struct_config__.tag]))))
    assert {field.encode_name for field in msgspec.structs.fields(kind)} <= described


def test_every_field_of_the_files_is_described() -> None:
    for kind in (files.RelayFile, files.InstanceEntry, files.LinkFile):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"`{field.name}\??`|\"{field.name}\"", PAGE), field.name


def test_the_limits_are_those_of_the_code() -> None:
    told = {limit: re.sub(r"\D", "", value.split(", ")[-1]) for limit, value in LIMITS.items()}
    assert told["clock of a signature"] == str(signing.TOLERANCE_SECONDS)
    assert f"{nonces.MAX_OF_ONE:,} of one instance, {nonces.MAX_OF_ALL:,} of all" in TEXT
    assert told["messages unacked on a connection, of one agent"] == str(service.CREDIT)
    assert told["time to ack"] == f"{service.ACK_SECONDS:.0f}"
    assert told["connections of one instance"] == str(door.MAX_CONNECTIONS)
    assert told["agents of one instance"] == "1000" == str(members.MAX_AGENTS)
    held = "messages held for an old client's agent, read by connections that may be its"
    assert told[held] == str(fan_out.MAX_HELD)
    assert told["agents of an old client made by writing to them"] == str(members.MAX_WRITTEN_TO)
    assert LIMITS["messages of one connection whose receipt is followed"] == f"{receipts.MAX_FOLLOWED:,}, the newest"
    assert told["instances that registered themselves"] == str(instances.MAX_SELF_REGISTERED)
    assert f"up to {signing.MAX_INSTANCE_ID_LENGTH} characters" in TEXT
    assert f"within {connection.REGISTER_SECONDS:.0f} s" in TEXT
    assert f"no pong for {ws_connection.SILENT_SECONDS:.0f} s" in TEXT
    assert f"last {engine.REMEMBERED:,} are remembered" in TEXT
    assert f"({files.MIN_INTERVAL_SECONDS:g} to {files.MAX_INTERVAL_SECONDS:g} s, default" in TEXT
    assert f"({engine.FIRST_PAUSE_SECONDS} s at first, up to {engine.MOST_PAUSE_SECONDS:.0f} s" in TEXT
    assert f"up to {sent.MAX_UNANSWERED:,} messages" in TEXT


def test_the_commands_and_the_flags_of_the_relay_are_described() -> None:
    for verb in DOOR.verbs():
        require_described(verb, PAGE)
    for field in dataclasses.fields(DOOR.settings):
        assert f"`{field.metadata['flag']}" in PAGE, field.name


def test_the_old_words_are_described() -> None:
    for words in (frames.FIRST_MUST_REGISTER, frames.NOT_REGISTERED, frames.INVALID_SIGNATURE):
        assert f"| `{words}` |" in PAGE


def test_the_check_that_it_shows_is_right() -> None:
    (code,) = re.findall(r"```python\n(import hashlib.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(code, "agentlink.md", "exec"), scope)
    proof = {"to": "office/bot", "time": "2026-05-13T06:51:00.250+00:00", "nonce": "n" * 16, "id": "1"}
    said = 'any "text" \n ☂ e\u0301 \\ \x7f \u2028'
    facts = {name: proof[name] for name in ("time", "nonce", "id")}
    proof["seal"] = seal("between us", "home/assistant", "office/bot", said, **facts)
    frame = {"from": "home/assistant", "to": "office/bot", "message": said, "proof": proof}
    assert scope["check"](frame, "between us")
    assert not scope["check"](frame, "another")
    assert not scope["check"]({**frame, "message": said + "!"}, "between us")
    assert not scope["check"]({**frame, "to": "office/other"}, "between us")


def test_the_client_that_it_shows_exists() -> None:
    for name in re.findall(r"\blink\.(\w+)[(`]", PAGE):
        assert hasattr(AgentLink, name), name


def test_the_commands_that_it_shows_exist(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "relay-config.json"
    path.write_text(example)
    assert [entry.instance_id for entry in files.read_relay(path).registered_instances] == ["home", "old-machine"]
    verbs = next(action.choices for action in everything()._actions if isinstance(action.choices, dict))
    for verb, rest in re.findall(r"^clawlink (\w+)(.*?)(?:#.*)?$", PAGE, re.MULTILINE):
        known = {flag for action in verbs[verb]._actions for flag in action.option_strings}
        assert set(re.findall(r"--[\w-]+", rest)) <= known


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("curl") is None, reason="it needs curl")
def test_the_request_that_it_shows_works(start_relay: Start) -> None:
    (example,) = re.findall(r"```sh\n(curl.*?)```", PAGE, re.DOTALL)
    relay = start_relay("--agentlink-self-register", "--token", "t")
    done = subprocess.run(
        ["/bin/sh", "-c", example],
        env={**os.environ, "RELAY": relay.url, "TOKEN": "t"},
        capture_output=True,
        check=True,
    )
    reply = json.loads(done.stdout)
    assert (reply["status"], reply["instance_id"], reply["name"]) == ("registered", "lab", "The lab")
    assert len(reply["secret"]) > 40
