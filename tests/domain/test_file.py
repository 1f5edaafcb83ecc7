"""Shared files: versions, who wins when two write at once, locks, and when a file is over."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from clawlink.domain import file as rules
from clawlink.domain import file_access
from clawlink.domain.file import ABSENT, PRESENT, Content, Lock, SharedFile
from clawlink.domain.file_write import FileWrite
from clawlink.domain.record import SETTLED
from clawlink.errors import FileLocked, NotAllowed, UnknownFile, VersionConflict
from tests.domain.agents import agent
from tests.tables import each

NOW = 1_000.0


def content(data: bytes = b"text") -> Content:
    return Content(hashlib.sha256(data).hexdigest(), len(data))


def put(file: SharedFile | None, data: bytes = b"text", *, now: float = NOW, keep: int = 10, **how: Any) -> SharedFile:
    return rules.put(
        "a/b",
        file,
        content=content(data),
        file_type="text",
        content_type="text/plain",
        editor="mia",
        now=now,
        keep=keep,
        **how,
    )


def delete(file: SharedFile | None, if_version: int | None = None, now: float = NOW) -> SharedFile:
    return rules.delete("a/b", file, now=now, keep=60, if_version=if_version)


def take(file: SharedFile | None, holder: str = "mia", until: float = NOW + 10, now: float = NOW) -> SharedFile:
    return rules.take_lock("a/b", file, holder=holder, until=until, note="mine", now=now, keep=60)


FIRST = put(None)
SECOND = put(FIRST, b"other")
GONE = delete(SECOND)


# -- versions ----------------------------------------------------------------------------------------------------------


def test_versions_count_from_one() -> None:
    assert [f.revision for f in (FIRST, SECOND, put(SECOND))] == [1, 2, 3]
    assert [f.version for f in (FIRST, SECOND, put(SECOND))] == [1, 2, 3]


def test_a_write_leaves_its_content_editor_types_and_time() -> None:
    newest = SECOND.newest
    assert (newest.content, newest.file_type, newest.content_type) == (content(b"other"), "text", "text/plain")
    assert (newest.editor, newest.written_at) == ("mia", NOW)


def test_the_versions_before_it_are_kept_the_newest_first() -> None:
    assert [v.revision for v in put(SECOND).versions] == [3, 2, 1]
    assert put(SECOND).versions[1:] == SECOND.versions


@each(("keep", "kept"), [(1, [4]), (2, [4, 3]), (3, [4, 3, 2]), (10, [4, 3, 2, 1])])
def test_no_more_versions_are_kept_than_said(keep: int, kept: list[int]) -> None:
    assert [v.revision for v in put(put(SECOND), keep=keep).versions] == kept


def test_an_old_version_number_never_matches_the_file_that_comes_after_a_deletion() -> None:
    again = put(GONE)
    assert GONE.revision == 3
    assert again.revision == 4
    assert [v.revision for v in again.versions] == [4]
    assert again.ends_at is None


@each(
    ("file", "expected"),
    [(None, None), (None, 0), (FIRST, None), (FIRST, 1), (SECOND, 2), (GONE, None), (GONE, 0)],
)
def test_a_writer_that_knows_the_present_version_or_asks_for_none_wins(
    file: SharedFile | None, expected: int | None
) -> None:
    assert put(file, if_version=expected).newest.content == content()


@each(
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


# -- deletion ----------------------------------------------------------------------------------------------------------


@each("file", [None, GONE], ids=["never there", "deleted"])
def test_what_is_not_there_cannot_be_deleted(file: SharedFile | None) -> None:
    with pytest.raises(UnknownFile):
        delete(file)


def test_a_deletion_too_can_expect_a_version() -> None:
    assert delete(SECOND, if_version=2).deleted
    with pytest.raises(VersionConflict):
        delete(SECOND, if_version=1)


def test_a_deleted_file_keeps_no_version_and_is_forgotten_after_a_while() -> None:
    assert (GONE.versions, GONE.weight, GONE.index_keys, GONE.ends_at) == ((), 0, (ABSENT,), NOW + 60)
    assert rules.expire(GONE, now=NOW + 60, keep=60) is None


def test_a_present_file_is_listed_weighs_its_contents_and_never_ends() -> None:
    assert (SECOND.index_keys, SECOND.weight, SECOND.ends_at) == ((PRESENT,), 9, None)


def test_a_file_and_the_memory_of_a_write_to_it_live_together() -> None:
    write = FileWrite(id="w1", version=1, file_key="a/b", revision=1, content=content(), ends_at=NOW)
    assert write.partition_key == FIRST.partition_key
    assert (write.index_keys, write.weight) == ((SETTLED,), 0)


# -- time to live ------------------------------------------------------------------------------------------------------


def test_a_file_whose_time_is_over_is_gone_from_that_moment() -> None:
    short = put(FIRST, ttl=5)
    assert rules.present(short, NOW + 4.9) is short
    assert rules.present(short, NOW + 5) is None
    assert rules.revision_of(short, NOW + 5) == 0
    with pytest.raises(UnknownFile):
        delete(short, now=NOW + 5)
    again = put(short, now=NOW + 5, if_version=0)
    assert (again.revision, [v.revision for v in again.versions], again.ends_at) == (3, [3], None)


def test_the_end_of_a_file_leaves_a_marker_that_goes_on_counting() -> None:
    marker = rules.expire(put(FIRST, ttl=5), now=NOW + 5, keep=60)
    assert marker is not None
    assert (marker.deleted, marker.revision, marker.ends_at) == (True, 3, NOW + 65)


# -- only one reader ---------------------------------------------------------------------------------------------------


def test_what_only_one_may_read_has_no_versions_beside_it() -> None:
    secret = put(FIRST, burn=True)
    assert [v.revision for v in secret.versions] == [2]
    assert [v.revision for v in put(secret).versions] == [3]
    assert not put(secret).burn


# -- locks -------------------------------------------------------------------------------------------------------------


def require(file: SharedFile | None, editor: str, *, now: float = NOW, force: bool = False) -> None:
    lock = None if force else rules.lock_of_others(file, agent(editor), now)
    if lock is not None:
        raise rules.refusal_of_lock("a/b", lock, lock.holder, now, shown=lock.holder)


def test_a_lock_is_not_a_later_bearer_s_of_its_holder_s_id() -> None:
    held = rules.take_lock("a/b", FIRST, holder="mia", until=NOW + 90, note=None, now=NOW, keep=60, holder_key="k1")
    free = take(FIRST, until=NOW + 90)
    for file, key, since, may in (
        (held, "k1", 0, True),
        (held, "k1", NOW + 9, True),
        (held, "k2", NOW + 9, False),
        (held, None, NOW + 9, False),
        (free, "k2", NOW + 9, True),
    ):
        assert (rules.lock_of_others(file, agent("mia", key, since), NOW + 10) is None) is may, (key, since)


def test_a_file_of_an_earlier_bearer_of_an_id_is_not_taken_from_everyone() -> None:
    file = put(None, editor_key="k1")
    for key, may in (("k1", True), ("k2", False), (None, False)):
        editor = agent("mia", key, NOW + 5)
        try:
            file_access.access_after("a/b", file, editor, (), NOW + 10, opens=False)
        except NotAllowed:
            assert not may, key
        else:
            assert may, key


def test_a_lock_keeps_others_from_writing_until_it_lapses() -> None:
    held = take(FIRST)
    require(held, "mia")
    with pytest.raises(FileLocked) as refused:
        require(held, "bob")
    assert refused.value.current == "mia"
    assert refused.value.retry_after == 10
    assert "mine" in refused.value.message
    require(held, "bob", force=True)
    require(held, "bob", now=NOW + 10)


def test_a_lock_stays_over_writes_and_deletions_and_leaves_the_version_as_it_is() -> None:
    held = take(FIRST)
    assert held.revision == 1
    lock = Lock("mia", NOW + 10, "mine", None, NOW)
    assert [f.lock for f in (held, put(held), delete(held))] == [lock] * 3
    assert put(held, now=NOW + 10).lock is None
    assert rules.drop_lock(held).lock is None


def test_what_is_not_there_can_be_locked_and_is_still_not_there() -> None:
    held = take(None)
    assert (held.revision, held.deleted, held.index_keys, held.ends_at) == (0, True, (ABSENT,), NOW + 10)
    assert rules.expire(held, now=NOW + 10, keep=60) is None
    assert put(held, if_version=0).revision == 1


def test_a_marker_is_kept_for_as_long_as_its_lock() -> None:
    held = take(GONE, until=NOW + 500)
    assert held.ends_at == NOW + 500
    assert held.revision == GONE.revision
    assert rules.expire(take(put(None, ttl=5), until=NOW + 500), now=NOW + 5, keep=60).ends_at == NOW + 500  # type: ignore[union-attr]
    kept = rules.expire(take(GONE, until=NOW + 500), now=NOW + 100, keep=60)
    assert kept is not None
    assert kept.lock is not None
