"""``references/agentrelay.md`` and the code say the same, and its examples work."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawlink import agentrelay
from clawlink.cli.main import main
from clawlink.domain.limits import Limits
from clawlink.doors.agentrelay import DOOR, names
from clawlink.doors.agentrelay import rules as relayed
from clawlink.doors.agentrelay.cli.agentrelay import _ACTIONS
from clawlink.doors.agentrelay.client import locked_folder
from clawlink.doors.agentrelay.client.transactions import FIELDS
from clawlink.doors.agentrelay.server.events import BURNED_SECONDS
from clawlink.doors.agentrelay.settings import Settings
from clawlink.doors.agentrelay.wire import exchange, line
from tests.cli.test_docs import require_described
from tests.conftest import Start
from tests.tables import each

PAGE = (Path(__file__).parents[3] / "references" / "agentrelay.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
WIRE = dict(re.findall(r"^\| `POST (/agentrelay/\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
LIMITS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.split("\n## Limits")[1].split("\n## ")[0], re.MULTILINE))


@each("endpoint", exchange.ENDPOINTS, ids=lambda e: e.name)
def test_every_route_is_described_with_its_fields(endpoint: Any) -> None:
    assert set(WIRE) == {e.path for e in exchange.ENDPOINTS}
    takes, answers = (set(re.findall(r"\w+", part)) for part in WIRE[endpoint.path].split(" | "))
    assert {field.name for field in msgspec.structs.fields(endpoint.body)} <= takes
    assert {field.name for field in msgspec.structs.fields(endpoint.reply)} <= answers
    if endpoint is exchange.RECEIVE:
        assert {field.name for field in msgspec.structs.fields(exchange.EventMeta)} <= answers


def test_the_limits_are_those_of_the_code() -> None:
    assert LIMITS["an id"] == f"{names.MAX_ID_BYTES} bytes"
    assert LIMITS["a type"] == f"{names.MAX_TYPE_LENGTH} characters"
    assert names.MAX_SECRET_LENGTH == names.MAX_PARTY_LENGTH
    assert LIMITS["a secret, a sender or receiver"] == f"{names.MAX_SECRET_LENGTH} characters"
    assert LIMITS["a message that holds a line"] == f"{line.MAX_TEXT:,} characters"
    assert f"{Limits.max_body_bytes:,} bytes" in LIMITS["contents over the relay"]
    assert f"{Settings.max_events_bytes:,} bytes" in LIMITS["contents of all events of a relay"]
    assert f"{Settings.max_events:,};" in LIMITS["events that a relay knows"]
    assert f"{relayed.DEFAULT_TTL_HOURS}; {relayed.MAX_TTL_HOURS:,} at most" in LIMITS["contents are kept"]
    assert LIMITS["an event is known after it is over"] == f"{relayed.DEFAULT_REGISTRY_TTL_HOURS} hours"
    assert LIMITS["wait for the folder's lock"] == f"{locked_folder.LOCK_SECONDS:.0f} s"
    assert f"for {BURNED_SECONDS:.0f} s" in TEXT
    assert f"less than {line.SHORT} characters" in TEXT


def test_the_command_and_the_flags_of_the_relay_are_described() -> None:
    for verb in DOOR.verbs():
        require_described(verb, PAGE)
    for field in dataclasses.fields(Settings):
        assert f"`{field.metadata['flag']}" in PAGE, field.name


def test_every_status_name_and_field_is_described() -> None:
    for status in relayed.Status:
        assert f"`{status.value}`" in PAGE
    for verdict in relayed.Verdict:
        assert f"`{verdict.value}`" in PAGE
    for name in agentrelay.__all__:
        assert re.search(rf"\b{name}\b", PAGE), name
    assert " ".join(FIELDS) in TEXT


def test_the_commands_take_what_it_says() -> None:
    shown = dict(re.findall(r"^clawlink agentrelay (\w+).*# ([^,\n]+)$", PAGE, re.MULTILINE))
    for action in ("send", "update", "cmp", "complete", "cleanup"):
        assert shown[action] == _ACTIONS[action].usage
    assert set(re.findall(r"^clawlink agentrelay (\w+)", PAGE, re.MULTILINE)) == set(_ACTIONS)


def test_the_example_in_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(code, "agentrelay.md", "exec"), scope)
    assert agentrelay.agentrelay_verify(scope["line"])["status"] == "repeat"


def test_the_commands_work(
    tmp_path: Path, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENCLAW_DATA_DIR", str(tmp_path))
    for words in re.findall(r"^clawlink (agentrelay .*)$", PAGE, re.MULTILINE):
        args = shlex.split(words, comments=True)
        if args[1] == "verify":
            args[2] = str(agentrelay.get_registry_event("poem-1")["cmp_message"])
        if "--follow" not in args:
            assert main(args) == 0, (args, capsys.readouterr().err)
    assert agentrelay.get_registry_event("poem-2")["receiver"] == "me"


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("curl") is None, reason="it needs curl")
def test_the_request_that_it_shows_works(start_relay: Start) -> None:
    (example,) = re.findall(r"```sh\n(curl.*?)```", PAGE, re.DOTALL)
    relay = start_relay()
    register = ["curl", "-fsS", f"{relay.url}/register", "-d", '{"agent_id": "me", "claim": false}']
    subprocess.run(register, capture_output=True, check=True)
    environ = {**os.environ, "RELAY": relay.url, "ME": "me"}
    done = subprocess.run(["/bin/sh", "-c", example], env=environ, capture_output=True, check=True)
    assert msgspec.json.decode(done.stdout)["csv_message"] == "REQ,poem-1,s/poem-1.json,,"
