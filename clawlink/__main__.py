"""``python -m clawlink``: the same as the command ``clawlink``."""

from __future__ import annotations

import sys

from clawlink.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
