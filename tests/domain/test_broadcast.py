"""Broadcasts: their record, when they are done, and what is kept of them for those who come late."""

from __future__ import annotations

from msgspec.structs import replace

from clawlink.domain import broadcast as rules
from clawlink.domain.agent import by_pattern
from clawlink.domain.broadcast import KNOWLEDGE, Broadcast, Knowledge
from clawlink.domain.record import SETTLED
from tests.tables import each

TOLD = Broadcast("b1", 1, "mia", b"news", ("otto", "eve"), 1_000.0, 2_000.0)
KEPT = Knowledge("b1", 1, "mia", b"news", "Build.Linux", ("Rain", "today"), 1_000.0, 2_000.0)


def test_a_broadcast_is_not_done_before_every_recipient_was_tried() -> None:
    assert TOLD.refused is None


def test_a_broadcast_that_is_done_tells_how_many_had_no_room() -> None:
    assert (TOLD.done(0).refused, TOLD.done(2).refused, TOLD.done(2).version) == (0, 2, 2)


def test_a_broadcast_is_refused_if_no_recipient_that_stayed_had_room() -> None:
    assert TOLD.done(2).is_refused
    assert TOLD.done(1, {"eve"}).is_refused
    assert TOLD.done(1, {"eve"}).recipients == ("otto",)
    for other in (TOLD, TOLD.done(0), TOLD.done(1), TOLD.done(0, {"otto", "eve"})):
        assert not other.is_refused


def test_what_is_kept_tells_how_many_mailboxes_got_it_in_the_end() -> None:
    kept = KEPT.done(TOLD.done(1))
    assert (kept.version, kept.recipients, kept.refused) == (2, 1, 1)


def test_a_broadcast_is_its_own_partition_and_weighs_what_it_keeps() -> None:
    assert TOLD.partition_key == "broadcast:b1"
    assert TOLD.index_keys == ()  # it is not forgotten before its time while copies are missing
    assert TOLD.done(0).index_keys == (SETTLED,)
    assert TOLD.weight == len(b"news") + len("otto") + len("eve")


def test_what_is_kept_lives_with_its_broadcast_so_that_both_are_stored_at_once() -> None:
    assert KEPT.partition_key == TOLD.partition_key


def test_what_is_kept_is_found_by_topic_author_and_every_tag_whatever_their_case() -> None:
    assert set(KEPT.index_keys) == {
        KNOWLEDGE,
        rules.by_topic("build.linux"),
        rules.by_author("mia"),
        rules.by_tag("RAIN"),
        rules.by_tag("today "),
    }


def test_a_tag_given_twice_is_one_key() -> None:
    keys = replace(KEPT, tags=("Rain", "rain", " RAIN")).index_keys
    assert len(keys) == len(set(keys)) == 4


def test_topic_tag_and_author_are_never_taken_for_each_other() -> None:
    assert len({rules.by_topic("x"), rules.by_tag("x"), rules.by_author("x")}) == 3


def test_authors_are_told_apart_by_case_as_all_ids_are() -> None:
    assert rules.by_author("Mia") != rules.by_author("mia")


def test_what_is_kept_weighs_its_message_and_ends_when_it_was_said_to() -> None:
    assert (KEPT.weight, KEPT.ends_at) == (4, 2_000.0)


@each(
    ("pattern", "topic", "falls_under"),
    [
        ("*", "research", True),
        ("*", "", True),
        (" * ", "build.linux", True),
        ("research", "research", True),
        ("Research", " rESEARCH ", True),
        ("research", "research.ai", False),
        ("research.ai", "research", False),
        ("build.*", "build.linux", True),
        ("BUILD.*", "build.Linux.arm", True),
        ("build.*", "build", False),
        ("build.*", "building", False),
        ("build.*", "rebuild.linux", False),
        ("build*", "building", False),
        ("build*", "build*", True),
        ("*.linux", "build.linux", False),
        ("", "", True),
        ("", "research", False),
        ("strasse", "Straße", True),
    ],
)
def test_a_topic_falls_under_its_own_name_what_it_is_below_and_everything(
    pattern: str, topic: str, falls_under: bool
) -> None:
    assert rules.matches(pattern, topic) is falls_under


def test_the_index_keys_of_a_topic_are_those_of_the_patterns_it_falls_under() -> None:
    texts = [
        "",
        " ",
        "*",
        " *",
        "a",
        "A",
        "a.",
        "a.*",
        "A.*",
        "a.b",
        "a.b.*",
        "a.b.c",
        ".*",
        ".",
        "a*",
        "*.a",
        "b.*",
        "..",
        "\uff41.b",
    ]
    for pattern in texts:
        for topic in texts:
            found = by_pattern(pattern) in rules.pattern_keys(topic)
            assert found is rules.matches(pattern, topic), (pattern, topic)
    assert len(rules.pattern_keys("." * 128)) <= 130
