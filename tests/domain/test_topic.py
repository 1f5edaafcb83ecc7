"""Topics and the patterns that agents subscribe to."""

from __future__ import annotations

from clawlink.domain import topic as rules
from clawlink.domain.agent import by_pattern
from tests.tables import each


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
            found = by_pattern(pattern) in rules.audience(topic)
            assert found is rules.matches(pattern, topic), (pattern, topic)
    assert len(rules.audience("." * 128)) <= 130
