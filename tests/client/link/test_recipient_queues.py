"""The order in which an outbox sends: as calls came, but past the recipients that are held back."""

from __future__ import annotations

from clawlink.client.link.pending import promise
from clawlink.client.link.recipient_queues import Item, RecipientQueues


class Table:
    """Queues of items whose recipient is the first letter of their call; capitals go alone."""

    def __init__(self, calls: str, at_once: int = 8) -> None:
        self.queues: RecipientQueues[str] = RecipientQueues()
        self.items: dict[str, Item[str]] = {}
        self.at_once = at_once
        for number, call in enumerate(calls.split()):
            self.add(call, number)

    def add(self, call: str, number: int) -> None:
        self.items[call] = Item(number, call[0].lower(), lambda: call, promise(), 0, False)
        self.queues.add(self.items[call])

    def go(self, now: float = 0.0) -> str:
        """Let all go that may, and name them."""
        gone = []
        while item := self.queues.take(now, at_once=self.at_once, alone=lambda item: item.make()[0].isupper()):
            gone.append(item.make())
        return " ".join(gone)

    def done(self, calls: str) -> None:
        for call in calls.split():
            self.queues.done(self.items[call])

    def back(self, calls: str) -> None:
        for call in calls.split():
            self.queues.put_back(self.items[call])


def test_calls_go_in_order_and_come_back_before_their_successors() -> None:
    table = Table("a1 b1 a2 c1 a3")
    assert table.go() == "a1 b1 a2 c1 a3"
    table.done("a2")
    table.back("a3 c1 a1")
    assert table.go() == "a1 c1 a3"
    assert not table.queues.empty
    table.done("a1 b1 c1 a3")
    assert table.queues.empty
    table.add("b0", -5)
    table.add("b2", 9)
    assert table.go() == "b0 b2"


def test_a_hold_of_one_recipient_lets_the_others_go_and_one_of_all_none() -> None:
    table = Table("a1 a2 b1")
    assert table.go() == "a1 a2 b1"
    table.back("a1 b1")
    for until in (3.0, 5.0, 4.0):  # the latest counts
        table.queues.hold("a", until)
    assert (table.go(1.0), table.queues.opens_at(1.0)) == ("b1", 3.0)
    assert (table.go(3.0), table.queues.opens_at(3.0)) == ("", 5.0)
    assert table.go(5.0) == "a1"
    table.back("a1 b1")
    table.queues.hold(None, 9.0)
    assert (table.go(8.0), table.queues.opens_at(8.0)) == ("", 9.0)
    assert table.go(9.0) == "a1 b1"


def test_calls_to_one_recipient_go_singly_where_they_have_to() -> None:
    for calls, at_once in (("a1 a2 b1", 1), ("A1 a2 b1", 8)):
        first = calls.split()[0]
        table = Table(calls, at_once)
        assert table.go() == f"{first} b1", calls
        table.done("b1")
        assert table.go() == "", calls
        table.done(first)
        assert table.go() == "a2", calls
    table = Table("a1 a2 b1")
    assert table.go() == "a1 a2 b1"
    table.add("a3", 7)
    table.back("a1 a2")
    table.queues.hold("a", 1.0, slow_to=1)
    for call in ("a1", "a2", "a3"):
        assert table.go(1.0) == call
        table.done(call)
    table = Table("a1 b1 A2 c1")
    assert table.go() == "a1 b1 c1"  # an item that goes alone waits for its own recipient only
    table.done("a1")
    assert table.go() == "A2"
    table = Table("a1 b1 c1")
    assert table.go() == "a1 b1 c1"
    table.back("a1 b1")
    table.queues.hold(None, 1.0, slow_to=2)
    assert table.go(1.0) == ""  # c1 is still under way
    table.done("c1")
    assert table.go(1.0) == "a1"
    table.done("a1")
    table.add("d1", 8)
    assert table.go(1.0) == "b1"
    table.done("b1")
    assert table.go(1.0) == "d1"


def test_a_call_without_an_answer_lets_its_successors_go_and_may_come_back() -> None:
    table = Table("a1 a2 a3", at_once=1)
    assert table.go() == "a1"
    table.queues.pass_by(table.items["a1"])
    assert table.go() == "a2"
    table.back("a1")
    assert table.go() == ""
    table.done("a2")
    assert table.go() == "a1"
    table.done("a1")
    table.queues.pass_by(table.items["a1"])  # too late, and harmless
    assert [item.make() for item in table.queues.clear()] == ["a3"]
    assert table.queues.empty
