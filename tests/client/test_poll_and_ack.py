"""Polls that carry acks: against a relay that takes them, and against one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from clawlink import errors
from clawlink.client.sync import Client
from clawlink.domain.limits import Limits
from clawlink.protocol import mailbox_paths
from clawlink.server.routes import messages
from tests.client.conftest import Scripted, http
from tests.client.facade import connect
from tests.client.proxy import Proxy
from tests.client.restartable import Restartable
from tests.tables import each

pytestmark = pytest.mark.usefixtures("each_client")


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Iterator[Restartable]:
    """A relay as it was before polls took acks."""
    monkeypatch.delitem(messages.routes.serving, mailbox_paths.POLL_AND_ACK)
    relay = Restartable()
    yield relay
    relay.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the endpoints that clients asked for."""
    from clawlink.client.aio import AsyncClient

    names: list[str] = []
    blocking, other = Client._send, AsyncClient._send

    def send(self: Client, call: Any, patience: float) -> Any:
        names.append(call.endpoint.name)
        return blocking(self, call, patience)

    async def send_too(self: AsyncClient, call: Any, patience: float) -> Any:
        names.append(call.endpoint.name)
        return await other(self, call, patience)

    monkeypatch.setattr(Client, "_send", send)
    monkeypatch.setattr(AsyncClient, "_send", send_too)
    return names


def go_round(relay: str, asked: list[str]) -> list[list[str]]:
    """Send, poll, ack and nack by further polls, and return the requests of each poll."""
    with connect(relay) as ann, connect(relay) as bob:
        ann.register("ann", subscriptions=[])
        bob.register("bob", subscriptions=[])
        requests: list[list[str]] = []

        def poll(**options: Any) -> Any:
            asked.clear()
            polled = bob.poll(**options)
            requests.append(list(asked))
            return polled

        first, second = (ann.send("bob", text).message_id for text in ("first", "second"))
        got = {one.message_id: one.receipt for one in poll()}
        assert set(got) == {first, second}
        third = ann.send("bob", "third").message_id
        polled = poll(ack=[got[first], "nobody's"], nack=[got[second]], delay=60, wait=5, max=10)
        assert [one.message_id for one in polled] == [third]
        assert [(one.receipt, one.status) for one in polled.results] == [
            (got[first], "acked"),
            ("nobody's", "lease_lost"),
            (got[second], "nacked"),
        ]
        assert ann.message(first).state == "acked"
        polled = poll(ack=[polled[0].receipt])
        assert (list(polled), [one.status for one in polled.results]) == ([], ["acked"])
        assert [one.status for one in poll(nack=[got[second]]).results] == ["lease_lost"]
        return requests


def test_a_poll_carries_receipts(restartable: Restartable, asked: list[str]) -> None:
    assert go_round(restartable.url, asked) == [["poll"], *[["poll_and_ack"]] * 3]


def test_a_relay_that_does_not_take_them_gets_requests_of_their_own(old: Restartable, asked: list[str]) -> None:
    assert go_round(old.url, asked) == [
        ["poll"],
        ["poll_and_ack", "ack", "nack", "poll"],  # and it is remembered
        ["ack", "poll"],
        ["nack", "poll"],
    ]


def lease_of_a_poll_without_one(url: str) -> float:
    """Return the seconds for which a poll with ``lease=None`` holds a message."""
    with connect(url) as ann, connect(url) as bob:
        ann.register("ann", subscriptions=[])
        bob.register("bob", subscriptions=[])
        ann.send("bob", "x")
        (claimed,) = bob.poll(lease=None)
        claimed_at = datetime.fromisoformat(bob.info().server_time.replace("Z", "+00:00"))
        ends_at = datetime.fromisoformat(claimed.lease_expires_at.replace("Z", "+00:00"))
        assert bob.ack([claimed.receipt]).count == 1, "it was settled by the poll"
        return (ends_at - claimed_at).total_seconds()


def test_a_poll_without_a_lease_takes_that_of_the_relay(asked: list[str]) -> None:
    relay = Restartable(Limits(lease=3000))
    try:
        assert 2000 < lease_of_a_poll_without_one(relay.url) <= 3000
        assert "poll" not in asked
    finally:
        relay.close()


def test_a_poll_without_a_lease_holds_what_an_older_relay_brings(old: Restartable) -> None:
    assert 0 < lease_of_a_poll_without_one(old.url) <= 60


@each("status", ["404 Not Found", "405 Method Not Allowed"])
def test_either_refusal_means_that_it_does_not(scripted: Scripted, asked: list[str], status: str) -> None:
    asked.clear()
    refusal = "unknown_route" if status.startswith("404") else "method_not_allowed"
    result = '{"receipt": "r", "message_id": "m", "status": "acked"}'
    scripted.script = [
        http(status, f'{{"error": "not here", "code": "{refusal}"}}'),
        http("200 OK", f'{{"results": [{result}], "count": 1}}'),
        http("200 OK", '{"messages": [], "count": 0, "deliveries": []}'),
    ]
    with connect(scripted.url, agent_id="bob") as bob:
        assert [one.status for one in bob.poll(ack=["r"]).results] == ["acked"]
    assert asked == ["poll_and_ack", "ack", "poll"]


def test_an_agent_that_is_not_known_is_no_such_refusal(restartable: Restartable, asked: list[str]) -> None:
    with connect(restartable.url, agent_id="nobody") as nobody, pytest.raises(errors.UnknownAgent):
        nobody.poll(ack=["r"])
    assert asked == ["poll_and_ack"]


def test_mistakes_are_told_before_anything_is_sent(restartable: Restartable, asked: list[str]) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("ack", {"ack": "r"}),
        ("nack", {"nack": "r"}),
        ("ack", {"ack": ["r"] * 1001}),
        ("delay", {"nack": ["r"], "delay": -1}),
        ("lease", {"ack": ["r"], "lease": 1}),
    ]
    with connect(restartable.url, agent_id="bob") as bob:
        for field, options in wrong:
            with pytest.raises(errors.BadRequest) as caught:
                bob.poll(**options)
            assert str(caught.value.field).split("[")[0] == field, options
    assert asked == []


def test_a_reply_that_is_cut_is_asked_for_again(restartable: Restartable, asked: list[str]) -> None:
    """The acks are done, and the reply never comes: the repeat answers for them as the first would have."""
    proxy = Proxy(restartable.url)
    try:
        with connect(restartable.url) as ann, connect(restartable.url) as bob:
            ann.register("ann", subscriptions=[])
            bob.register("bob", subscriptions=[])
            behind = connect(proxy.url, agent_id=bob.agent_id, agent_key=bob.agent_key)
            first = ann.send("bob", "first").message_id
            (got,) = bob.poll()
            limits = iter([0])
            proxy.limit = lambda: next(limits, None)
            asked.clear()
            polled = behind.poll(ack=[got.receipt])
            assert [(one.message_id, one.status) for one in polled.results] == [(first, "acked")]
            assert (asked, proxy.cuts) == (["poll_and_ack"] * 2, 1)
            assert (list(polled), list(bob.poll())) == ([], [])
            behind.close()
    finally:
        proxy.close()
