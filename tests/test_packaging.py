"""The distribution's name, the installed files, and the way a checkout sets itself up."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from clawlink.version import DISTRIBUTION, VERSION, extra_command, former_distribution
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent
_PAGES = [ROOT / "README.md", ROOT / "clawlink" / "SKILL.md", *(ROOT / "references").glob("*.md")]
_HERE = sys.version_info[:2]


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    return script("environment")


def script(name: str) -> ModuleType:
    """Load a file of .ci, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(folder: Path, name: str, *files: str) -> None:
    """Leave the traces of an installed distribution."""
    facts = folder / f"{name}-1.1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.1.0\n")
    (facts / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_an_installed_former_distribution_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("editable", "other", "former")])
    installed(tmp_path / "editable", "clawlink", "../../../bin/clawlink", "__editable__.clawlink-1.1.0.pth")
    installed(tmp_path / "other", "clawlink_relay", "clawlink/__init__.py")
    assert former_distribution() is None
    installed(tmp_path / "former", "clawlink", "clawlink/__init__.py")
    said = former_distribution()
    assert said is not None
    assert "clawlink 1.1.0 is installed too" in said
    assert "pip uninstall clawlink, then install clawlink-relay again" in said


def test_start_and_doctor_say_that_the_former_distribution_is_in_the_way(tmp_path: Path) -> None:
    installed(tmp_path / "former", "clawlink", "clawlink/__init__.py")
    path = os.pathsep.join([str(tmp_path / "former"), str(ROOT)])
    environ = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path), "CLAWLINK_NO_MDNS": "yes"}
    doctor = subprocess.run(
        [sys.executable, "-m", "clawlink", "doctor"], env=environ, capture_output=True, text=True, timeout=60
    )
    assert doctor.returncode == 1
    assert re.search(r"^FAIL  install .*\n +fix: pip uninstall clawlink", doctor.stdout, re.MULTILINE), doctor.stdout
    serve = [sys.executable, "-m", "clawlink", "serve", "--port", "0"]
    with subprocess.Popen(serve, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        relay.stdout.readline()  # it is up
        relay.terminate()
        _, log = relay.communicate(timeout=PATIENCE)
    assert "pip uninstall clawlink" in log


def test_names() -> None:
    assert version(DISTRIBUTION) == VERSION == "1.2.0"
    shown = subprocess.run(
        [sys.executable, "-m", "clawlink", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout == f"clawlink {VERSION}\n"


def test_nothing_tells_to_install_the_package_of_somebody_else() -> None:
    sources = [*(ROOT / "clawlink").rglob("*.py"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    for path in [*_PAGES, *sources]:
        for paragraph in path.read_text("utf-8").split("\n\n"):
            told = re.search(r"(pip|pipx|uv tool) install +'?clawlink(?![\w/-])", paragraph)
            assert told is None or "belongs to somebody else" in " ".join(paragraph.split()), (path.name, paragraph)
            assert not re.search(r"clawlink\[\w+\]", paragraph), (path.name, paragraph)


def test_an_extra_is_installed_from_a_checkout_as_long_as_the_index_has_no_package() -> None:
    told = re.compile(rf"(?:pip|pipx|uv tool) install [^\n]*{DISTRIBUTION}\[")
    assert told.search(f"pip install '{DISTRIBUTION}[redis]'")
    for path in (*(ROOT / "clawlink").rglob("*.py"), *(ROOT / "references").glob("*.md"), ROOT / "README.md"):
        assert told.search(path.read_text("utf-8")) is None, path


def test_a_broken_environment_is_found_out(setup: ModuleType, tmp_path: Path) -> None:
    def made(name: str) -> Path:
        venv.create(tmp_path / name, with_pip=False, symlinks=os.name != "nt")
        return tmp_path / name

    pip = next((made("whole") / "lib").glob("python*"), tmp_path / "whole" / "Lib") / "site-packages" / "pip"
    assert setup.broken(tmp_path / "whole", _HERE) is not None  # it has no pip
    pip.mkdir()
    (pip / "__init__.py").touch()
    assert setup.broken(tmp_path / "whole", _HERE) is None
    assert "another folder" in setup.broken((tmp_path / "whole").rename(tmp_path / "moved"), _HERE)
    assert "and this is 3.99" in setup.broken(made("older"), (3, 99))
    gone = made("gone")
    for python in (gone / setup.BIN).glob("python*"):
        python.unlink()
    assert "does not run" in setup.broken(gone, _HERE)
    (tmp_path / "empty").mkdir()
    assert "not complete" in setup.broken(tmp_path / "empty", _HERE)


def test_a_copy_in_place_of_the_editable_installation_is_found_out(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    monkeypatch.setattr(sys, "path", [str(packages)])
    assert extra_command("redis") == "pip install '.[redis]'"
    assert not setup.is_editable(tmp_path / "env")
    installed(packages, "clawlink_relay", "clawlink/__init__.py")
    told = packages / "clawlink_relay-1.1.0.dist-info" / "direct_url.json"
    here, editable = ROOT.as_uri(), {"editable": True}
    for origin, linked, command in (
        ({"url": here, "dir_info": editable}, True, "pip install -e '.[redis]'"),
        ({"url": here, "dir_info": {}}, False, "pip install '.[redis]'"),
        ({"url": tmp_path.as_uri(), "dir_info": editable}, False, "pip install -e '.[redis]'"),
        ({"url": (tmp_path / "gone").as_uri(), "dir_info": editable}, False, "pip install -e '.[redis]'"),
        ({"url": "https://relay.example/clawlink.whl", "archive_info": {}}, False, "pip install '.[redis]'"),
    ):
        told.write_text(json.dumps(origin))
        assert setup.is_editable(tmp_path / "env") is linked, origin
        assert extra_command("redis") == command, origin


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")
def test_the_other_pythons_of_a_machine_are_found(tmp_path: Path) -> None:
    pythons = script("pythons")
    here, (major, minor) = ".".join(map(str, _HERE)), pythons.least()
    said = {
        "a/python3.80": "echo 3 80",
        "b/python3.80": "echo 3 80",
        f"b/python{major}.{minor - 1}": f"echo {major} {minor - 1}",
        f"b/python{here}": f"echo {here.replace('.', ' ')}",
        "b/python3.81": "exit 127",  # as a name that pyenv keeps for another folder
        "b/python3.82t": "echo 3 82",
        "b/python3.83-config": "echo 3 83",
        "pyenv/versions/3.79.1/bin/python3.79": "echo 3 79",
    }
    for name, words in said.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{words}\n")
        path.chmod(0o700)
    folders = os.pathsep.join(str(tmp_path / folder) for folder in ("a", "b", "missing"))
    found = pythons.others({"PATH": folders, "PYENV_ROOT": str(tmp_path / "pyenv")})
    assert found == {
        (3, 79): tmp_path / "pyenv/versions/3.79.1/bin/python3.79",
        (3, 80): tmp_path / "a/python3.80",
    }


def test_an_older_python_is_told_which_one_is_needed() -> None:
    path = ROOT / ".ci" / "environment.py"
    ast.parse(path.read_text("utf-8"), feature_version=(3, 6))
    assert "from __future__ import annotations" not in path.read_text("utf-8"), "Python 3.6 does not know it"
    older = f"import runpy, sys; sys.version_info = (3, 9, 18); runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", older], capture_output=True, text=True, check=False)
    told = "ClawLink needs Python 3.10 or newer, this is 3.9: make run PYTHON=python3.12\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert 'requires-python = ">=3.10"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_floors_are_those_of_the_project(setup: ModuleType) -> None:
    found = setup.floors((ROOT / "pyproject.toml").read_text("utf-8"))
    assert {"aiohttp==3.14.4", "shtab==1.11", "pytest==9"} <= set(found)
    for name in ("filelock", "msgspec", "requests", "rich", "zeroconf", "uvloop", "hypothesis", "schemathesis"):
        assert [pin for pin in found if pin.startswith(f"{name}==")], name


def test_the_source_distribution_has_what_its_tests_need(tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    made = (".git", ".venv*", ".cache", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".coverage*")
    left = shutil.ignore_patterns(*made)
    shutil.copytree(ROOT, copy, ignore=left)
    make = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    out.mkdir()
    subprocess.run([sys.executable, "-c", make, str(out)], cwd=copy, capture_output=True, check=True, timeout=120)
    [archive] = out.iterdir()
    assert archive.name == f"clawlink_relay-{VERSION}.tar.gz"
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
        assert not {name for name in names if "__pycache__" in name}
        packed.extractall(out, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(out)
    for folder in ("clawlink", "tests", "references", ".ci"):
        wanted = {path.relative_to(copy).as_posix() for path in (copy / folder).rglob("*") if path.is_file()}
        assert wanted <= names, wanted - names
    unpacked = out / f"clawlink_relay-{VERSION}"
    # The chosen tests read the sources, a page of references/, and the data of the tests. Its examples run elsewhere.
    some = ["tests/protocol/test_openapi.py", "tests/test_protocol_doc.py", "-k", "not test_every_example_runs"]
    environ = {**os.environ, "PYTHONPATH": str(unpacked)}
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *some],
        cwd=unpacked, env=environ, capture_output=True, check=True, timeout=300,
    )  # fmt: skip
