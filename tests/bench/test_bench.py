"""The bench measures what it says it does. How fast anything is, no test asserts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawlink.bench import (
    attack_scenarios,
    file_scenarios,
    legacy_scenarios,
    link_scenarios,
    poll_scenarios,
    scenarios,
    servers,
    socket_scenarios,
    store_scenarios,
    task_scenarios,
    upkeep_scenarios,
)
from clawlink.bench.scenarios import BenchFailed, Relay
from clawlink.bench.servers import Server
from tests.conftest import Start
from tests.processes import Popen
from tests.valkey import program, running
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers start by a fork: what is measured here counts for nothing."""
    monkeypatch.setattr(subprocess, "Popen", Popen)


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(scenarios, "AGENTS", 40)
    monkeypatch.setattr(scenarios, "WAITING", 40)
    monkeypatch.setattr(scenarios, "MESSAGES", 500)
    with servers.relay() as server:
        yield Relay(server, None)


def _silent(what: str) -> None:
    assert what


async def test_many_agents_gives_discover_broadcast_and_what_others_notice(relay: Relay) -> None:
    rows = await scenarios.many_agents(relay, seconds=0.2, say=_silent)
    assert [row.unit for row in rows] == ["ms"] * 7
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize(("flow", "budget"), [("delegation", 72), ("ack", 58)])
def test_a_request_passes_no_more_calls_than_its_budget(flow: str, budget: int) -> None:
    """A layer that only passes on, or a fact that is asked for twice, shows here. The list says what is new."""
    command = [sys.executable, "-m", "tests.bench.opcodes", flow, "--calls"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    found = re.match(rf"{flow}: \d+ opcodes, (\d+) calls and \d+ files of its own\n", told)
    assert found is not None, told
    assert 30 < int(found[1]) <= budget, told


async def test_whole_tasks_are_counted_and_compared_with_five_bare_requests(relay: Relay) -> None:
    with servers.floor() as floor:
        (row,) = await task_scenarios.lives(relay, floor, seconds=0.2, rounds=1, say=_silent)
    assert row.value > 0
    assert row.ratio is not None
    assert row.ratio > 0


async def test_messages_in_three_requests_are_compared_with_two(relay: Relay) -> None:
    rows = await poll_scenarios.messages(relay, seconds=0.3, rounds=1, say=_silent)
    assert [row.unit for row in rows[:3]] == ["a second", "a second", "ratio"]
    assert all(row.value > 0 for row in rows), rows


async def test_rounds_of_old_clients_are_counted_beside_a_stand_in_of_their_server(relay: Relay) -> None:
    with servers.legacy() as legacy, servers.legacy("--least") as least:
        rows = await legacy_scenarios.rounds(relay, legacy, least, seconds=0.2, rounds=1, say=_silent)
    assert [row.unit for row in rows[-3:]] == ["ratio"] * 3
    assert all(row.value > 0 for row in rows), rows


async def test_messages_over_websockets_are_counted_beside_bare_echoes_and_bare_passing_on(relay: Relay) -> None:
    with servers.floor() as floor:
        rows = await socket_scenarios.messages(relay, floor, seconds=0.5, rounds=1, say=_silent)
    assert len(rows) == 2 * len(socket_scenarios.LOADS)
    # How much more or less beside everything else that is tested at the same time is nobody's guess.
    assert all(row.value > 0 and row.ratio is not None and row.ratio > 0 for row in rows), rows


async def test_without_a_floor_messages_over_websockets_are_only_counted(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_scenarios, "LOADS", ((2, 3),))
    (row,) = await socket_scenarios.messages(relay, None, seconds=0.5, rounds=1, say=_silent)
    assert row.value > 0
    assert row.ratio is None


async def test_the_way_from_one_websocket_to_another_is_timed(relay: Relay) -> None:
    for spins in (True, False):
        middle, slowest = await socket_scenarios.latency(relay, seconds=0.2, say=_silent, spins=spins)
        assert 0 < middle.value <= slowest.value


@pytest.mark.skipif(program() is None, reason="there is no valkey-server here")
def test_relays_over_a_server_are_measured_beside_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_scenarios, "CONNECTIONS", 4)
    with running() as server:
        measured = store_scenarios.lives(server.patient_url, seconds=0.2, rounds=1, say=_silent)
        rows = {row.what: row for row in measured}
    assert all(row.value > 0 for row in rows.values())
    of_one = rows["relays' processor time of a task with two relays, of one relay"]
    apart = rows["relays' processor time of a task with two relays, half of the load each, of a mesh each"]
    assert apart.unit == of_one.unit == rows["tasks with --store, of memory"].unit == "ratio"
    assert rows["from one websocket to another at 500 a second, p99, from one relay to the other"].unit == "ms"


async def test_idle_websockets_are_opened_and_weighed(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_scenarios, "IDLE", 40)
    rows = await socket_scenarios.idle(relay, seconds=0.2, say=_silent)
    assert rows[0].what.startswith("memory of each idle websocket, 40")


async def test_one_that_does_not_read_is_measured_beside_one_that_polls(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_scenarios, "LARGE", 40)
    rows = await socket_scenarios.stuck(relay, say=_silent)
    assert all(row.value > 0 for row in rows[:2])


async def test_links_are_timed_until_they_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_scenarios, "LINKS", 3)
    monkeypatch.setattr(link_scenarios, "RESTARTS", 2)
    rows = await link_scenarios.restarts(say=_silent)
    assert [row.unit for row in rows] == ["s"] * 4
    assert rows[3].value > 0


async def test_tasks_are_listed_in_every_state(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_scenarios, "LISTED", 1600)
    rows = await task_scenarios.lists(relay, seconds=0.2, say=_silent)
    assert len(rows) == 2 * 4
    assert all(row.value > 0 for row in rows)


async def test_a_takeover_is_timed_from_the_end_of_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_scenarios, "TAKEOVERS", 2)
    monkeypatch.setattr(task_scenarios, "STALE_SECONDS", 1.0)
    with servers.relay("--stale-after", f"{task_scenarios.STALE_SECONDS:g}") as server:
        rows = await task_scenarios.takeovers(Relay(server, None), say=_silent)
    assert len(rows) == 2 * 2
    # The clock begins once the worker has its reply, which is later than the lease does on a busy machine.
    half = task_scenarios.LEASE_SECONDS * 1000 / 2
    assert all(row.value > -half for row in rows), "a task changed hands before its lease was over"


async def test_memory_is_told_for_a_relay_of_our_own(relay: Relay) -> None:
    rows = await scenarios.memory(relay, say=_silent)
    assert [row.unit for row in rows] == ["bytes"]


async def test_memory_of_a_relay_that_runs_elsewhere_is_not_made_up(relay: Relay) -> None:
    elsewhere = Relay(Server(relay.server.url), None)
    assert await scenarios.memory(elsewhere, say=_silent) == []


async def test_files_go_both_ways_and_are_compared_with_bare_streams(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_scenarios, "FILE_BYTES", 3_000_000)
    with servers.floor() as floor:
        up, down = await file_scenarios.streams(relay, floor, rounds=2, say=_silent)
    for row in (up, down):
        assert row.unit == "MB/s"
        assert row.value > 0
        assert row.ratio is not None
        assert row.ratio > 0


async def test_a_file_that_is_refused_ends_the_bench(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_scenarios, "FILE_BYTES", 70 * 1024 * 1024)
    with pytest.raises(BenchFailed, match="refused"):
        await file_scenarios.streams(relay, None, rounds=1, say=_silent)


async def test_many_uploads_at_once_are_weighed(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_scenarios, "FILE_BYTES", 1_000_000)
    (row,) = await file_scenarios.many_uploads(relay, say=_silent)
    assert (row.unit, row.value >= 0) == ("MB", True)


async def test_long_lists_of_files_are_read_to_their_end(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_scenarios, "FILES", 1500)
    middle, slowest = await file_scenarios.listing(relay, seconds=0.1, say=_silent)
    assert 0 < middle.value <= slowest.value


async def test_each_step_of_upkeep_is_done_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_scenarios, "SHARE", 0.0005)
    said: list[str] = []
    rows = await upkeep_scenarios.upkeep(say=said.append)
    assert len(rows) == len(said) > 10
    assert all(row.unit == "ms" and row.value > 0 for row in rows), rows


async def test_others_are_timed_beside_each_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_scenarios, "RATE", 100)
    monkeypatch.setattr(attack_scenarios, "_AUDIENCE", 5)
    with servers.relay("--token", "right", *attack_scenarios.FLAGS) as server:
        rows = await attack_scenarios.attacks(Relay(server, "right"), seconds=0.05, say=_silent)
        async with await Relay(server, "right").open() as asker:
            left = await Relay(server, "right").ask(asker, "GET", "/discover?status=all")
    assert left["count"] == 0, left
    assert len(rows) == 2 + len(attack_scenarios.attacks_of("right")) + 2
    assert all(row.unit == "ms" and row.value > 0 for row in rows), rows


async def test_waiting_polls_are_held_open_and_let_go(relay: Relay) -> None:
    rows = await scenarios.waiting_polls(relay, seconds=0.2, say=_silent)
    assert rows[0].what.startswith("memory of each waiting poll")
    assert len(rows) == 3


async def test_a_relay_that_refuses_ends_the_bench_with_its_own_words(start_relay: Start) -> None:
    refusing = Relay(Server(start_relay("--token", "right").url), "wrong")
    with pytest.raises(BenchFailed, match="not_authenticated"):
        await refusing.register(["someone"])


def test_the_command_prints_a_table_with_ratios_to_the_floor(clawlink_home: Path) -> None:
    flags = ["--floor", "--seconds", "0.2", "--rounds", "1", "--only", "delegate", "--only", "work"]
    done = subprocess.run(
        [sys.executable, "-m", "clawlink.cli.main", "bench", *flags, "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert rows["delegate, consumers drain"]["ratio"] > 0
    assert rows["delegate, nobody drains"]["ratio"] > 0
    assert rows["delegate, claim, ack, respond, claim, ack"]["value"] > 0


def test_the_command_measures_a_relay_that_runs_already(start_relay: Start, clawlink_home: Path) -> None:
    flags = ["--only", "work", "--seconds", "0.2"]
    done = subprocess.run(
        [sys.executable, "-m", "clawlink.cli.main", "--relay", start_relay().url, "bench", *flags],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "rounds a second" in done.stdout
