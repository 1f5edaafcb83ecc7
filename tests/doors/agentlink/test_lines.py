"""Which connection serves which agent, decided without a socket."""

from __future__ import annotations

from clawlink.doors.agentlink.lines import Lines


class FakeLine:
    """A connection that only notes what it is told to serve."""

    def __init__(self, agent: str | None = None, *spoken_for: str) -> None:
        self.agent = agent
        self.spoken_for = set(spoken_for)
        self.serving: set[str] = set()

    def serve(self, addresses: set[str]) -> None:
        self.serving = addresses


AGENTS = ["i/one", "i/two", "i/three"]


def served(*lines: FakeLine) -> list[set[str]]:
    """Return whom each connection of one instance serves."""
    all_lines = Lines()
    for line in lines:
        all_lines.add("i", line)
    all_lines.refresh("i", AGENTS)
    return [line.serving for line in lines]


def test_an_old_connection_that_is_alone_serves_all() -> None:
    assert served(FakeLine()) == [set(AGENTS)]
    assert served(FakeLine(None, "i/one")) == [set(AGENTS)]


def test_two_old_ones_that_have_said_nothing_share_all() -> None:
    assert served(FakeLine(), FakeLine()) == [set(AGENTS), set(AGENTS)]


def test_one_that_has_sent_from_an_agent_has_it_for_itself() -> None:
    first, second = served(FakeLine(None, "i/one"), FakeLine(None, "i/two"))
    assert first == {"i/one", "i/three"}
    assert second == {"i/two", "i/three"}


def test_a_new_one_serves_the_agent_it_named_and_no_other() -> None:
    assert served(FakeLine("i/one")) == [{"i/one"}]
    assert served(FakeLine("i/one"), FakeLine()) == [{"i/one"}, {"i/two", "i/three"}]
    assert served(FakeLine("i/one"), FakeLine("i/one")) == [{"i/one"}, {"i/one"}]


def test_one_that_ends_takes_no_other_with_it() -> None:
    lines, first, second = Lines(), FakeLine(), FakeLine()
    lines.add("i", first)
    lines.add("i", second)
    lines.remove("i", first)
    lines.remove("i", first)
    assert lines.of("i") == [second]
    assert lines.connected("i/one")
    lines.remove("i", second)
    assert not lines.connected("i/one")
    assert lines.wanted("i", second, AGENTS) == set()
