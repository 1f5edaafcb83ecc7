"""How long a wake and a hook take: ``python -m tests.bench.wake``. It runs processes, as a person has them.

A relay, the program that wakes agents, and a session of the stand-in for Claude Code, all on an account of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from clawlink.cli.main import main
from clawlink.client.hooks.sessions import Sessions
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.service import own_command
from tests.system.threaded import relay_in_thread
from tests.wake.sessions import claude, waking

WAKES = 10
HOOKS = 20


def shown(name: str, seconds: Sequence[float]) -> None:
    """Print the median and the largest of some times."""
    milliseconds = sorted(1000 * one for one in seconds)
    print(f"{name}: p50 {statistics.median(milliseconds):.0f} ms, largest {milliseconds[-1]:.0f} ms")


def runs(name: str, words: Sequence[str], said: bytes = b"") -> None:
    """Run a command some times, and print how long it took, and its processor time."""
    times, work = [], []
    for _ in range(HOOKS):
        began, before = time.perf_counter(), os.times()
        subprocess.run(words, input=said, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        times.append(time.perf_counter() - began)
        work.append(after.children_user + after.children_system - before.children_user - before.children_system)
    shown(name, times)
    print(f"  of that, processor time: mean {1000 * statistics.mean(work):.0f} ms")


def hooks(name: str, session: str) -> None:
    """Measure a hook with nothing new, after one that is not measured."""
    command = [*own_command(), "hook", "PostToolUse", "--host", "claude"]
    said = json.dumps({"session_id": session, "cwd": "/x/shop", "hook_event_name": "PostToolUse"}).encode()
    subprocess.run(command, input=said, check=True, stdout=subprocess.DEVNULL)
    runs(name, command, said)


def measure(home: Path) -> None:
    """Measure on an account of its own."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    began = time.perf_counter()
    assert main(["connect", "claude", "--yes", "--json"]) == 0
    with waking() as program, claude("first") as asks, claude("second") as works:
        program.until("event")
        asks.until("begun")
        works.until("begun")
        worker = Sessions(home / ".clawlink").find("claude", "second")
        assert worker is not None
        asks.say(tool="relay_delegate", arguments={"to": worker.name, "task": "shout this"})
        task = asks.until("result")["task_id"]
        works.until("reported")
        works.until("idle")
        asks.say(tool="relay_tasks", arguments={"task_id": task, "wait_seconds": 50})
        asks.until("result")
        print(f"from a connected account to an answered task: {time.perf_counter() - began:.1f} s")
        with Client(worker.relay) as sender:
            sender.register("sender")
            times = []
            for _ in range(WAKES):
                time.sleep(2.5)  # the hook that waits begins a second after the turn
                sent = time.time()
                sender.send(worker.name, "hello")
                times.append(works.until("at") - sent)
                works.until("idle")
            shown("from send to the woken turn", times)
        time.sleep(1.0)
        hooks("hook by the program", "second")
        program.stop()
        time.sleep(1.0)
        hooks("hook without it", "second")
        runs("the interpreter alone", [sys.executable, "-I", "-c", "pass"])
    print(f"load average at the beginning: {load:.1f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, relay_in_thread(ServerConfig(port=0)) as url:
        os.environ.update(HOME=folder, CLAWLINK_RELAY=url, CLAWLINK_NO_MDNS="yes")
        os.environ.pop("CLAWLINK_HOME", None)
        measure(Path(folder))
