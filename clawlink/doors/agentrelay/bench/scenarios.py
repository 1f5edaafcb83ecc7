"""Measure AgentRelay: many processes that use one folder, and how long upkeep of events holds the event loop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from clawlink.bench.scenarios import BenchFailed, Row
from clawlink.bench.upkeep_scenarios import START, Scene, Step, Work
from clawlink.doors.agentrelay.rules import Event, Pointer
from clawlink.doors.agentrelay.server.events import KIND
from clawlink.doors.agentrelay.settings import Settings

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


async def _events(scene: Scene) -> Work:
    settings = Settings()
    scene.relay.keep(KIND)

    def pointer(n: int) -> Pointer:
        event = Event(id=f"e{n}", type="t", sender="s", receiver="r", secret="", created_at=START, ttl_hours=1)
        return Pointer(
            id=f"e{n}",
            version=1,
            event=event,
            content=b"{}",
            sender_name="s",
            receiver_name="r",
            receiver_id="r",
            made_by="m",
            ends_at=START + 3600,
        )

    await scene.put(map(pointer, range(scene.many(settings.max_events))))
    scene.now += 3601
    return scene.sweep


STEPS: dict[str, Step] = {"100,000 events end at once": _events}
