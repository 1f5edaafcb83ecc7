"""What the tests of pages need: Chromium, Playwright, and tus-js-client from npm, kept under .cache.

``python -m tests.browser.programs`` gets what is missing: Chromium from apt as root, tus-js-client from npm. Where it
cannot, ``missing`` says why, and the tests of this folder are left out with one line.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

CHROMIUM = Path("/usr/bin/chromium")
TUS = "tus-js-client@4.3.1"
CACHE = Path(__file__).parents[2] / ".cache" / "browser"
TUS_SCRIPT = CACHE / "package" / "dist" / "tus.min.js"


def missing() -> str | None:
    """Return what is missing to run pages; None if all is here."""
    if not CHROMIUM.exists():
        return f"{CHROMIUM} is not there"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    if not TUS_SCRIPT.exists():
        return f"{TUS} is not under .cache"
    return None


def fetch() -> None:
    """Get what is missing. Raises CalledProcessError, OSError."""
    if not CHROMIUM.exists() and shutil.which("apt-get") is not None and getattr(os, "geteuid", lambda: 1)() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    npm = shutil.which("npm")
    if not TUS_SCRIPT.exists() and npm is not None:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "pack", "--silent", TUS], cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
        for packed in CACHE.glob("tus-js-client-*.tgz"):
            with tarfile.open(packed) as package:
                package.extract("package/dist/tus.min.js", CACHE)
            packed.unlink()


def main() -> int:
    """Get what can be had; what cannot is no failure, since the tests then say what they leave out."""
    try:
        fetch()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"for tests/browser: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
