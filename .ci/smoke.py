"""Import every module, then have a relay and its clients do their main work once: ``python -W error .ci/smoke.py``.

It needs no more than ClawLink itself. It finds what a version of Python lacks or warns of, in half a minute.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import clawlink
from clawlink import AsyncClient, Client, Link

_RUN = [sys.executable, "-W", "error", "-m", "clawlink"]
_LARGE = os.urandom(3 * 2**20)


def import_all() -> int:
    """Import all modules, but for those that need a package of an extra. Returns how many."""
    count = 0
    for module in pkgutil.walk_packages(clawlink.__path__, "clawlink.", onerror=_raise):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as missing:
            if (missing.name or "").startswith("clawlink"):
                raise
        else:
            count += 1
    return count


def _raise(name: str) -> None:
    kind, error, _ = sys.exc_info()
    if kind is not None and not issubclass(kind, ModuleNotFoundError) and error is not None:
        raise error


def work(url: str, folder: Path) -> None:
    """Do each kind of work once: by requests, by a link, by a websocket, and by the command line."""
    link = Link("worker", relay=url, identities=None)
    link.on_task(lambda task: task.text.upper())
    with link, Client(url) as boss:
        boss.register("Boss")
        assert boss.wait_for(boss.delegate("worker", "shout").message_id, timeout=60).result == "SHOUT"
        boss.put_file("large", _LARGE)
        assert boss.get_file("large").content == _LARGE
        asyncio.run(over_a_websocket(url))
    environ = {**os.environ, "CLAWLINK_HOME": str(folder / "home"), "CLAWLINK_RELAY": url}
    for words in (["register", "--name", "Typist"], ["send", "--to", "Typist", "--content", "hello"], ["poll"]):
        done = subprocess.run([*_RUN, *words, "--json"], env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", done.stderr
    assert "hello" in json.dumps(json.loads(done.stdout))


async def over_a_websocket(url: str) -> None:
    """Get a message over a websocket, and ack it."""
    async with AsyncClient(url) as ann, AsyncClient(url) as bob:
        await ann.register("ann")
        await bob.register("bob", subscriptions=[])
        async with bob.stream() as stream:
            sent: Any = await ann.send("bob", "hello")
            claimed = await asyncio.wait_for(stream.__anext__(), 60)
            assert claimed.message_id == sent.message_id
            await stream.ack([claimed.receipt])


def main() -> int:
    """Do all of it. Returns the exit code."""
    print(f"{import_all()} modules can be imported", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        serve = [*_RUN, "serve", "--port", "0", "--data", str(folder / "data"), "--log-level", "warning"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            try:
                said = re.search(r"http://\S+", relay.stdout.readline())
                assert said is not None, "the relay did not start"
                work(said[0], folder)
            finally:
                relay.terminate()
                relay.stdout.read()
        assert relay.returncode == 0 or os.name == "nt", relay.returncode
    print("a relay, its clients and the command line work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
