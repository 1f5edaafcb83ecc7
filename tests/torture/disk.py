"""Kills and losses of power at every operation on the disk: ``python -m tests.torture.disk --seed 1 --minutes 5``.

A process commits messages, tasks and files to a data folder. Case by case

- it is killed (SIGKILL) just before an operation of the disk, as a child of its own, or
- the machine loses its power there: of the operations before, those that an fsync covers are on the disk, and of the
  others none, some or parts.

Then the folder must open, and have all that was answered. A message that was handed to a waiting reader in the commit
that stored it is due again after its lease. ``--seed 1 --first 17 --cases 1`` does case 17 again: it is
the same but for the order in which threads had their turns. A case that fails keeps its folder, as it was (``before``)
and as it is after it was opened.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from clawlink.domain.delivery import Delivery
from clawlink.domain.file import Content, SharedFile
from clawlink.domain.task import Task
from clawlink.store.base import Absent, Drop, Put
from clawlink.store.sqlite.check import findings
from clawlink.store.sqlite.contents import CONTENTS, file_name, place_of
from clawlink.store.sqlite.folder import DataFolder
from clawlink.store.sqlite.room import RESERVE
from tests.store.contract import NOW, ack, delivery, file, lease, newer, task
from tests.torture.operations import Operation, watched
from tests.torture.power import Machine

WRITERS, ROUNDS, VERSIONS = 3, 3, 4
GONE = VERSIONS + 1
LEASE_SECONDS = 60.0
# A recording serves this many cases of a loss of power.
_CASES_OF_RECORDING = 100


class Answered(NamedTuple):
    """A commit that was answered: the record, and its version from then on, ``GONE`` after the last."""

    key: str
    version: int


Say = Callable[[Answered], None]


class Lost(AssertionError):
    """A folder is not as it must be."""


# -- what is committed -------------------------------------------------------------------------------------------------


def bytes_of(key: str, version: int) -> bytes:
    """Return the content of a version of a file: a small or a large one."""
    dice = random.Random(f"{key} {version}")
    return dice.randbytes(dice.choice((10, 3000, 300_000)))


async def commit_all(folder: Path, sync: str, say: Say) -> None:
    """Open a folder, commit the records of all writers, and close it."""
    data = DataFolder(folder, sync=sync)
    try:
        await asyncio.gather(*(_write(data, writer, say) for writer in range(WRITERS)))
    finally:
        data.close()


async def _write(data: DataFolder, writer: int, say: Say) -> None:
    box, key = f"box{writer}", f"file{writer}"
    kept: SharedFile | None = None
    for n in range(1, ROUNDS + 1):
        id = f"{writer}-{n}"
        message, work = delivery(id, box), task(id, box)
        for version in range(1, VERSIONS + 1):
            await data.store.commit(box, Put(message), Put(work))
            say(Answered(id, version))
            if version < VERSIONS:
                message, work = newer(message), newer(work)
        await data.store.commit(box, Drop(message), Drop(work))
        say(Answered(id, GONE))
        handed = replace(lease(delivery(f"{id}-handed", box), seconds=LEASE_SECONDS), version=1)
        await data.store.commit(box, Absent(Task, handed.id), Put(handed))
        say(Answered(handed.id, 1))
        if n > 1:
            await data.store.commit(box, Put(ack(handed)))
            say(Answered(handed.id, 2))
        draft = data.blobs.draft()
        await draft.write(bytes_of(key, n))
        await draft.flush()
        versions = (replace(file(key).newest, revision=n, content=draft.keep()),)
        shared = file(key) if kept is None else newer(kept, revision=n)
        shared = replace(shared, versions=versions)
        await data.store.commit(shared.partition_key, Put(shared))
        say(Answered(key, n))
        if kept is not None:
            data.blobs.release(kept.newest.content)
        kept = shared
        if writer == 0 and n == 1:  # as the writer does now and then
            await data.store.ask("log", _empty_log, lambda _: None)


def _empty_log(db: sqlite3.Connection) -> object:
    return db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


# -- what must be there ------------------------------------------------------------------------------------------------


async def verify(folder: Path, answered: Sequence[Answered], *, may_be_older: bool) -> None:
    """Open a folder and compare it with the answers. Raises Lost.

    It ``may_be_older`` than the last answers, but whole, after a loss of power with ``--sync normal``.
    """
    last: dict[str, int] = {}
    for said in answered:
        last[said.key] = said.version
    data = DataFolder(folder)
    try:
        if data.blobs.missing:
            raise Lost(f"contents are missing: {data.blobs.missing}")
        for writer in range(WRITERS):
            for n in range(1, ROUNDS + 1):
                id = f"{writer}-{n}"
                message, work = await data.store.get(Delivery, id), await data.store.get(Task, id)
                version = None if message is None else message.version
                if version != (None if work is None else work.version):
                    raise Lost(f"a commit of {id} is there by half: {message} and {work}")
                _compare(id, last.get(id, 0), version, may_be_older=may_be_older)
                handed = await data.store.get(Delivery, f"{id}-handed")
                version = None if handed is None else handed.version
                _compare(f"{id}-handed", last.get(f"{id}-handed", 0), version, may_be_older=may_be_older)
                if handed is not None and handed.version == 1:
                    await _compare_lease(data, handed)
            shared = await data.store.get(SharedFile, f"file{writer}")
            version = None if shared is None else shared.version
            _compare(f"file{writer}", last.get(f"file{writer}", 0), version, may_be_older=may_be_older)
            if shared is not None:
                _compare_content(folder, shared)
    finally:
        data.close()
    failed = [found for found in findings(folder) if found.status == "FAIL"]
    if failed:
        raise Lost(f"{failed}")


def check(folder: Path, answered: Sequence[Answered], *, may_be_older: bool = False) -> None:
    """Keep a copy of a folder, and verify it. Raises Lost."""
    if folder.exists():
        shutil.copytree(folder, folder.with_name("before"), ignore=shutil.ignore_patterns(RESERVE))
    asyncio.run(verify(folder, answered, may_be_older=may_be_older))


def _compare(key: str, answered: int, there: int | None, *, may_be_older: bool) -> None:
    """Compare a version with the last one that was answered: the commit after that may have taken effect."""
    if there is None:
        fine = may_be_older or answered in (0, VERSIONS, GONE)
    else:
        fine = there <= answered + 1 and (may_be_older or there >= answered)
    if not fine:
        raise Lost(f"{key} was answered at version {answered}, and is there at {there}")


async def _compare_lease(data: DataFolder, handed: Delivery) -> None:
    """A message that was handed over is held until its lease ends, and due then."""
    for seconds, is_due in ((-1.0, False), (1.0, True)):
        found = await data.store.due(handed.mailbox, NOW + LEASE_SECONDS + seconds, 100)
        if (handed.id in {one.id for one in found}) != is_due:
            raise Lost(f"{handed.id} is{'' if is_due else ' not'} held {seconds:+g} s after its lease")


def _compare_content(folder: Path, shared: SharedFile) -> None:
    expected = bytes_of(shared.id, shared.version)
    content = Content(hashlib.sha256(expected).hexdigest(), len(expected))
    found = (folder / CONTENTS / place_of(file_name(shared.newest.content))).read_bytes()
    if shared.newest.content != content or found != expected:
        raise Lost(f"{shared.id} has another content at version {shared.version}")


# -- cases -------------------------------------------------------------------------------------------------------------


class Recording:
    """A run to its end: its operations, and how many answers were there before each."""

    def __init__(self, sync: str) -> None:
        self.operations: list[Operation] = []
        self.answered: list[Answered] = []
        self.before: list[int] = []
        self.sync = sync
        with tempfile.TemporaryDirectory(dir=_in_memory(), prefix="clawlink-") as place:
            folder = Path(place) / "data"

            def watch(operation: Operation) -> None:
                self.operations.append(operation)
                self.before.append(len(self.answered))

            with watched(folder, watch):
                asyncio.run(commit_all(folder, sync, self.answered.append))


def lose_power(recording: Recording, dice: random.Random, place: Path) -> str:
    """Lose power at an operation, and look at what is left. Returns the kind of the case. Raises Lost."""
    at = dice.randint(0, len(recording.operations) - 1)
    some = dice.random() < 0.7
    Machine(recording.operations[:at]).write(place / "data", dice if some else None)
    answered = recording.answered[: recording.before[at]]
    lazy = recording.sync == "normal"
    try:
        check(place / "data", answered, may_be_older=lazy)
    except Exception as error:
        raise Lost(f"power was lost before operation {at}, --sync {recording.sync}: {error}") from error
    return f"power lost, {'some' if some else 'nothing'} unsynced left, --sync {recording.sync}"


def kill(at: int, sync: str, place: Path) -> tuple[str, bool]:
    """Kill a process before an operation; return the kind of the case, and False if it came to its end. Raises Lost."""
    folder = place / "data"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_killed(folder, at, sync, writing)
    os.close(writing)
    said = b""
    while piece := os.read(reading, 65536):
        said += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status:
        raise Lost(f"the process failed before operation {at}, --sync {sync}")
    answered = [Answered(key, int(version)) for key, version in (line.split() for line in said.decode().splitlines())]
    try:
        check(folder, answered)
    except Exception as error:
        raise Lost(f"the process was killed before operation {at}, --sync {sync}: {error}") from error
    return f"killed, --sync {sync}", killed


def _be_killed(folder: Path, at: int, sync: str, writing: int) -> None:
    """Commit in this process until the operation comes. Does not return."""
    code, left = 1, at

    def watch(operation: Operation) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def say(said: Answered) -> None:
        os.write(writing, f"{said.key} {said.version}\n".encode())

    try:
        with watched(folder, watch):
            asyncio.run(commit_all(folder, sync, say))
        code = 0
    finally:
        os._exit(code)


def _in_memory() -> str | None:
    """Return a place in memory for folders: the cases need no disk."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def run(seed: int, first: int, cases: int, until: float) -> Counter[str]:
    """Do the cases, from the first one, until the last or that moment; return how many of each kind. Raises Lost."""
    done: Counter[str] = Counter()
    recordings: dict[tuple[int, str], Recording] = {}
    operations = 0
    for case in range(first, first + cases):
        if time.monotonic() > until:
            break
        dice = random.Random(f"{seed} {case}")
        sync = "normal" if dice.random() < 0.3 else "full"
        with tempfile.TemporaryDirectory(dir=_in_memory(), prefix="clawlink-") as place:
            try:
                if case % 2:
                    key = (case // _CASES_OF_RECORDING, sync)
                    if key not in recordings:
                        recordings[key] = Recording(sync)
                    done[lose_power(recordings[key], dice, Path(place))] += 1
                else:
                    operations = operations or len(Recording("full").operations)
                    kind, killed = kill(dice.randint(0, operations + 5), sync, Path(place))
                    done[kind if killed else "came to its end"] += 1
            except Lost as lost:
                kept = Path(tempfile.gettempdir()) / f"clawlink-torture-{seed}-{case}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(place, kept)
                raise Lost(f"seed {seed}, case {case}: {lost}; the folder is {kept}") from lost
    return done


def main() -> None:
    """Run from the command line, and print the account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # each opening tells of contents that no record names
    started = time.monotonic()
    done = run(args.seed, args.first, args.cases, started + 60 * args.minutes)
    account = {"seed": args.seed, "first": args.first, "next": args.first + done.total(), "lost": 0, **done}
    print(json.dumps({**account, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
