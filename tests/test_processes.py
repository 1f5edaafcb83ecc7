"""A process that was forked ends as one that Python started: the same code, the same output, the same last work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawlink.version import VERSION
from tests import processes
from tests.waiting import PATIENCE

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
    "output in parts": "import os; print('x', end=''); os.write(1, b'y')",
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_a_forked_process_ends_as_a_started_one(how: str) -> None:
    command = [sys.executable, "-c", PROGRAMS[how]]
    for unbuffered in ("", "1"):
        environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        started = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environ)
        forked = processes.run(command, timeout=PATIENCE, env=environ)
        assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
        assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


@pytest.mark.skipif(os.name != "posix", reason="the commands are for a POSIX shell")
def test_a_shell_starts_the_command_in_its_folder_with_its_environment_and_streams(tmp_path: Path) -> None:
    script = """clawlink --version
    echo told | clawlink register ann --description - --relay http://127.0.0.1:1 2> refused || echo $?
    for turn in 1 2 3; do clawlink "no $turn" '$x "' > out-$turn 2>&1 & done; wait
    cat refused out-*"""
    shown = []
    with processes.command_in(tmp_path / "bin"):
        for command in (
            f"PATH={tmp_path / 'bin'}:$PATH",
            f'clawlink() {{ "{sys.executable}" -m clawlink.cli.main "$@"; }}',
        ):
            environ = {**os.environ, "CLAWLINK_HOME": str(tmp_path / "home")}
            done = processes.run(
                ["sh", "-c", f"{command}\n{script}"], cwd=tmp_path, env=environ, text=True, timeout=PATIENCE
            )
            assert done.stderr == ""
            shown.append(done.stdout)
    forked, started = shown
    assert forked == started
    assert forked.startswith(f"clawlink {VERSION}\n")
    for words in ("3\n", "127.0.0.1:1", "no 1", "no 2", "no 3"):
        assert words in forked, words
