"""A process that holds the store is killed in the middle of its commits: all that was answered is there, and whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.domain.task import Task
from clawlink.store.base import Usage
from clawlink.store.sqlite.store import SqliteStore
from tests.effort import size
from tests.processes import Popen
from tests.store.asking import total
from tests.store.committing import WRITERS


def killed_after(path: Path, run: int, lines: int) -> list[str]:
    """Have a process commit, kill it when this many commits were answered, and return all that it said."""
    command = [sys.executable, "-m", "tests.store.committing", str(path), str(run)]
    process = Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    said += process.stdout.readlines()  # what it had said before it knew
    process.stdout.close()
    process.wait()
    return [line for line in said if line.endswith("\n")]


def clear(folder: Path) -> None:
    """Remove a database with its log."""
    for file in folder.glob("clawlink.db*"):
        file.unlink()


@pytest.mark.storm
async def test_no_answered_commit_is_lost_and_none_is_half_done(tmp_path: Path) -> None:
    seed = 20261129
    dice = random.Random(seed)
    path = tmp_path / "clawlink.db"
    versions: dict[str, int] = {}
    for run in range(size(5, 60, 10_000)):
        for line in killed_after(path, run, dice.randint(1, 400)):
            id, version = line.split()
            versions[id] = int(version)
        store = SqliteStore(path)
        await store.open()
        try:
            count, bytes = 0, 0
            for writer in range(WRITERS):
                for n in range(1_000_000):
                    id = f"{run}-{writer}-{n}"
                    message, work = await store.get(Delivery, id), await store.get(Task, id)
                    assert (message and message.version) == (work and work.version), (seed, run, id)
                    if message is None:
                        assert id not in versions, (seed, run, id)
                        break
                    assert versions.pop(id, 0) <= message.version, (seed, run, id)
                    assert await store.due(message.mailbox, message.visible_at, 10_000)
                    count, bytes = count + 1, bytes + len(message.body)
            assert not versions, (seed, run, versions)
            assert await total(store) == Usage(count, bytes), (seed, run)
        finally:
            await store.close()
        clear(tmp_path)
