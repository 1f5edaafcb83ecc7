"""Topics and the patterns that agents subscribe to."""

from __future__ import annotations

import pytest

from clawlink.domain import topic as rules


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
    ("patterns", "subscribed"),
    [
        (("*",), True),
        (("research", "*"), True),
        (("research", "build.*"), True),
        (("research", "build"), False),
        ((), False),
        ((" *",), True),
    ],
)
def test_any_pattern_subscribes_and_none_does_not(patterns: tuple[str, ...], subscribed: bool) -> None:
    assert rules.subscribed(patterns, "build.linux") is subscribed
