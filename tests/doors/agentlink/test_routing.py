"""Connections are matched to the agents they read for, without a socket."""

from __future__ import annotations

from dataclasses import replace

from clawlink.doors.agentlink.server.routing import Readers, Routing


class FakePeer:
    """A connection of the new form, or of the old form."""

    def __init__(self, agent: str | None = None) -> None:
        self.agent = agent
        self.spoken_for: set[str] = set()
        self.number = 0


AGENTS = ["i/one", "i/two", "i/three"]


class Instance:
    """The connections of one instance."""

    def __init__(self, *connections: FakePeer) -> None:
        self.routing: Routing[FakePeer] = Routing()
        for connection in connections:
            self.routing.add("i", connection)

    @property
    def readers(self) -> dict[str, Readers[FakePeer]]:
        found = {address: self.routing.readers(address) for address in AGENTS}
        return {address: replace(readers, connections=list(readers.connections)) for address, readers in found.items()}


def test_old_connections_that_have_said_nothing_all_read_for_all() -> None:
    first, second = FakePeer(), FakePeer()
    assert Instance(first).readers == dict.fromkeys(AGENTS, Readers([first], settles=True))
    assert Instance(first, second).readers == dict.fromkeys(AGENTS, Readers([first, second], settles=True))


def test_one_that_has_sent_reads_for_that_agent_alone_and_nobody_else_does() -> None:
    first, second = FakePeer(), FakePeer()
    i = Instance(first, second)
    assert i.routing.spoke("i", first, "i/one")
    assert not i.routing.spoke("i", first, "i/one")
    assert i.readers == {
        "i/one": Readers([first], settles=True, certain=True),
        "i/two": Readers([second], settles=True),
        "i/three": Readers([second], settles=True),
    }
    i.routing.spoke("i", second, "i/two")
    assert i.readers["i/three"] == Readers([], settles=True)
    assert [i.routing.connected(address) for address in AGENTS] == [True, True, False]
    i.routing.spoke("i", second, "i/one")  # of two that sent from one address it is the newest
    assert i.readers["i/one"].connections == [second]


def test_mail_for_one_that_was_known_waits_for_it() -> None:
    first, second = FakePeer(), FakePeer()
    i = Instance(first, second)
    i.routing.spoke("i", first, "i/one")
    i.routing.remove("i", first)
    assert i.readers["i/one"] == Readers([second], settles=False)  # it may be the one that has come back
    assert not i.routing.connected("i/one")
    i.routing.spoke("i", second, "i/two")
    assert i.readers["i/one"] == Readers([], settles=False)


def test_what_comes_for_one_that_names_itself_goes_to_no_old_connection() -> None:
    new, old = FakePeer("i/one"), FakePeer()
    i = Instance(new, old)
    assert i.readers == {
        "i/one": Readers([], settles=False),
        "i/two": Readers([old], settles=True),
        "i/three": Readers([old], settles=True),
    }
    assert i.routing.connected("i/one")
    i.routing.remove("i", new)
    assert i.readers["i/one"].connections == []
    assert not i.routing.connected("i/one")


def test_one_that_ends_takes_no_other_with_it() -> None:
    first, second = FakePeer(), FakePeer()
    i = Instance(first, second)
    i.routing.remove("i", first)
    i.routing.remove("i", first)
    assert i.routing.of("i") == (second,)
    assert i.routing.connected("i/one")
    i.routing.remove("i", second)
    assert not i.routing.connected("i/one")
