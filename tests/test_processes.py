"""A process that was forked ends as one that Python started: the same code, the same output, the same last work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import processes

PROGRAMS = {
    "its last line": "print('x', end='')",
    "nothing": "import sys; print('x'); sys.exit()",
    "a number": "import sys; print('x'); sys.exit(3)",
    "a negative number": "import sys; sys.exit(-1)",
    "True": "import sys; sys.exit(True)",
    "words": "import sys; sys.exit('words')",
    "an exception": "raise ValueError('x')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "work of atexit": "import atexit, sys; atexit.register(print, 'x'); sys.exit(4)",
    "a fault in atexit": "import atexit; atexit.register(int, 'x')",
    "a thread": "import threading, time; threading.Timer(0.01, print, ['x']).start()",
    "output that is closed": "import sys; print('x'); sys.stdout.close()",
    "output to nobody": "import os, sys; print('x'); os.close(1); sys.exit(5)",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_a_forked_process_ends_as_a_started_one(how: str) -> None:
    command = [sys.executable, "-c", PROGRAMS[how]]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    started = subprocess.run(command, capture_output=True, timeout=60, env=buffered)
    forked = processes.run(command, timeout=60, env=buffered)
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]
