"""Doors are found in their folder and as entry points, and one that cannot be loaded is in nobody's way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from clawlink.cli import verbs
from clawlink.cli.exits import Exit
from clawlink.cli.main import main
from clawlink.doors import registry
from tests.conftest import Serve
from tests.doors.conftest import Offer
from tests.waiting import PATIENCE

FOLDERS = {path.parent.name for path in Path(registry.__file__).parent.glob("*/__init__.py")}

GOOD = """
from clawlink.doors.registry import Door, OpenDoor
from clawlink.protocol.paths import Endpoint

class Good(Door):
    name = "good"

    def open(self, opening):
        return Open()

    def verbs(self):
        raise ImportError("no commands today")

class Open(OpenDoor):
    def routes(self):
        return [(Endpoint("good", "POST", "/send", "Taken.", None), None)]

DOOR = Good()
"""


FAILING = """
from clawlink.doors.registry import Door, OpenDoor

class Failing(Door):
    name = "failing"

    def open(self, opening):
        return Open()

class Open(OpenDoor):
    async def upkeep(self, now):
        raise ValueError("it has no upkeep")

    async def info(self):
        raise ValueError("it tells nothing")

    async def close(self):
        raise ValueError("it does not end")

DOOR = Failing()
"""
WIDE = """
from clawlink.doors.registry import Door, OpenDoor
from clawlink.protocol.paths import Endpoint
from clawlink.server.request import parameter
from clawlink.server.response import reply

class Wide(Door):
    name = "wide"

    def open(self, opening):
        return Open()

class Open(OpenDoor):
    def routes(self):
        return [(Endpoint("wide", "GET", "/{name}/wide", "Its name.", None), answer)]

async def answer(relay, request):
    return reply({"name": parameter(request, "name")})

DOOR = Wide()
"""
PLAIN = """
from dataclasses import dataclass
from clawlink.doors.registry import Door

@dataclass(frozen=True)
class Settings:
    x: int = 1

class Plain(Door):
    name, settings = "plain", Settings

DOOR = Plain()
"""
Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def found_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    registry.find.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    registry.find.cache_clear()


def test_the_folders_are_doors_without_any_entry_point() -> None:
    code = "from clawlink.doors.registry import find; print(*find().doors, find().broken)"
    root = Path(registry.__file__).parents[2]
    # Without site-packages nothing is installed: neither this checkout nor its entry points.
    program = f"import sys; sys.path = [p for p in sys.path if 'site-packages' not in p] + [{str(root)!r}]; {code}"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*sorted(FOLDERS), "[]"]


def test_a_door_that_cannot_be_loaded_is_logged_and_left_out(
    offer: Offer,
    found_anew: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    clawlink_home: Path,
) -> None:
    bad = {
        "gone": ("no_such_module:DOOR", None, "ModuleNotFoundError"),
        "raises": ("raising_door:DOOR", "raise RuntimeError('half written')", "RuntimeError: half written"),
        "other": ("other_door:DOOR", "DOOR = object()", "TypeError"),
        "named": ("named_door:DOOR", GOOD, "it calls itself 'good'"),
        "plain": ("plain_door:DOOR", PLAIN, "has to be made by option()"),
    }
    for name, (entry, code, _) in bad.items():
        found_anew.syspath_prepend(offer(name, entry, code))
    with caplog.at_level(logging.WARNING, "clawlink.doors"):
        found = registry.find()
    assert set(found.doors) == FOLDERS
    told = {broken.name: broken for broken in found.broken}
    assert set(told) == set(bad)
    for name, (_, _, reason) in bad.items():
        assert reason in told[name].reason, name
        assert f"the door {name} of {name}-package cannot be loaded and is left out" in caplog.text, name
    capfd.readouterr()
    main(["doctor"])
    shown = capfd.readouterr().out
    assert "warn  door        the door gone of gone-package cannot be loaded" in shown
    assert "fix: pip install --upgrade gone-package, or uninstall it" in shown


def test_a_door_of_another_package_is_found_by_its_entry_point(
    offer: Offer, found_anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found_anew.syspath_prepend(offer("good", "good_door:DOOR", GOOD))
    assert set(registry.find().doors) == {*FOLDERS, "good"}
    with caplog.at_level(logging.WARNING, "clawlink.doors"):
        verbs.of_doors.cache_clear()
        assert main(["--help"]) == Exit.DONE
    verbs.of_doors.cache_clear()
    assert "the commands of the door good cannot be loaded: no commands today" in caplog.text


def test_a_door_does_not_take_an_address_or_a_flag_of_the_relay(offer: Offer) -> None:
    flagged = GOOD.replace('name = "good"', 'name = "flagged"\n    settings = Settings').replace(
        "class Good", "@dataclass(frozen=True)\nclass Settings:\n    x: str = option('--host', 'taken')\n\nclass Good"
    )
    imports = "from dataclasses import dataclass\nfrom clawlink.doors.registry import option\n"
    for name, code, why, exit_code in (
        ("good", GOOD, "the door good serves POST /send, which is taken", 1),
        ("flagged", imports + flagged, "the door flagged has the flag --host, which is taken", 2),
    ):
        environ = {**os.environ, "PYTHONPATH": str(offer(name, f"{name}_door:DOOR", code))}
        command = [sys.executable, "-m", "clawlink.server", "--port", "0"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == exit_code, done.stderr
        assert why in done.stderr
        assert "Traceback" not in done.stderr


async def test_a_door_whose_upkeep_info_or_end_fails_is_in_nobodys_way(
    offer: Offer, found_anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, serve: Serve, until: Until
) -> None:
    found_anew.setattr("clawlink.server.app._SWEEP_SECONDS", 0.01)
    found_anew.syspath_prepend(offer("failing", "failing_door:DOOR", FAILING))
    relay = await serve()
    await until(lambda: "it has no upkeep" in caplog.text)
    status, told = await relay.get("/")
    assert (status, told["doors"]["failing"]) == (200, {})
    await relay.register("Ann", agent_id="a")
    await relay.app.stop()
    assert "it does not end" in caplog.text


async def test_a_path_may_begin_with_a_parameter_and_hides_no_other(
    offer: Offer, found_anew: pytest.MonkeyPatch, serve: Serve
) -> None:
    found_anew.syspath_prepend(offer("wide", "wide_door:DOOR", WIDE))
    relay = await serve()
    assert await relay.get("/one/wide") == (200, {"name": "one"})
    assert (await relay.get("/blobs/wide"))[1]["code"] == "unknown_file"
    assert (await relay.get("/one/narrow"))[1]["code"] == "unknown_route"
