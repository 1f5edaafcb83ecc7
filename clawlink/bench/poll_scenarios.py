"""Measure a message over HTTP: in three requests (send, poll, ack), and in two, where the next poll carries the ack."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from clawlink.bench.load import Connection
from clawlink.bench.scenarios import BODY_BYTES, CONNECTIONS, Relay, Row, names_for
from clawlink.bench.task_scenarios import drive, read_polled


class _Messages:
    """A pair of agents on a connection: one sends, the other polls and acks, message after message."""

    def __init__(self, relay: Relay, sender: str, reader: str, *, together: bool) -> None:
        self._relay = relay
        self._reader = reader
        self._together = together
        self._send = relay.request("POST", "/send", {"from_agent": sender, "to_agent": reader, "content": _content()})
        self._poll = relay.request("GET", f"/poll/{reader}?lease=60")
        self._receipts: list[str] = []
        self._next = self._sent
        self.running = True
        self.done = 0
        self.failed: bytes | None = None

    def start(self, connection: Connection) -> None:
        """Send the first request."""
        connection.send(self._send)

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """Take an answer and send what comes next."""
        if status != 200:
            self.failed, self.running = body, False
        if self.running:
            connection.send(self._next(body))

    def _sent(self, body: bytes) -> bytes:
        self._next = self._polled
        if not self._together:
            return self._poll
        ask = {"ack": self._receipts, "lease": 60}
        return self._relay.request("POST", f"/poll/{self._reader}", ask)

    def _polled(self, body: bytes) -> bytes:
        self._receipts = [lease.receipt for lease in read_polled(body).deliveries]
        if len(self._receipts) != 1:
            self.failed, self.running = b"a poll did not bring the one message: " + body, False
        if self._together:
            return self._acked(body)
        self._next = self._acked
        return self._relay.request("POST", "/ack", {"agent_id": self._reader, "receipts": self._receipts})

    def _acked(self, body: bytes) -> bytes:
        self.done += 1
        self._next = self._sent
        return self._send


def _content() -> str:
    return "x" * BODY_BYTES


async def messages(relay: Relay, *, seconds: float, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Messages a second, and the relay's processor time for each, both ways by turns."""
    senders, readers = names_for("sender", CONNECTIONS), names_for("reader", CONNECTIONS)
    await relay.register([*senders, *readers])
    rates: dict[bool, list[float]] = {False: [], True: []}
    costs: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds):
        for together in (False, True):
            say(f"messages in {'two' if together else 'three'} requests, round {turn + 1} of {rounds}")
            pairs = [_Messages(relay, *pair, together=together) for pair in zip(senders, readers, strict=True)]
            before = relay.server.processor_seconds()
            rates[together].append(await drive(relay, pairs, seconds))
            after = relay.server.processor_seconds()
            if before is not None and after is not None:
                costs[together].append((after - before) / max(sum(pair.done for pair in pairs), 1))
            await _settle(relay, readers)
    await relay.leave([*senders, *readers])
    rows = [
        Row("message: send, poll, ack", statistics.median(rates[False]), "a second"),
        Row("message: send, poll that carries the ack", statistics.median(rates[True]), "a second"),
        Row("the latter, of the former", _ratio(rates), "ratio"),
    ]
    if costs[True]:
        rows += [
            Row("processor time: send, poll, ack", statistics.median(costs[False]) * 1e6, "microseconds"),
            Row("processor time: poll that carries the ack", statistics.median(costs[True]) * 1e6, "microseconds"),
            Row("the latter, of the former", _ratio(costs), "ratio"),
        ]
    return rows


def _ratio(figures: dict[bool, list[float]]) -> float:
    return statistics.median(two / three for three, two in zip(figures[False], figures[True], strict=True))


async def _settle(relay: Relay, readers: list[str]) -> None:
    """Ack what the end of a measurement has left leased or unread."""
    async with await relay.open() as asker:
        for reader in readers:
            await relay.ask(asker, "DELETE", f"/agents/{reader}")
            await relay.ask(asker, "POST", "/register", {"agent_id": reader, "name": reader})
