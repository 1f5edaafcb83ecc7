"""Shared files: version numbers, and who wins when two write at once."""

from __future__ import annotations

import pytest

from clawlink.domain import file as rules
from clawlink.domain.file import PRESENT, FileWrite, SharedFile
from clawlink.domain.record import SETTLED
from clawlink.errors import UnknownFile, VersionConflict

NOW = 1_000.0


def put(file: SharedFile | None, content: bytes = b"text", if_version: int | None = None) -> SharedFile:
    return rules.put("a/b", file, content=content, file_type="text", editor="mia", now=NOW, if_version=if_version)


def delete(file: SharedFile | None, if_version: int | None = None) -> SharedFile:
    return rules.delete("a/b", file, editor="mia", now=NOW, keep=60, if_version=if_version)


FIRST = put(None)
SECOND = put(FIRST, b"other")
GONE = delete(SECOND)


def test_versions_count_from_one() -> None:
    assert [f.revision for f in (FIRST, SECOND, put(SECOND))] == [1, 2, 3]
    assert [f.version for f in (FIRST, SECOND, put(SECOND))] == [1, 2, 3]


def test_a_write_leaves_its_content_editor_and_time() -> None:
    assert (SECOND.content, SECOND.file_type, SECOND.last_editor, SECOND.updated_at) == (b"other", "text", "mia", NOW)


def test_an_old_version_number_never_matches_the_file_that_comes_after_a_deletion() -> None:
    again = put(GONE)
    assert GONE.revision == 3
    assert again.revision == 4
    assert not again.deleted
    assert again.ends_at is None


@pytest.mark.parametrize(
    ("file", "expected"),
    [(None, None), (None, 0), (FIRST, None), (FIRST, 1), (SECOND, 2), (GONE, None), (GONE, 0)],
)
def test_a_writer_that_knows_the_present_version_or_asks_for_none_wins(
    file: SharedFile | None, expected: int | None
) -> None:
    assert put(file, if_version=expected).content == b"text"


@pytest.mark.parametrize(
    ("file", "expected", "current"),
    [(None, 1, 0), (FIRST, 0, 1), (FIRST, 2, 1), (SECOND, 1, 2), (GONE, 2, 0), (GONE, 3, 0)],
)
def test_a_writer_that_has_not_seen_the_present_version_is_told_which_it_is(
    file: SharedFile | None, expected: int, current: int
) -> None:
    with pytest.raises(VersionConflict) as refused:
        put(file, if_version=expected)
    assert refused.value.current == current
    assert refused.value.field == "if_version"


@pytest.mark.parametrize("file", [None, GONE], ids=["never there", "deleted"])
def test_what_is_not_there_cannot_be_deleted(file: SharedFile | None) -> None:
    with pytest.raises(UnknownFile):
        delete(file)


def test_a_deletion_too_can_expect_a_version() -> None:
    assert delete(SECOND, if_version=2).deleted
    with pytest.raises(VersionConflict):
        delete(SECOND, if_version=1)


def test_a_deleted_file_keeps_no_content_and_is_forgotten_after_a_while() -> None:
    assert (GONE.content, GONE.weight, GONE.index_keys, GONE.ends_at) == (b"", 0, (), NOW + 60)


def test_a_present_file_is_listed_weighs_its_content_and_never_ends() -> None:
    assert (SECOND.index_keys, SECOND.weight, SECOND.ends_at) == ((PRESENT,), 5, None)


def test_a_file_and_the_memory_of_a_write_to_it_live_together() -> None:
    write = FileWrite(id="w1", version=1, file_key="a/b", revision=1, digest="", ends_at=NOW)
    assert write.home == FIRST.home
    assert (write.index_keys, write.weight) == ((SETTLED,), 0)
