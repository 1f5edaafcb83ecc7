"""A database whose files are moved or deleted while it is open: nothing more is written, for nobody would find it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clawlink.domain.delivery import Delivery
from clawlink.store.base import Failed
from clawlink.store.sqlite.database import NAME
from clawlink.store.sqlite.folder import DataFolder
from tests.store.contract import delivery, put

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows lets nobody move or delete an open file")


def _replace(folder: Path) -> None:
    shutil.copy(folder / NAME, folder / "copy")
    os.replace(folder / "copy", folder / NAME)


def _delete_log(folder: Path) -> None:
    (folder / f"{NAME}-wal").unlink()


def _move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


async def test_nothing_is_written_to_files_that_have_left_their_place(tmp_path: Path) -> None:
    damages: list[tuple[Callable[[Path], object], str]] = [
        (shutil.rmtree, "was moved or deleted"),
        (_move, "was moved or deleted"),
        (_delete_log, "was moved or deleted"),
        (_replace, "is another file"),
    ]
    for number, (damage, reason) in enumerate(damages):
        folder = tmp_path / str(number) / "data"
        data = DataFolder(folder)
        await put(data.store, delivery("before"))
        assert (await data.store.health(), data.store.broken) == (None, None), reason
        damage(folder)
        told = await data.store.health()
        assert told is not None
        assert reason in told
        with pytest.raises(Failed, match="restore a backup"):
            await put(data.store, delivery("later"))
        data.close()


async def test_a_database_that_was_moved_has_all_that_was_answered(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    await put(data.store, delivery("before"))
    _move(tmp_path / "data")
    assert data.store.broken is not None
    data.close()
    again = DataFolder(tmp_path / "elsewhere")
    assert [d.id for d in again.store.all(Delivery)] == ["before"]
    assert (await again.store.health(), again.store.broken) == (None, None)
    again.close()
