"""``python -m clawlink.server``: run a relay."""

from __future__ import annotations

import argparse
import os
import sys

from clawlink.server import options


def main(argv: list[str] | None = None) -> int:
    """Parse the flags and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clawlink.server", description="Run a ClawLink relay.")
    options.add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        config = options.read(args, os.environ)
    except ValueError as error:
        parser.error(str(error))
    from clawlink.server.run import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
