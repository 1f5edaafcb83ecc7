"""A table runs every row, and tells of each that fails. A forked process is a process of its own."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.processes import Popen
from tests.tables import each
from tests.waiting import PATIENCE


def test_every_row_runs_and_each_that_fails_is_told() -> None:
    seen = []

    @each("number, word", [(1, "one"), (2, "two"), (3, "three")], ids=str)
    def check(given: str, number: int, word: str) -> None:
        seen.append((given, number, word))
        assert number == 2

    assert list(inspect.signature(check).parameters) == ["given"]
    with pytest.raises(AssertionError, match=r"(?s)2 of 3 rows failed.*--- row 1, one.*--- row 3, three"):
        check(given="x")
    assert seen == [("x", 1, "one"), ("x", 2, "two"), ("x", 3, "three")]


async def test_a_row_of_a_coroutine_fails_too_also_where_nothing_was_raised() -> None:
    @each("number", [1, 2])
    async def check(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            assert 1 / (number - 1)

    with pytest.raises(AssertionError, match="1 of 2 rows failed\n--- row 2"):
        await check()


def test_a_table_has_rows() -> None:
    with pytest.raises(AssertionError, match="without rows"):
        each("number", [])


def test_a_process_has_its_own_streams_code_environment_and_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.telling", "one", "two"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for env in ({**os.environ, "TOLD": "forked"}, {**environment, "TOLD": "started"}):
        folder = Path.cwd() if env["TOLD"] == "forked" else tmp_path
        done = processes.run(command, input=b"given", env=env, cwd=folder, timeout=PATIENCE)
        told = json.loads(done.stdout)
        assert told == [["one", "two"], "given", env["TOLD"], str(folder)], env["TOLD"]
        assert (done.returncode, done.stderr.strip()) == (7, b"to stderr"), env["TOLD"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of POSIX")
def test_a_process_is_signalled_and_waited_for() -> None:
    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        command = [sys.executable, "-m", "clawlink.server", "--port", "0", "--log-level", "error"]
        with Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "listening on" in process.stdout.readline()
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(PATIENCE) == code
            assert process.stdout.read() is not None
