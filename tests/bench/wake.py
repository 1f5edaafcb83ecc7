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
from tests.system.threaded import relay_in_thread
from tests.wake.sessions import claude, waking

WAKES = 10
HOOKS = 20


def shown(name: str, seconds: Sequence[float]) -> None:
    """Print the median and the largest of some times."""
    milliseconds = sorted(1000 * one for one in seconds)
    print(f"{name}: p50 {statistics.median(milliseconds):.0f} ms, largest {milliseconds[-1]:.0f} ms")


def hook(session: str, *flags: str) -> float:
    """Run a hook with nothing new, and return how long it took."""
    command = [sys.executable, "-m", "clawlink", "hook", "PostToolUse", "--host", "claude", *flags]
    said = json.dumps({"session_id": session, "cwd": "/x/shop", "hook_event_name": "PostToolUse"}).encode()
    began = time.perf_counter()
    subprocess.run(command, input=said, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


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
        hook("second")
        shown("hook by the program", [hook("second") for _ in range(HOOKS)])
        program.stop()
        time.sleep(1.0)
        shown("hook without it", [hook("second") for _ in range(HOOKS)])
        bare = []
        for _ in range(HOOKS):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append(time.perf_counter() - began)
        shown("the interpreter alone", bare)
    print(f"load average at the beginning: {load:.1f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, relay_in_thread(ServerConfig(port=0)) as url:
        os.environ.update(HOME=folder, CLAWLINK_RELAY=url, CLAWLINK_NO_MDNS="yes")
        os.environ.pop("CLAWLINK_HOME", None)
        measure(Path(folder))
