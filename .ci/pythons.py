"""Try the other Pythons of this machine, on PATH and in pyenv: ``python .ci/pythons.py TESTS...``.

Each gets an environment of its own, ``.venv-3.X``, and runs these tests. With ``--smoke`` the oldest alone runs
``.ci/smoke.py``, which needs no more than ClawLink itself. ``--only 3.12`` names the versions to try.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = "Scripts" if os.name == "nt" else "bin"
_NAME = re.compile(r"python3\.\d+(\.exe)?")
# Without these there is no environment, and no relay.
_PROBE = "import ensurepip, ssl, sqlite3, sys, venv; print(*sys.version_info[:2])"

Version = tuple[int, int]


def least() -> Version:
    """Return the lowest version that pyproject.toml allows."""
    told = re.search(r'^requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if told is None:
        raise SystemExit("pyproject.toml names no lowest Python")
    return int(told[1]), int(told[2])


def others(environ: Mapping[str, str]) -> dict[Version, Path]:
    """Return the Pythons that ClawLink supports, one of each version but for the present one; the oldest first."""
    places = [Path(folder) for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found: dict[Version, Path] = {}
    for place in (*places, *sorted(pyenv.glob("versions/3.*/bin"))):
        for path in sorted(place.glob("python3.*")):
            if _NAME.fullmatch(path.name) and (version := _version(path)) is not None:
                found.setdefault(version, path)
    wanted = (version for version in sorted(found) if version >= least() and version != sys.version_info[:2])
    return {version: found[version] for version in wanted}


def _version(python: Path) -> Version | None:
    """Return the version of a Python; None if it does not run, as a name that pyenv keeps for another folder."""
    try:
        said = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=True).stdout
        major, minor = map(int, said.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return major, minor


def main() -> int:
    """Try all of them. Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--only", default="", help="versions, separated by commas or spaces")
    args, tests = parser.parse_known_args()
    found = others(os.environ)
    only = args.only.replace(",", " ").split()
    versions = [version for version in found if not only or ".".join(map(str, version)) in only]
    if not versions:
        print("left out: other Pythons, none of which is on PATH or in pyenv")
        return 1 if only else 0
    failed = []
    for version in versions[:1] if args.smoke else versions:
        name = ".".join(map(str, version))
        folder = f".venv-{name}"
        print(f"Python {name}: {found[version]}", flush=True)
        extras = "" if args.smoke else "test"
        made = subprocess.run([found[version], ROOT / ".ci" / "environment.py", folder, extras], cwd=ROOT)
        run = [ROOT / ".ci" / "smoke.py"] if args.smoke else ["-m", "pytest", *tests]
        python = ROOT / folder / BIN / "python"
        if made.returncode or subprocess.run([python, "-W", "error", *run], cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"Python {', '.join(failed)}: failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
