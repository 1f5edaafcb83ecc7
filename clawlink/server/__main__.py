"""``python -m clawlink.server``: run a relay."""

from __future__ import annotations

import argparse
import os
import sys

from clawlink.errors import ClawLinkError
from clawlink.server import options


def main(argv: list[str] | None = None) -> int:
    """Parse the flags and run. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clawlink.server", description="Run a ClawLink relay.")
    try:
        options.add_arguments(parser)
        config = options.read(parser.parse_args(argv), os.environ)
    except ClawLinkError as error:
        parser.error(error.message)
    except ValueError as error:
        parser.error(str(error))
    from clawlink.server.run import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
