"""Make a virtual environment, and install ClawLink there: ``python .ci/environment.py FOLDER EXTRAS [--floors]``.

A broken environment is made again: its Python is gone, is of another version, or the folder was moved. With
``--floors`` each package that pyproject.toml names is installed in the lowest version that it allows.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_OLDEST = (3, 10)
_HERE = sys.version_info[:2]
if _HERE < _OLDEST:  # Python 3.6 has to be able to read this file up to its end
    oldest, here = (".".join(map(str, version)) for version in (_OLDEST, _HERE))
    sys.exit(f"ClawLink needs Python {oldest} or newer, this is {here}: make run PYTHON=python3.12")

ROOT = Path(__file__).resolve().parent.parent
_PROBE = "import importlib.util, sys; print(*sys.version_info[:2] if importlib.util.find_spec('pip') else '-')"
BIN = "Scripts" if os.name == "nt" else "bin"


def broken(folder: Path, python: "tuple[int, int]") -> "str | None":
    """Return why the environment in ``folder`` cannot be used, as the end of a sentence; else None."""
    try:
        activate = (folder / BIN / "activate").read_text("utf-8")
        told = (folder / "pyvenv.cfg").read_text("utf-8")
    except OSError:
        return "it is not complete"
    if str(folder) not in activate:
        return "it was made in another folder"
    made_with = re.search(r"^version(?:_info)? *= *(\d+)\.(\d+)", told, re.MULTILINE)
    if made_with is None or (int(made_with[1]), int(made_with[2])) != python:
        was = "another Python" if made_with is None else f"Python {made_with[1]}.{made_with[2]}"
        return f"it was made with {was}, and this is {python[0]}.{python[1]}"
    try:
        said = subprocess.run(
            [folder / BIN / "python", "-c", _PROBE],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "its Python does not run any more"
    if said.split() != [str(number) for number in python]:
        return f"its Python is now {'.'.join(said.split())}"
    return None


def floors(project: str) -> "list[str]":
    """Return the lowest version of each package that the text of pyproject.toml names, as pip's constraints."""
    named = re.findall(r'"([A-Za-z0-9-]+)>=([0-9.]+)', project.partition("[project]")[2])
    return [f"{name}=={version}" for name, version in named]


def is_editable(folder: Path) -> bool:
    """Return True if the environment in ``folder`` runs the files of this checkout.

    ``pip install '.[redis]'`` replaces the editable installation by a copy, which later edits do not reach.
    """
    for packages in (*folder.glob("lib/python*/site-packages"), folder / "Lib" / "site-packages"):
        for told in packages.glob("clawlink_relay-*.dist-info/direct_url.json"):
            origin = json.loads(told.read_text("utf-8"))
            there = Path(url2pathname(urlsplit(origin["url"]).path))
            if origin.get("dir_info", {}).get("editable") is True and there.exists() and there.samefile(ROOT):
                return True
    return False


def _is_installed(folder: Path, extras: str, project: str) -> bool:
    """Return True if the extras of this pyproject.toml are installed, or more than these."""
    stamps = [_stamp(folder, extras)] if extras else folder.glob(_stamp(folder, "*").name)
    return any(stamp.is_file() and stamp.read_text("utf-8") == _digest(project) for stamp in stamps)


def _stamp(folder: Path, extras: str) -> Path:
    return folder / f"installed-{extras}.txt"


def _digest(project: str) -> str:
    return hashlib.sha256(project.encode()).hexdigest()


def main() -> None:
    """Make or mend the environment, and install what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("extras", help="as in pip install .[EXTRAS]; may be empty")
    parser.add_argument("--floors", action="store_true")
    args = parser.parse_args()
    folder = Path(os.path.abspath(args.folder))
    why = broken(folder, sys.version_info[:2]) if folder.exists() else None
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    linked = why is None and is_editable(folder)
    if linked and _is_installed(folder, args.extras, project):
        return
    if why is None and not linked and any(folder.glob(_stamp(folder, "*").name)):
        print(f"{args.folder} has a copy of ClawLink; this checkout is installed there again", flush=True)
    if why is not None:
        print(f"{args.folder} is made anew: {why}", flush=True)
        shutil.rmtree(folder)
    is_new = not folder.exists()
    if is_new:
        print(f"{args.folder} is made, which takes a minute", flush=True)
        made_by = getattr(sys, "_base_executable", None) or sys.executable
        subprocess.run([made_by, "-m", "venv", folder], check=True)
    pip: list[str | Path] = [folder / BIN / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
    if not is_new:
        # Up to 1.1 the distribution had this name; it would own the same files.
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", "clawlink"], stderr=subprocess.DEVNULL, check=True)
    limits: list[str | Path] = []
    if args.floors:
        constraints = folder / "floors.txt"
        constraints.write_text("\n".join(floors(project)) + "\n", "utf-8")
        limits = ["--constraint", constraints]
    what = f"{ROOT}[{args.extras}]" if args.extras else str(ROOT)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # setuptools warns of every editable installation
    # Without compiling: Python compiles a module when it is first imported, and most of them never are.
    install = [*pip, "install", "--quiet", "--no-compile", *limits, "--editable", what]
    subprocess.run(install, check=True, env=quiet)
    _stamp(folder, args.extras).write_text(_digest(project), "utf-8")


if __name__ == "__main__":
    main()
