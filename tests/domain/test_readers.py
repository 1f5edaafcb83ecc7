"""Readers of files: who is one, who may change them, and what a file keeps when they change."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from clawlink.domain import file as rules
from clawlink.domain import file_access
from clawlink.domain.agent import Agent
from clawlink.domain.file import ABSENT, PRESENT, RESTRICTED, Content, SharedFile, by_reader
from clawlink.domain.readers import Access, admitting, holds, party
from clawlink.domain.task import Task
from clawlink.errors import BadRequest, NotAllowed
from tests.domain.agents import agent

NOW = 1_000.0


ANN, BOB, CARA = agent("ann", "k1"), agent("bob", "k2"), agent("cara")
FOR_BOB = admitting(ANN, [party(BOB)])


def put(file: SharedFile | None, access: Access | None, editor: str = "ann", **how: Any) -> SharedFile:
    content = Content(hashlib.sha256(b"x").hexdigest(), 1)
    facts = {"file_type": "text", "content_type": "text/plain", "now": NOW, "keep": 10, **how}
    return rules.put("k", file, content=content, editor=editor, access=access, **facts)


def after(file: SharedFile | None, editor: Agent, asked: list[Agent] | str) -> Access | None:
    named = None if isinstance(asked, str) else tuple(map(party, asked))
    return file_access.access_after("k", file, editor, named, NOW, opens=asked == "opens")


OPEN = put(None, None)
FILE = put(None, FOR_BOB)


def test_an_agent_is_known_by_its_key_and_without_one_by_its_registration() -> None:
    for one, other, same in (
        (BOB, BOB, True),
        (BOB, agent("bob", "k2", since=9.0), True),  # it left, and came back with its key
        (BOB, agent("bob", "k9"), False),
        (BOB, agent("bob"), False),
        (BOB, agent("rob", "k2"), False),
        (CARA, replace(CARA, last_heartbeat=50.0), True),
        (CARA, agent("cara", "k3"), True),  # it has claimed a key since
        (CARA, agent("cara", since=9.0), False),
        (CARA, agent("cara", "k3", since=9.0), False),
        (CARA, None, False),
    ):
        assert party(one).is_(other) is same, (one, other)


def test_a_file_is_hidden_from_all_but_its_owner_and_readers_also_what_is_left_of_it() -> None:
    gone = rules.delete("k", FILE, now=NOW, keep=60)
    lapsed = rules.expire(replace(FILE, ends_at=NOW), now=NOW, keep=60)
    assert lapsed is not None
    hidden: list[SharedFile] = [FILE, gone, lapsed]
    for file in hidden:
        assert [file_access.hidden(file, one) for one in (ANN, BOB, CARA, None)] == [False, False, True, True], file
        with pytest.raises(NotAllowed) as refused:
            file_access.require_admitted("k", file, CARA)
        assert refused.value.field == "file_key"
        file_access.require_admitted("k", file, BOB)
    assert not file_access.hidden(None, None)
    assert not file_access.hidden(OPEN, None)


def test_index_keys_tell_files_for_everyone_from_files_for_readers() -> None:
    assert OPEN.index_keys == (PRESENT,)
    assert FILE.index_keys == (RESTRICTED, by_reader("ann"), by_reader("bob"))
    assert rules.delete("k", FILE, now=NOW, keep=60).index_keys == (ABSENT,)


def test_only_the_owner_changes_readers() -> None:
    written_by_bob = put(OPEN, None, editor="bob")
    gone = rules.delete("k", FILE, now=NOW, keep=60)
    open_gone = rules.delete("k", OPEN, now=NOW, keep=60)
    taken: list[tuple[SharedFile | None, Agent, list[Agent] | str, Access | None]] = [
        (None, ANN, "keep", None),
        (None, ANN, [BOB], FOR_BOB),
        (None, ANN, [BOB, ANN, BOB], FOR_BOB),
        (None, ANN, [], admitting(ANN, [])),
        (None, ANN, "opens", None),
        (OPEN, ANN, "keep", None),
        (OPEN, ANN, [BOB], FOR_BOB),
        (OPEN, BOB, "opens", None),
        (FILE, ANN, "keep", FOR_BOB),
        (FILE, BOB, "keep", FOR_BOB),
        (FILE, ANN, [CARA], admitting(ANN, [party(CARA)])),
        (FILE, ANN, "opens", None),
        (FILE, BOB, [BOB], FOR_BOB),  # it changes nothing
        (gone, BOB, "keep", FOR_BOB),
        (gone, ANN, "opens", None),
        (open_gone, BOB, [CARA], admitting(BOB, [party(CARA)])),
    ]
    for file, editor, asked, expected in taken:
        assert after(file, editor, asked) == expected, (file, editor, asked)
    refused: list[tuple[SharedFile, Agent, list[Agent] | str]] = [
        (OPEN, BOB, [ANN]),  # Ann has written it for everyone
        (written_by_bob, ANN, []),
        (FILE, BOB, [CARA]),
        (FILE, BOB, "opens"),
        (gone, BOB, [CARA]),
        (gone, BOB, "opens"),
    ]
    for known, editor, asked in refused:
        with pytest.raises(NotAllowed) as error:
            after(known, editor, asked)
        assert error.value.field == "readers", (known, editor, asked)


def test_a_file_that_is_opened_to_everyone_keeps_no_version_from_before() -> None:
    second = put(FILE, FOR_BOB)
    assert [v.revision for v in second.versions] == [2, 1]
    assert [v.revision for v in put(second, admitting(ANN, [party(CARA)])).versions] == [3, 2, 1]
    assert [v.revision for v in put(second, None).versions] == [3]
    assert [v.revision for v in put(OPEN, FOR_BOB).versions] == [2, 1]


def test_a_lock_stays_only_with_an_agent_that_sees_the_file() -> None:
    for holder, stays in (("ann", True), ("bob", True), ("cara", False)):
        locked = rules.take_lock("k", OPEN, holder=holder, until=NOW + 9, note=None, now=NOW, keep=60)
        assert (put(locked, FOR_BOB).lock is not None) is stays, holder


def test_readers_and_tasks_are_added_once_and_up_to_a_limit() -> None:
    assert file_access.add_reader(OPEN, party(BOB), most=9) is OPEN
    assert file_access.add_reader(FILE, party(BOB), most=1) is FILE
    assert file_access.add_reader(FILE, party(ANN), most=1) is FILE
    more = file_access.add_reader(FILE, party(CARA), most=2)
    assert more.access == admitting(ANN, [party(BOB), party(CARA)])
    assert (more.version, more.revision) == (FILE.version + 1, FILE.revision)
    later = agent("bob", "k9")
    replaced = file_access.add_reader(FILE, party(later), most=1).access
    assert replaced == admitting(ANN, [party(later)]), "the id is another agent's now"
    tasked = file_access.add_task(FILE, "t1", (), most=1)
    assert tasked.access == admitting(ANN, [party(BOB)], ("t1",))
    assert file_access.add_task(tasked, "t1", ("t1",), most=1) is tasked
    assert file_access.add_task(OPEN, "t1", (), most=1) is OPEN
    with pytest.raises(BadRequest) as reader:
        file_access.add_reader(FILE, party(CARA), most=1)
    with pytest.raises(BadRequest) as second:
        file_access.add_task(tasked, "t2", ("t1",), most=1)
    for error in (reader.value, second.value):
        assert (error.field, error.limit, error.actual) == ("attachments", 1, 2)


def test_the_holder_of_a_task_is_the_agent_that_claimed_it_and_no_later_one_of_its_id() -> None:
    task = Task("t", 1, " pool x", "ann", "bob", b"", 10.0, 99.0, delivered_at=20.0)
    for one, agent_, expected in (
        (task, agent("bob"), True),
        (task, agent("ann"), False),
        (task, agent("bob", since=20.0), True),
        (task, agent("bob", since=21.0), False),
        (replace(task, assignee=None, delivered_at=None), agent("bob"), False),
        (None, agent("bob"), False),
    ):
        assert holds(one, agent_) is expected, (one, agent_)


def test_readers_count_in_the_footprint() -> None:
    many = put(None, admitting(ANN, [party(agent(f"agent-{n}", "k" * 64)) for n in range(50)]))
    assert many.footprint - OPEN.footprint > 50 * (64 + 8)
