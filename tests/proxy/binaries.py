"""Where nginx and Caddy are: installed, or Debian's packages unpacked under .cache. Nothing is installed.

``python -m tests.proxy.binaries`` gets what is missing, where the system has apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "proxy"
PACKAGES = {"nginx": ("nginx", "nginx-common"), "caddy": ("caddy",)}


def find(name: str) -> str | None:
    """Return the program's path, or None."""
    folders = [
        *os.get_exec_path(),
        "/usr/sbin",
        "/usr/local/sbin",
        str(CACHE / "usr" / "sbin"),
        str(CACHE / "usr" / "bin"),
    ]
    return shutil.which(name, path=os.pathsep.join(folders))


def fetch(name: str) -> None:
    """Download the program's packages and unpack them. Raises CalledProcessError, OSError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", *PACKAGES[name]], cwd=CACHE, check=True)
    for package in sorted(CACHE.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(CACHE)], check=True)
        package.unlink()


def main() -> int:
    """Get what is missing. Returns the exit code."""
    for name in PACKAGES:
        if find(name) is None:
            try:
                fetch(name)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"{name} is not here and cannot be downloaded ({error}); install it first", file=sys.stderr)
                return 1
        print(f"{name}: {find(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
