"""Two write one file at the same time, each with the version it read, and merge: nothing that was saved is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from clawlink.client.files.merge import merge, split
from clawlink.client.sync import Client
from clawlink.config import ServerConfig
from clawlink.errors import VersionConflict
from tests.system.threaded import relay_in_thread

_SECONDS = 3.0
_CHECKED = 200
_KEY = "notes"


@pytest.fixture
def relay() -> Iterator[str]:
    with relay_in_thread(ServerConfig(port=0)) as url:
        yield url


class Writer(threading.Thread):
    """Adds a line at its own end of the text, again and again. ``saved`` are those that the relay took."""

    def __init__(self, relay: str, name: str, until: float) -> None:
        super().__init__()
        self._relay, self._name, self._until = relay, name, until
        self.saved: dict[str, int] = {}
        self.conflicts = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self._relay) as client:
                client.register(self._name)
                while time.monotonic() < self._until:
                    self._add(client, f"{self._name} {len(self.saved)}\n")
        except Exception as error:
            self.failure = error

    def _add(self, client: Client, line: str) -> None:
        read = client.get_file(_KEY)
        base, version = read.content.decode(), read.version
        text = line + base if self._name == "ann" else base + line
        while True:
            try:
                done = client.put_file(_KEY, text, if_version=version)
            except VersionConflict:
                self.conflicts += 1
                theirs = client.get_file(_KEY)
                merged = merge(base, text, theirs.content.decode())
                assert not merged.conflicts
                base, text, version = theirs.content.decode(), merged.text, theirs.version
            else:
                self.saved[line] = done.version
                return


class Reader(threading.Thread):
    """Reads all the while. ``seen`` has the content of each version."""

    def __init__(self, relay: str, until: float) -> None:
        super().__init__()
        self._relay, self._until = relay, until
        self.seen: dict[int, str] = {}
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self._relay) as client:
                while time.monotonic() < self._until:
                    file = client.get_file(_KEY)
                    text = file.content.decode()
                    assert self.seen.setdefault(file.version, text) == text
                    history = client.file_history(_KEY)
                    numbers = [one.version for one in history.versions]
                    assert numbers == list(range(history.version, max(history.version - 10, 0), -1))
        except Exception as error:
            self.failure = error


def test_two_writers_and_a_reader(relay: str) -> None:
    with Client(relay) as client:
        client.register("first")
        client.put_file(_KEY, "one\ntwo\nthree\nfour\n")
        until = time.monotonic() + _SECONDS
        ann, bob = (Writer(relay, name, until) for name in ("ann", "bob"))
        reader = Reader(relay, until)
        for thread in (ann, bob, reader):
            thread.start()
        for thread in (ann, bob, reader):
            thread.join(_SECONDS + 60)
            assert thread.failure is None
        end = client.get_file(_KEY)
    lines = split(end.content.decode())
    assert ann.conflicts + bob.conflicts > 0
    assert ann.saved
    assert bob.saved
    assert len(lines) == len(set(lines)) == len(ann.saved) + len(bob.saved) + 4
    saved = {**ann.saved, **bob.saved}
    assert saved.keys() <= set(lines)
    # A reader of a version has read every line that was saved up to then.
    for number, text in list(reader.seen.items())[:: 1 + len(reader.seen) // _CHECKED]:
        assert {line for line, version in saved.items() if version <= number} <= set(split(text))
    assert end.version == 1 + len(ann.saved) + len(bob.saved)
