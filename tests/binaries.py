"""Programs of Debian's packages for tests: installed, or unpacked under .cache. Nothing is installed.

``python -m tests.binaries nginx caddy redis-server`` gets what is missing, where the system has apt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "debian"
PACKAGES = {
    "nginx": ("nginx", "nginx-common"),
    "caddy": ("caddy",),
    "redis-server": ("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"),
}


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


def environment(program: str) -> dict[str, str]:
    """Return the environment in which a program finds the libraries that were unpacked with it."""
    libraries = (
        [str(folder) for folder in CACHE.glob("usr/lib/*-linux-*")] if Path(program).is_relative_to(CACHE) else []
    )
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)} if libraries else dict(os.environ)


def fetch(name: str) -> None:
    """Download the program's packages and unpack them. Raises CalledProcessError, OSError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", *PACKAGES[name]], cwd=CACHE, check=True)
    for package in sorted(CACHE.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(CACHE)], check=True)
        package.unlink()


def main(names: list[str]) -> int:
    """Get what is missing. Returns the exit code."""
    for name in names:
        if find(name) is None:
            try:
                fetch(name)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"{name} is not here and cannot be downloaded ({error}); install it first", file=sys.stderr)
                return 1
        print(f"{name}: {find(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
