"""The store over SQLite beside the naive model, closed and opened again in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule

from clawlink.store.sqlite.database import NAME, connect
from clawlink.store.sqlite.store import SqliteStore
from tests.effort import size
from tests.store.asking import memory
from tests.store.at_once import AtOnce
from tests.store.test_machine import AskedAtEveryStep, AskedNowAndThen, Mailboxes, run

pytestmark = pytest.mark.storm


class OverSqlite(Mailboxes):
    """The steps of two mailboxes, and a restart."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="clawlink-"))
        self.store: Any = AtOnce(SqliteStore(self.folder / NAME, sync="normal"))

    @rule()
    def restart(self) -> None:
        """Close the store and open its folder again."""
        self.store.close()
        self.store = AtOnce(SqliteStore(self.folder / NAME, sync="normal"))

    def compare_memory(self) -> None:
        """Compare with what the database itself says."""
        db = connect(self.folder / NAME, reads_only=True)
        (cost,) = db.execute("SELECT coalesce(sum(cost), 0) FROM record").fetchone()
        (entries,) = db.execute("SELECT count(*) FROM entry").fetchone()
        db.close()
        assert run(memory(self.store)) == cost
        assert entries == sum(map(len, (record.index_keys for record in self.model.records.values())))

    def teardown(self) -> None:
        super().teardown()
        self.store.close()
        shutil.rmtree(self.folder)


class AtEveryStep(OverSqlite, AskedAtEveryStep):
    """Ask everything after every step."""


class NowAndThen(OverSqlite, AskedNowAndThen):
    """Ask one thing now and then."""


_settings = settings(
    max_examples=size(6, 40, 400),
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestAtEveryStep = AtEveryStep.TestCase
TestAtEveryStep.settings = _settings
TestNowAndThen = NowAndThen.TestCase
TestNowAndThen.settings = _settings
