"""The processes above a program, and the host among them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clawlink.client.hooks.ancestors import Process, ancestors, host_among, of_ps


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no processes without more rights")
def test_the_processes_above_are_found_from_the_nearest_on() -> None:
    above = ancestors(os.getpid())
    assert above[0].pid == os.getpid()
    assert above[0].parent == os.getppid()
    assert [process.parent for process in above[:-1]] == [process.pid for process in above[1:]]
    assert above == ancestors(os.getpid())


def test_the_host_is_the_nearest_that_is_no_shell() -> None:
    shell, wrapper = Process(9, "t9", 8, "bash"), Process(8, "t8", 7, "env")
    host, terminal = Process(7, "t7", 6, "claude"), Process(6, "t6", 1, "tmux")
    assert host_among([shell, wrapper, host, terminal]) == (7, "t7")
    assert host_among([host, terminal]) == (7, "t7")
    assert host_among([shell]) is None


# It stands for a host that dies and leaves its shell behind with a hook in it.
_HOST = """
import subprocess, sys
hook = "import time, sys; from clawlink.client.hooks.ancestors import end_of_host; gone = end_of_host()\\n" + (
    "print(gone(), flush=True)\\nwhile not gone(): time.sleep(0.01)\\nprint('gone', flush=True)"
)
subprocess.Popen(["sh", "-c", '"$0" -c "$1"; true', sys.executable, hook])
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no processes without more rights")
def test_a_hook_notices_the_end_of_its_host_through_a_shell_that_stays() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as host:
        assert host.stdin is not None
        assert host.stdout is not None
        assert host.stdout.readline() == "False\n"
        host.kill()
        assert host.stdout.readline() == "gone\n"


def test_a_line_of_ps_is_read_with_a_start_of_five_words() -> None:
    line = "  812   1 Sun Nov 29 19:00:47 2026 /Applications/My App.app/Contents/MacOS/claude x"
    assert of_ps(line) == Process(812, "Sun Nov 29 19:00:47 2026", 1, "claude x")
    for wrong in ("", "812", "x 1 Sun Nov 29 19:00:47 2026 sh", "812 1 Sun Nov 29 19:00:47 2026"):
        assert of_ps(wrong) is None, wrong
