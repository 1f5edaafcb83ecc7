"""Measure AgentRelay: many processes that send and receive events in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from clawlink.bench.scenarios import BenchFailed, Row

PROCESSES = 16
EVENTS = 1000
_SEND = """
import sys
from clawlink.agentrelay import agentrelay_send
who, events = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()
for n in range(events):
    agentrelay_send("bench-receiver", "REQ", f"e{who}-{n}", {"sender_agent": "bench-sender", "text": "x" * 500})
"""
_RECEIVE = """
import sys
from clawlink.agentrelay import agentrelay_receive
who, events = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()
for n in range(events):
    agentrelay_receive(f"REQ,e{who}-{n},s/,,")
"""


def events(folder: str, *, say: Callable[[str], None]) -> list[Row]:
    """Events a second that many processes send, and then receive, each change written to the disk."""
    each = EVENTS // PROCESSES
    rows = []
    for verb, program in (("sent", _SEND), ("received", _RECEIVE)):
        say(f"events of AgentRelay {verb} by {PROCESSES} processes")
        took = _together(program, each, folder)
        rows.append(Row(f"events of AgentRelay {verb} by {PROCESSES} processes", each * PROCESSES / took, "a second"))
    return rows


def _together(program: str, each: int, folder: str) -> float:
    """Run a program in many processes that begin at the same moment, and return how long the slowest took."""
    environ = {**os.environ, "OPENCLAW_DATA_DIR": folder}
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", program, str(who), str(each)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
        )
        for who in range(PROCESSES)
    ]
    time.sleep(1.0)  # they load what they need
    started = time.perf_counter()
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
    told = [process.communicate()[1] for process in processes]
    took = time.perf_counter() - started
    for process, said in zip(processes, told, strict=True):
        if process.returncode:
            raise BenchFailed(f"an event was refused: {said[-300:]}")
    return took
