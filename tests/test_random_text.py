"""Random text that a person can type behind a command."""

from clawlink.random_text import random_text


def test_random_text_begins_with_no_dash_and_repeats_nothing() -> None:
    # By chance alone, a text in 64 begins with a dash.
    texts = {random_text(16) for _ in range(3_000)}
    assert len(texts) == 3_000
    assert {len(text) for text in texts} == {22}
    assert not [text for text in texts if text.startswith("-")]
