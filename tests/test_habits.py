"""Habits that the tests do without: sleeps, which are slow and unsure, and looks into private parts.

The package does without waits that count their sleeps.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import clawlink

TESTS = Path(__file__).parent

# Files that may sleep, and why.
SLEEPS = {
    "bench/opcodes.py": "what a relay does after its reply ends with nothing that a client sees",
    "waiting.py": "all waits for a condition are here",
    "bench/wake.py": "a session is idle before it is woken, and that takes a moment",
    "doors/a2a/agent.py": "the conformance kit asks an agent that answers after a while",
    "virtual_time.py": "time is virtual there",
    "server/test_handover.py": "a relay stands still",
    "doors/portal/test_random_kills.py": "portals are killed at random moments",
    "doors/portal/test_random_takeovers.py": "relays are killed and stopped at random moments",
    "cli/test_file_transfers.py": "a process that blocks is known by the processor time that it does not take",
    "system/test_old_polls.py": "a client that resets its connection does so at a random moment",
    "system/test_sums.py": "a client that resets its connection does so at a random moment",
    "system/test_workers.py": "workers are killed at random moments",
    "page/measure.py": "it sends messages at a steady rate, and measures for some seconds",
    "torture/agent.py": "it asks a relay that is away again after a moment",
    "torture/network.py": "a slow network is slow",
    "torture/nodes.py": "a relay whose store is away is started again after a moment",
    "torture/relay.py": "things happen to relays and agents at random moments",
    "system/worker.py": "a worker in a process of its own takes a random time",
}
# Files that may look into private parts, and why.
_REQUESTS = "it counts the requests that a client makes, and they show nowhere else"
_ELSEWHERE = "it needs a relay on another machine"
_DISK = "where a content lies, and whether it is on the disk, shows nowhere else"
_STORED = "it compares what the store says it takes with what it holds"
_TRANSPORT = "aiohttp shows no transport that could be paused"
PRIVATE = {
    "cli/test_poll.py": _REQUESTS,
    "client/link/test_life.py": _REQUESTS,
    "client/test_aio.py": _ELSEWHERE,
    "client/test_failures.py": _ELSEWHERE,
    "client/test_poll_and_ack.py": _REQUESTS,
    "client/test_stream.py": "frames in a write that is cancelled, or that nobody reads, show nowhere else",
    "client/test_sync.py": _ELSEWHERE,
    "client/files/test_transfer.py": "an upload is ended behind the back of its client, by an id that it tells nobody",
    "client/test_wait_steps.py": _REQUESTS,
    "doors/agentlink/conftest.py": "an agent whose reader has gone shows nothing until the door has let go of it",
    "doors/agentlink/test_attacks.py": _TRANSPORT,
    "doors/agentlink/test_doc.py": "argparse has no other way to list its options",
    "doors/agentlink/test_store_failures.py": "a copy that nobody has read is in no reply",
    "doors/portal/test_dates_and_stops.py": "a pause between two posts shows nowhere else",
    "doors/portal/test_bridge.py": "texts that a bridge holds and cannot hand on show nowhere else",
    "relay/test_janitor.py": "steps of upkeep are made to fail one by one",
    "server/test_operator.py": "an agent of an earlier version has an id that is kept now",
    "server/test_websocket.py": "how much waits in a transport shows nowhere else",
    "store/test_blobs.py": _DISK,
    "store/test_sqlite_contents.py": _DISK,
    "store/test_machine.py": _STORED,
    "store/test_memory.py": _STORED,
    "store/test_signals.py": "an empty list of listeners is in no count",
    "system/test_consumers.py": "the relay's own sockets are made small",
    "system/test_file_storms.py": "contents of no bytes are in no sum",
    "wake/test_adapters.py": "a program that was started without end is ended, and its end seen",
    "wake/test_program.py": "a program that is killed says nothing",
    "wake/test_watcher.py": "a watcher that is killed says nothing",
    "test_operations_doc.py": "argparse has no other way to list its options",
}
_PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}  # of named tuples and of os


def sleeps(tree: ast.AST) -> Iterator[ast.expr]:
    """Find each call of a function named sleep, but for ``sleep(0)``, which only lets others have a turn."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        turn = [getattr(argument, "value", None) for argument in node.args] == [0]
        if name == "sleep" and not turn:
            yield node


def counted(tree: ast.AST) -> Iterator[ast.expr]:
    """Find each loop that counts its sleeps in place of looking at the clock: on a busy machine each takes longer."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.For) or not any(sleeps(node)):
            continue
        if any(isinstance(part, ast.Div | ast.FloorDiv) for part in ast.walk(node.iter)):
            yield node.iter


def private(tree: ast.AST) -> Iterator[ast.expr]:
    """Find each attribute with an underscore in front that is not of the object itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr in _PUBLIC:
            continue
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        up = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", None) == "super"
        if node.attr.startswith("_") and not node.attr.startswith("__") and not own and not up:
            yield node


def found(rule: Callable[[ast.AST], Iterator[ast.expr]], word: str) -> dict[str, list[str]]:
    """Return the places in tests that a rule finds, by file. No file without the word has any."""
    places: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in rule(ast.parse(text)) if word in text else ():
            name = path.relative_to(TESTS).as_posix()
            places.setdefault(name, []).append(f"{node.lineno} {ast.unparse(node)}")
    return places


def test_the_rules_find_what_they_are_for() -> None:
    source = "time.sleep(0.1)\nawait asyncio.sleep(PAUSE)\nsleep(1)\nawait asyncio.sleep(0)\nself.sleep()\n"
    assert sorted(node.lineno for node in sleeps(ast.parse(source))) == [1, 2, 3, 5]
    source = "relay._core\nself._core\nrow._replace(a=1)\nself.store._kinds\ncls._x\nx.__class__\nos._exit(0)\n"
    assert sorted(node.lineno for node in private(ast.parse(source))) == [1, 4]
    source = "for _ in range(int(2.0 / STEP)):\n    await sleep(STEP)\nfor _ in range(3):\n    sleep(1)\n"
    assert [node.lineno for node in counted(ast.parse(source))] == [1]


def test_no_wait_counts_its_sleeps() -> None:
    package = Path(clawlink.__file__).parent
    trees = {path: ast.parse(path.read_text("utf-8")) for path in package.rglob("*.py")}
    assert not [f"{path.relative_to(package)}:{at.lineno}" for path, tree in trees.items() for at in counted(tree)]


def test_tests_wait_for_conditions_or_in_virtual_time() -> None:
    slept = found(sleeps, "sleep(")
    assert {name: places for name, places in slept.items() if name not in SLEEPS} == {}
    assert sorted(slept) == sorted(SLEEPS), "an exception that is not needed any more"


def test_tests_look_at_public_parts() -> None:
    looked = found(private, "._")
    assert {name: places for name, places in looked.items() if name not in PRIVATE} == {}
    assert sorted(looked) == sorted(PRIVATE), "an exception that is not needed any more"
