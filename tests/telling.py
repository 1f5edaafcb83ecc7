"""A process that tells what it was given: its arguments, its input, its environment and its folder."""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":
    print(json.dumps([sys.argv[1:], sys.stdin.read(), os.environ["TOLD"], os.getcwd()]))
    print("to stderr", file=sys.stderr)
    sys.exit(7)
