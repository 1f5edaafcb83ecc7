"""Every example in ``references/python.md`` runs as it stands, and again, beside the worker it begins with."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.client.restartable import Restartable
from tests.processes import Popen, run
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "references" / "python.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
# The words that a reader would look for in the output of each.
SHOWN = {
    "planner.py": "{'question': 'Find sources on tides', 'found': 3, 'in': 'en'}",
    "planner_async.py": "Find sources on winds",
    "questions.py": "A preface, in plain words",
    "again.py": "resumed",
    "files.py": "text/csv; charset=utf-8 2200000",
    "polling.py": "['acked']",
    "client.py": "no agent with the id or name 'nobody'",
    "async_client.py": "Find sources on winds",
    "stream.py": "message",
}


def command(name: str, relay: str) -> list[str]:
    return [sys.executable, "-c", EXAMPLES[name].replace("http://127.0.0.1:9077", relay)]


@pytest.fixture
def worker(restartable: Restartable, clawlink_home: Path) -> Iterator[str]:
    """The worker of the page, running; give its relay."""
    process = Popen(command("worker.py", restartable.url), cwd=ROOT, env=dict(os.environ))
    try:
        with Client(restartable.url) as client:
            wait_until(lambda: client.discover(capability="search").count == 1)
        yield restartable.url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_every_example_has_a_name_and_is_run() -> None:
    assert PAGE.count("```python\n") == len(EXAMPLES)
    assert set(EXAMPLES) == {"worker.py", *SHOWN}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_and_runs_again(name: str, worker: str) -> None:
    for _ in range(2):
        done = run(command(name, worker), text=True, timeout=PATIENCE, cwd=ROOT, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "dropped" not in done.stderr
    assert SHOWN[name] in done.stdout
