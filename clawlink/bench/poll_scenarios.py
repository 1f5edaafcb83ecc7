"""Measure a message over HTTP: in three requests (send, poll, ack), and in two, where the next poll carries the ack."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from clawlink.bench.exchange import Exchange, Round, drive, receipts_in
from clawlink.bench.scenarios import BODY_BYTES, CONNECTIONS, Relay, Row, names_for


def _exchange(relay: Relay, sender: str, reader: str, *, together: bool) -> Exchange:
    """Two agents: one sends, the other polls and acks, message after message."""
    send = relay.request("POST", "/send", {"from_agent": sender, "to_agent": reader, "content": _content()})
    poll = relay.request("GET", f"/poll/{reader}?lease=60")
    taken: list[str] = []

    def in_three() -> Round:
        yield send
        receipts = receipts_in((yield poll), count=1)
        yield relay.request("POST", "/ack", {"agent_id": reader, "receipts": receipts})

    def in_two() -> Round:
        yield send
        polled = yield relay.request("POST", f"/poll/{reader}", {"ack": taken, "lease": 60})
        taken[:] = receipts_in(polled, count=1)

    return Exchange(in_two if together else in_three)


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
            pairs = [_exchange(relay, *pair, together=together) for pair in zip(senders, readers, strict=True)]
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
