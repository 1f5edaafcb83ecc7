"""The shells whose completion is tested. ``python -m tests.shells`` installs those that are missing, on CI as root.

Elsewhere one line says what is left out, here and at the end of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from tests.browser.programs import may_install, run_quietly

SHELLS = ("bash", "zsh", "fish")


def missing() -> list[str]:
    """Return the shells that are not installed."""
    return [shell for shell in SHELLS if shutil.which(shell) is None]


def left_out() -> str | None:
    """Say what the tests leave out; None if nothing."""
    absent = missing()
    return f"completion in {' and '.join(absent)}, not installed here (see tests/shells.py)" if absent else None


def main() -> int:
    """Install what is missing, where that is allowed. What cannot be had is one line and no failure."""
    why = ""
    if missing() and shutil.which("apt-get") is not None and may_install(os.environ):
        quiet = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing()]):
                run_quietly([*quiet, *command], env=environment)
        except (OSError, subprocess.SubprocessError) as error:
            why = f" ({error})"
    absent = left_out()
    if absent:
        print(f"will be left out: {absent}{why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
