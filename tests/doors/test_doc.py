"""``references/doors.md`` and the code say the same, and the door that it shows works."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import requests

from clawlink.client.sync import Client
from clawlink.domain.message import PlainMessage
from clawlink.doors.registry import Door, OpenDoor, Opening, option
from tests.conftest import Start
from tests.doors.conftest import Offer
from tests.test_floors import imports
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "references" / "doors.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
((_NAME, _ENTRY),) = re.findall(r'^(\w+) = "(\w+:\w+)"$', PAGE, re.MULTILINE)
(PROJECT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
_RELAYS_SIDE = ("clawlink.relay.", "clawlink.server.", "clawlink.store.")


def rows(heading: str) -> dict[str, str]:
    """Return the table below a heading row, by its first column."""
    table = PAGE.split(f"| {heading} |")[1].split("\n\n")[0]
    found = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE)
    return {name: rest for first, rest in found if "---" not in first for name in re.findall(r"`(\w[\w.]*)", first)}


def built(folder: Path) -> Path:
    """Build the package of the page as ``pip install .`` does, and return the folder with what that would install."""
    source = folder / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT, "utf-8")
    (source / "notes_door.py").write_text(EXAMPLE, "utf-8")
    make = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, str(folder)], cwd=source, capture_output=True, check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_door_that_it_shows_works(start_relay: Start, tmp_path: Path) -> None:
    site = built(tmp_path)
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}
    relay = start_relay("--notes-from", "mailroom", env=path)
    environ = {**os.environ, **path, "CLAWLINK_RELAY": relay.url, "CLAWLINK_HOME": str(tmp_path / "home")}

    def clawlink(*args: str) -> str:
        command = [sys.executable, "-m", "clawlink", *args]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Client(relay.url) as bob:
        bob.register("bob")
        for words in re.findall(r"^curl .*/(\w+) -d '(.*)'$", PAGE, re.MULTILINE):
            assert requests.post(f"{relay.url}/{words[0]}", words[1], timeout=PATIENCE).status_code == 200
        assert clawlink("note", "bob", "hi again").startswith("Sent as message ")
        got = [claimed.message for claimed in bob.poll(wait=5)]
        notes = [(note.from_agent, note.content) for note in got if isinstance(note, PlainMessage)]
        assert notes == [("mailroom", "hi"), ("mailroom", "hi again")]
        assert bob.info().doors[_NAME] == {"notes": 2}
    refused = requests.post(f"{relay.url}/notes", '{"to": "bob"}', timeout=PATIENCE)
    assert (refused.status_code, refused.json()["field"]) == (400, "text")
    assert "Send a note to an agent." in clawlink("--help")
    assert "--notes-from NAME" in clawlink("serve", "--help")
    closed = start_relay(env=path)
    assert requests.post(f"{closed.url}/notes", "{}", timeout=PATIENCE).status_code == 404


def test_every_method_and_field_is_described() -> None:
    told = {"Door": set(rows("`Door` |")), "OpenDoor": set(rows("`OpenDoor` |"))}
    for kind in (Door, OpenDoor):
        public = {name for name in (*vars(kind), *kind.__annotations__) if not name.startswith("_")}
        described = set(re.findall(r"`(\w+)", PAGE.split(f"| `{kind.__name__}` | |")[1].split("\n\n")[0]))
        assert public <= described, kind
        assert told[kind.__name__] <= public, kind
    for field in dataclasses.fields(Opening):
        assert f"`{field.name}`" in PAGE, field.name
    signature = re.search(r"`option\((.*?)\)`", PAGE)
    assert signature is not None
    assert signature[1].split(", ") == list(inspect.signature(option).parameters)


def test_doors_use_no_other_names_of_the_relay_than_those_that_are_described() -> None:
    told = {
        f"{module}.{name}"
        for module, names in re.findall(r"^\| `(clawlink\.[\w.]+)` \| (.*?) \|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    used: dict[str, str] = {}
    for path in sorted((ROOT / "clawlink" / "doors").glob("*/**/*.py")):
        for found in imports(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")):
            if found.target.startswith(_RELAYS_SIDE):
                used[found.target] = str(found)
    assert set(used) <= told, [used[name] for name in sorted(set(used) - told)]
    for name in told:
        module, _, attribute = name.rpartition(".")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute), name


def undescribed(code: str) -> list[str]:
    """Return the parts of the relay that code uses and the page does not describe."""
    table = PAGE.split("| Part of `relay` |")[1].split("\n\n")[0]
    told = {
        name: set(re.findall(r"`(\w+)`", used))
        for names, used in re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    found = re.sub(r"^\s*(from|import) .*|\bclawlink\.relay\S*", "", code, flags=re.MULTILINE)
    used = {("relay", part) for part in re.findall(r"(?<!\w)_?relay\.(\w+)", found)}
    used |= set(re.findall(r"(?<!\w)_?relay\.(\w+)\.(\w+)", found))
    used |= {("core", name) for name in re.findall(r"\b_?core\.(\w+)", found)}
    known = {("relay", part) for part in told} | {(part, name) for part, names in told.items() for name in names}
    return sorted(".".join(one) for one in used - known if one[0] != "limits")


def test_doors_use_no_other_parts_of_the_relay_than_those_that_are_described() -> None:
    assert undescribed("x = self._relay.janitor.sweep()\nrelay.agents.kick()\nawait relay.messages.send(a)") == [
        "agents.kick",
        "janitor.sweep",
        "relay.janitor",
    ]
    for path in sorted((ROOT / "clawlink" / "doors").glob("*/server/*.py")):
        assert undescribed(path.read_text("utf-8")) == [], path


def test_no_door_has_a_websocket_of_its_own() -> None:
    for path in sorted((ROOT / "clawlink" / "doors").glob("*/server/*.py")):
        assert "WebSocketResponse" not in path.read_text("utf-8"), path


def test_the_entry_point_is_that_of_the_example(offer: Offer) -> None:
    scope: dict[str, Any] = {"__name__": "notes_door"}
    exec(compile(EXAMPLE, "doors.md", "exec", dont_inherit=True), scope)
    assert scope["DOOR"].name == _NAME
    assert json.loads(re.findall(r"-d '(.*)'$", PAGE, re.MULTILINE)[0])
    assert len(EXAMPLE.splitlines()) < 80
