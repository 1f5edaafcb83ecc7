"""The programs that the tests of pages need: Chromium, Playwright, and scripts from npm, kept under .cache.

``python -m tests.browser.programs`` gets what is missing: Chromium from apt, as root and with CI=true alone, and
tus-js-client and axe-core from npm. Where it cannot, it prints one line. ``missing`` says why the tests of this folder
are left out.

Chromium's headless shell is the same engine without the window around a page. The window takes a third of the
processor time of a page. Where the shell is not there, the whole Chromium does.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

CHROMIUM = Path("/usr/bin/chromium")
HEADLESS_SHELL = Path("/usr/bin/chromium-headless-shell")
TUS = "tus-js-client@4.3.1"
CACHE = Path(__file__).parents[2] / ".cache" / "browser"
TUS_SCRIPT = CACHE / "package" / "dist" / "tus.min.js"
AXE = "axe-core@4.14.1"
AXE_SCRIPT = CACHE / "package" / "axe.min.js"
_FETCH_SECONDS = 600
# Chromium draws a page of its own for the address bar of each window, which takes more than half of its processor time
# for a new page of ours. The others are those of Playwright: Chromium takes the last list alone.
_NOT_NEEDED = (
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    *("AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    "ThirdPartyStoragePartitioning",
)


def chromium(*, whole: bool = False) -> Path:
    """Return the headless shell, or the ``whole`` Chromium; the other one where it alone is there."""
    first, second = (CHROMIUM, HEADLESS_SHELL) if whole else (HEADLESS_SHELL, CHROMIUM)
    return first if first.exists() or not second.exists() else second


def no_browser() -> str | None:
    """Return what is missing to open a page at all; None if all is here."""
    if not chromium().exists():
        return f"{CHROMIUM} is not there"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    return None


def missing() -> str | None:
    """Return what is missing to run pages; None if all is here."""
    if (absent := no_browser()) is not None:
        return absent
    if not TUS_SCRIPT.exists():
        return f"{TUS} is not under .cache"
    return None


def launch(playwright: Playwright, *arguments: str) -> Browser:
    """Start Chromium without the parts of a browser's window that no test looks at."""
    return playwright.chromium.launch(
        executable_path=str(chromium()), args=[f"--disable-features={','.join(_NOT_NEEDED)}", *arguments]
    )


def may_install(environment: Mapping[str, str]) -> bool:
    """Return True on a machine of CI where this process is root: no other machine gets a package unasked."""
    return environment.get("CI") == "true" and getattr(os, "geteuid", lambda: 1)() == 0


def fetch() -> None:
    """Get what is missing. Raises SubprocessError, OSError, and KeyError or TarError for a package without the file."""
    if not chromium().exists() and shutil.which("apt-get") is not None and may_install(os.environ):
        # A fresh machine has no lists of packages, and may still run its own apt.
        quiet = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = [*quiet, "install", "--yes", "--no-install-recommends"]
        run_quietly([*quiet, "update"], env=environment)
        try:
            run_quietly([*install, HEADLESS_SHELL.name], env=environment)
        except OSError:  # there may be no package of the shell
            run_quietly([*install, CHROMIUM.name], env=environment)
    npm = shutil.which("npm")
    for name, script in ((TUS, TUS_SCRIPT), (AXE, AXE_SCRIPT)):
        if not script.exists() and npm is not None:
            _fetch_script(npm, name, script)


def _fetch_script(npm: str, name: str, script: Path) -> None:
    """Get a script from a package of npm, of that name and version."""
    CACHE.mkdir(parents=True, exist_ok=True)
    run_quietly([npm, "pack", "--silent", name], cwd=CACHE)
    for packed in CACHE.glob(f"{name.partition('@')[0]}-*.tgz"):
        with tarfile.open(packed) as package:
            found = package.extractfile(script.relative_to(CACHE).as_posix())
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_bytes(b"" if found is None else found.read())
        packed.unlink()


def run_quietly(command: list[str], **options: Any) -> None:
    """Run a program that may ask nothing and says nothing unless it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=_FETCH_SECONDS,
        **options,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(f"{' '.join(command)}: {said[-1]}")


def main() -> int:
    """Get what can be had. What cannot is one line and no failure: the tests then say what they leave out."""
    why = ""
    try:
        fetch()
    except (OSError, subprocess.SubprocessError, KeyError, tarfile.TarError) as error:
        why = f" ({error})"
    absent = [str(path) for path in (chromium(), TUS_SCRIPT) if not path.exists()]
    if absent:
        print(f"tests/browser will be left out: {' and '.join(absent)} cannot be had here{why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
