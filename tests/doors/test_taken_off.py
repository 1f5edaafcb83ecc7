"""With the folder and the tests of a door deleted, all else works: no file outside knows the door."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from clawlink.doors import registry
from tests.processes import Popen
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent.name for path in Path(registry.__file__).parent.glob("*/__init__.py"))
_COPIED = ("clawlink", "tests", "references", ".ci", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md")
# The tests that read all of the package, its pages, its flags and its commands.
_READ_ALL = (
    *("tests/test_floors.py", "tests/test_operations_doc.py", "tests/cli/test_docs.py"),
    *("tests/server/test_options.py", "tests/doors/test_registry.py"),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this tree, with what is compiled already."""
    ignored = shutil.ignore_patterns(".*_cache")
    folder = tmp_path_factory.mktemp("tree")
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


@contextlib.contextmanager
def without(doors: Sequence[str], tree: Path, aside: Path) -> Iterator[None]:
    """Take doors and their tests out of the tree, and put them back."""
    moved = [Path(part, "doors", door) for door in doors for part in ("clawlink", "tests")]
    for path in moved:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).rename(aside / path)
    try:
        yield
    finally:
        for path in moved:
            (aside / path).rename(tree / path)


def environ_of(tree: Path) -> dict[str, str]:
    """Return the environment of a program on the copy, whatever is installed. It compiles each module once."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "CLAWLINK_HOME": str(tree / "home"), "CLAWLINK_NO_MDNS": "yes"}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the copy."""
    return subprocess.run(
        [sys.executable, *command], cwd=tree, env=environ_of(tree), capture_output=True, text=True, timeout=300
    )


def test_the_relay_and_the_command_line_start_without_a_door(tree: Path, tmp_path: Path) -> None:
    for door in FOLDERS:
        with without([door], tree, tmp_path):
            starts_without(door, tree)


def starts_without(door: str, tree: Path) -> None:
    """Check that the relay and the command line of the copy start, and have nothing of the door."""
    own = {verb.name for verb in registry.find().doors[door].verbs()}
    shown = run(tree, "-m", "clawlink", "--help")
    assert shown.returncode == 0, shown.stderr
    verbs = set(re.findall(r"^  ([a-z][a-z-]+)  ", shown.stdout, re.MULTILINE))
    assert "delegate" in verbs, door
    assert not own & verbs, door
    command = [sys.executable, "-m", "clawlink.server", "--port", "0"]
    with Popen(
        command, cwd=tree, env=environ_of(tree), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as relay:
        assert relay.stdout is not None
        address = relay.stdout.readline().split()[-1]
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert door not in json.load(answer)["doors"]
        relay.terminate()
        _, log = relay.communicate(timeout=PATIENCE)
    assert "cannot be loaded" not in log


def test_no_test_of_something_else_knows_a_door() -> None:
    for door in FOLDERS:
        imported = rf"^\s*(from|import) (clawlink\.doors|clawlink|tests\.doors)(\.| import ){door}\b"
        called = "|".join(rf"[\[(]\"{verb.name}\"" for verb in registry.find().doors[door].verbs())
        known = re.compile(f"{imported}|{called}" if called else imported, re.MULTILINE)
        own = ROOT / "tests" / "doors" / door
        for path in (ROOT / "tests").rglob("*.py"):
            found = known.search(path.read_text("utf-8"))
            assert own in path.parents or not found, (path, found)


def test_the_tests_that_read_everything_pass_without_any_door(tree: Path, tmp_path: Path) -> None:
    with without(FOLDERS, tree, tmp_path):
        passed = run(tree, "-m", "pytest", "-p", "no:cacheprovider", "-x", *_READ_ALL)
    assert passed.returncode == 0, passed.stdout[-3000:]
