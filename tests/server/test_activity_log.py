"""The relay's terminal tells who came and went and which task went to whom, and never what a task says."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from clawlink.server.logs import JsonLines, TextLines
from tests.conftest import Serve
from tests.waiting import PATIENCE

SECRET = "the words of the task"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    plain = {*vars(logging.makeLogRecord({})), "message"}
    return [
        (record.getMessage(), {name: fact for name, fact in vars(record).items() if name not in plain})
        for record in caplog.records
        if record.name == "clawlink.relay"
    ]


async def test_the_log_tells_who_came_and_went_and_which_task_went_to_whom(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    relay = await serve(clock=lambda: now[0], limits={"stale_after": 10.0})
    with caplog.at_level(logging.INFO, "clawlink.relay"):
        await relay.post("/register", {"agent_id": "a1", "name": "alice"})
        await relay.post("/register", {"agent_id": "b1", "name": "bob", "capabilities": ["dig"]})
        ask = {"from_agent": "a1", "task": SECRET, "context": {"more": SECRET}}
        _, first = await relay.post("/delegate", {**ask, "to_agent": "b1", "priority": "high"})
        _, second = await relay.post("/delegate", {**ask, "capability": "dig"})
        assert (await relay.get("/poll/b1?lease=300&limit=2"))[1]["count"] == 2
        now[0] += 60
        await relay.post("/register", {"agent_id": "a1", "name": "alice"})
        await relay.ask("DELETE", "/agents/b1")
    lines = told(caplog)
    joined = [facts["agent_name"] for event, facts in lines if event == "joined"]
    assert joined == ["alice", "bob"]
    sent = {"from_name": "alice", "from_agent": "a1"}
    assert [facts for event, facts in lines if event == "delegated"] == [
        {"task_id": first["message_id"], **sent, "to_name": "bob", "to_agent": "b1", "priority": "high"},
        {"task_id": second["message_id"], **sent, "capabilities": "dig", "priority": "normal"},
    ]
    assert [facts for event, facts in lines if event == "came back"] == [{"agent_name": "alice", "agent_id": "a1"}]
    back = [facts for event, facts in lines if event == "taken back"]
    assert {facts["task_id"] for facts in back} == {first["message_id"], second["message_id"]}
    assert {facts["from_name"] for facts in back} == {"bob"}
    left = [facts for event, facts in lines if event == "left"]
    assert [(facts["agent_name"], facts["waiting"]) for facts in left] == [("bob", 1)]
    assert SECRET not in caplog.text + repr(lines)


async def test_a_name_cannot_act_on_the_terminal(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    relay = await serve()
    names = ["line\nbreak joined agent_name=root", "\x1b[31mred", "\x9b31mred", "c\rd", "x\u2028y", "☃"]
    with caplog.at_level(logging.INFO, "clawlink.relay"):
        for at, name in enumerate(names):
            status, reply = await relay.post("/register", {"agent_id": f"a{at}", "name": name})
            assert status in (200, 400), reply
    records = [record for record in caplog.records if record.getMessage() == "joined"]
    assert records
    for record in records:
        for line in (TextLines().format(record), JsonLines().format(record)):
            assert line.isprintable(), line
            assert " agent_name=root" not in line or "'" in line


async def test_a_flood_is_20_lines_a_second_and_a_count(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    relay = await serve(clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "clawlink.relay"):
        for at in range(50):
            await relay.post("/register", {"agent_id": f"a{at}"})
        now[0] += 1
        relay.app.relay.activity_log.tell()
        assert [event for event, _ in told(caplog)] == ["joined"] * 20 + ["and 30 more"]
        await relay.post("/register", {"agent_id": "late"})
        assert [event for event, _ in told(caplog)][21:] == ["joined"]


STANDS_STILL = """
import logging, os, sys
from clawlink.server.logs import set_up
set_up("info", as_json=False)
log = logging.getLogger("clawlink.relay")
for turn in range(3000):
    log.info("a line", extra={"filler": "x" * 1000})
print("went on", flush=True)
"""


def test_a_terminal_that_reads_nothing_does_not_hold_up_the_relay() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STANDS_STILL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "went on\n"  # 3 MB of lines are more than any pipe holds
        _, written = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert written.count(" a line ") >= 1
    assert all(" a line " in line or "lines of the log are lost" in line for line in written.splitlines())
