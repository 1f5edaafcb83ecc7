"""A standard output that takes only a part: nothing is acknowledged or burned that was not written."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import COMMAND, Run
from tests.processes import Popen, run
from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and pipes of POSIX")

CONTENT = "x" * 200_000  # more than a pipe holds
_ROOM_BYTES = 50_000
# The command runs with a limit on the size of files: as a disk with little room, it takes a part first.
_LITTLE_ROOM = f"""import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, ({_ROOM_BYTES}, {_ROOM_BYTES}))
runpy.run_module("clawlink.cli.main", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def sender(relay: str) -> Client:
    client = Client(relay)
    client.register(f"sender-{uuid4().hex[:8]}")
    return client


@pytest.fixture
def me(call: Run, relay: str) -> str:
    return str(call("register", "--name", f"reader-{uuid4().hex[:8]}", "--json").ok().json["agent"]["agent_id"])


def contents(polled: str) -> list[str]:
    return [message["content"] for message in json.loads(polled)["messages"] if "content" in message]


def test_a_disk_that_takes_a_part_acks_and_burns_nothing(call: Run, me: str, sender: Client, tmp_path: Path) -> None:
    sender.put_blob("parts/burn", CONTENT.encode(), burn=True)
    for command in (["poll", "--json"], ["poll"], ["poll", "--follow"], ["file-get", "parts/burn"]):
        for unbuffered in ("1", ""):
            case = (command, unbuffered)
            sender.send(me, CONTENT)
            with open(tmp_path / "out", "wb") as out:
                done = run(
                    [sys.executable, "-c", _LITTLE_ROOM, *command],
                    stdout=out,
                    env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                    timeout=PATIENCE,
                )
            assert done.returncode == 1, (case, done)
            assert b"File too large" in done.stderr, (case, done)
            assert CONTENT in call("poll").ok().out, case
    assert call("file-get", "parts/burn").ok().raw == CONTENT.encode()


def test_a_pipe_without_blocking_gets_all(call: Run, me: str, sender: Client) -> None:
    sender.put_blob("parts/kept", CONTENT.encode())
    for command in (["poll", "--json"], ["file-get", "parts/kept"]):
        for unbuffered in ("1", ""):
            sender.send(me, CONTENT)
            ours, theirs = os.pipe()
            os.set_blocking(theirs, False)
            got = bytearray()
            with open(ours, "rb") as reading:
                reader = threading.Thread(target=lambda pipe=reading, got=got: got.extend(pipe.read()))
                process = Popen([*COMMAND, *command], stdout=theirs, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
                os.close(theirs)
                reader.start()
                code = process.wait(PATIENCE)
                reader.join()
            assert code == 0, (command, unbuffered)
            text = got.decode()
            assert text == CONTENT or CONTENT in contents(text), (command, unbuffered)


def test_text_from_a_pipe_begins_behind_a_byte_order_mark(call: Run, me: str, sender: Client) -> None:
    for given in (b"\xef\xbb\xbfhello\n", b"hello"):
        call("send", "--to", me, "--content", "-", stdin=given).ok()
        assert contents(call("poll", "--json").ok().out) == ["hello"], given
