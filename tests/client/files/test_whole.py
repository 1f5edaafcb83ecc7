"""Every byte is written, and every byte read, however few a call takes; or it fails."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.files.atomic_files import Flow, Source
from clawlink.client.files.whole import flush_all, read_some, write_all
from tests.tables import each

DATA = bytes(range(256)) * 4000  # a megabyte: more than a pipe holds


class Sips(io.RawIOBase):
    """A raw file that takes a few bytes a call, and now and then none yet."""

    def __init__(self, room: int = sys.maxsize) -> None:
        self.data = b""
        self.room = room
        self.calls = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        self.calls += 1
        if self.calls % 3 == 0:
            return None
        taken = bytes(data[: min(7, self.room)])
        self.room -= len(taken)
        self.data += taken
        return len(taken)


def test_a_raw_file_gets_all_or_fails() -> None:
    raw = Sips()
    write_all(raw, b"x" * 100)
    Flow(raw).write(b"y" * 20)
    assert raw.data == b"x" * 100 + b"y" * 20
    with pytest.raises(OSError, match="does not take any more"):
        write_all(Sips(room=10), b"x" * 100)


def test_an_object_with_a_write_of_its_own_is_taken_at_its_word() -> None:
    class Own:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    own = Own()
    write_all(own, b"all of it")
    flush_all(own)
    assert own.data == b"all of it"


@pytest.mark.skipif(os.name != "posix", reason="pipes do not block there")
@each("buffering", [0, 8192])
def test_a_pipe_without_blocking_gets_all_and_gives_all(buffering: int) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    got = bytearray()

    def read() -> None:
        with open(ours, "rb", buffering=buffering) as file:
            while piece := read_some(file, 1000):
                got.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "wb", buffering=buffering) as file:
        write_all(file, DATA)
        flush_all(file)
    reader.join()
    assert bytes(got) == DATA


@pytest.mark.skipif(os.name != "posix", reason="pipes do not block there")
def test_what_has_not_come_yet_is_not_the_end_of_what_is_sent(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)

    def write() -> None:
        with open(theirs, "wb") as file:
            file.write(DATA)

    writer = threading.Timer(0.05, write)
    writer.start()
    with open(ours, "rb", buffering=0) as file:
        source = Source(file).kept()
    writer.join()
    assert source.measure().size == len(DATA)
    source.close()
