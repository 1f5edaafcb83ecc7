"""A relay of a storm: a process of its own, the network before it, and the clock of its machine."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.processes import Popen
from tests.torture.network import Network

_FLAGS = (
    "--rate-agent", "0", "--rate-pair", "0", "--rate-register", "0", "--log-level", "error", "--retention", "100000",
)  # fmt: skip
_START_SECONDS = 60.0
_PAUSE_SECONDS = 0.2


class Lost(AssertionError):
    """The account of a case does not match."""


class Node:
    """A relay in a process of its own, the network before it, and the clock of its machine."""

    def __init__(
        self, place: Path, number: int, flags: tuple[str, ...], env: dict[str, str], checkout: Path | None = None
    ) -> None:
        """``checkout`` is the folder of another version of ClawLink; None for this one."""
        self.checkout = checkout
        self.network = Network()
        self.clock = place / f"clock{number}"
        self.clock.write_text("0")
        self._command = [sys.executable, "-m", "tests.torture.moved_clock", str(self.clock), *_FLAGS, *flags]
        self._env = {**os.environ, "CLAWLINK_HOME": str(place / f"home{number}"), **env}
        self.said = place / f"relay{number}.txt"
        self.process: subprocess.Popen[Any] | None = None
        self._port = 0

    async def start(self) -> None:
        """Run it, again if need be, until it listens. Raises Lost."""
        give_up_at = time.monotonic() + _START_SECONDS
        while not await asyncio.to_thread(self._start):
            if time.monotonic() > give_up_at:
                raise Lost(f"a relay does not start: {self.said.read_text()[-2000:]}")
            await asyncio.sleep(_PAUSE_SECONDS)
        if not self.network.port:
            await self.network.start(self._port)

    def _start(self) -> bool:
        with self.said.open("ab") as said:
            command = [*self._command, "--port", str(self._port)]
            # With -m the folder in which Python starts comes before all installed packages.
            self.process = Popen(command, stdout=subprocess.PIPE, stderr=said, env=self._env, cwd=self.checkout)
        assert self.process.stdout is not None
        found = re.search(rb"listening on http://127.0.0.1:(\d+)", self.process.stdout.readline())
        if found is None:  # the server of its store may be away
            self.process.wait()
            self.process.stdout.close()
            return False
        self._port = int(found[1])
        return True

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(number)
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.network.port}"
