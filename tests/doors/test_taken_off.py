"""With the folder and the tests of a door deleted, all else works: no file outside knows the door."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from clawlink.doors import registry
from tests.processes import Popen

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent.name for path in Path(registry.__file__).parent.glob("*/__init__.py"))
_COPIED = ("clawlink", "tests", "references", ".ci", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md")
# The tests that read all of the package, its pages, its flags and its commands.
_READ_ALL = (
    *("tests/test_floors.py", "tests/test_operations_doc.py", "tests/cli/test_docs.py"),
    *("tests/server/test_options.py", "tests/doors/test_registry.py"),
)


def without(doors: Sequence[str], folder: Path) -> Path:
    """Return a copy of this tree without some doors."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    folder.mkdir(exist_ok=True)
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    for name in doors:
        shutil.rmtree(folder / "clawlink" / "doors" / name)
        shutil.rmtree(folder / "tests" / "doors" / name)
    return folder


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the copy, whatever is installed."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "CLAWLINK_HOME": str(tree / "home"), "CLAWLINK_NO_MDNS": "yes"}
    return subprocess.run(
        [sys.executable, *command], cwd=tree, env=environ, capture_output=True, text=True, timeout=300
    )


def test_the_relay_and_the_command_line_start_without_a_door(tmp_path: Path) -> None:
    for door in FOLDERS:
        tree = without([door], tmp_path / door)
        own = {verb.name for verb in registry.find().doors[door].verbs()}
        shown = run(tree, "-m", "clawlink", "--help")
        assert shown.returncode == 0, shown.stderr
        verbs = set(re.findall(r"^  ([a-z][a-z-]+)  ", shown.stdout, re.MULTILINE))
        assert "delegate" in verbs, door
        assert not own & verbs, door
        command = [sys.executable, "-m", "clawlink.server", "--port", "0"]
        environ = {**os.environ, "PYTHONPATH": str(tree), "CLAWLINK_HOME": str(tree / "home")}
        with Popen(command, cwd=tree, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            address = relay.stdout.readline().split()[-1]
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert door not in json.load(answer)["doors"]
            relay.terminate()
            _, log = relay.communicate(timeout=60)
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


def test_the_tests_that_read_everything_pass_without_any_door(tmp_path: Path) -> None:
    tree = without(FOLDERS, tmp_path)
    passed = run(tree, "-m", "pytest", "-p", "no:cacheprovider", "-x", *_READ_ALL)
    assert passed.returncode == 0, passed.stdout[-3000:]
