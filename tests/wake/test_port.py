"""The local port: open to this account alone, and no other program is believed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.client.hooks import port
from clawlink.client.hooks.port import Conversation, NoPort, Port
from clawlink.wake.port import Asker, LocalPort


class Echo:
    """Answers each question with itself, and a second line with its own."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def answer(self, asker: Asker, question: dict[str, Any]) -> None:
        self.asked.append(question)
        await asker.say({"echo": question["ask"]})
        if question["ask"] == "talk":
            await asker.say({"again": await asker.next()})


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[Echo]:
    echo = Echo()
    local = LocalPort(tmp_path, echo.answer)
    await local.open()
    yield echo
    await local.close()
    with pytest.raises(NoPort):
        port.find(str(tmp_path))


async def test_a_port_that_closes_as_a_question_comes_ends_its_conversation(tmp_path: Path) -> None:
    """The cancellation is lost at no turn of the event loop."""
    for turns in range(12):
        local = LocalPort(tmp_path, _wait_for_ever)
        await local.open()
        there = port.find(str(tmp_path))
        _, writer = await asyncio.open_connection("127.0.0.1", there.number)
        for _ in range(10):
            await asyncio.sleep(0)
        writer.write(port.signed(there.secret, "", {"ask": "x", "nonce": "n"}))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(local.close(), 30)
        writer.close()


async def _wait_for_ever(asker: Asker, question: dict[str, Any]) -> None:
    await asyncio.Event().wait()


async def test_questions_of_this_account_are_answered(echo: Echo, tmp_path: Path) -> None:
    home = str(tmp_path)
    assert await asyncio.to_thread(port.ask, home, {"ask": "x"}, 5.0) == {"echo": "x"}

    def talk() -> Any:
        with Conversation(port.find(home), {"ask": "talk"}, 5.0) as there:
            first = there.next(5.0)
            there.say({"said": "ü"})
            return first, there.next(5.0)

    assert await asyncio.to_thread(talk) == ({"echo": "talk"}, {"again": {"said": "ü"}})
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / port.FILE).stat().st_mode) == 0o600


async def test_a_stranger_gets_no_answer_and_asks_nothing(echo: Echo, tmp_path: Path) -> None:
    there = port.find(str(tmp_path))
    lines = [
        port.signed("wrong", "", {"ask": "x", "nonce": "n"}),
        port.signed(there.secret, "other", {"ask": "x", "nonce": "n"}),
        port.signed(there.secret, "", ["no object"]),
        port.signed(there.secret, "", {"ask": "x"}),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"x" * (2 * port.MAX_LINE_BYTES) + b"\n",
        b"\xff\n",
        b"\n",
        b"",
    ]
    for line in lines:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.number)
        with contextlib.suppress(ConnectionError):
            writer.write(line)
            writer.write_eof()
            assert await reader.read() == b"", line[:40]
        writer.close()
    assert echo.asked == []
    # A changed question has no right code.
    line = port.signed(there.secret, "", {"ask": "x", "nonce": "n"}).replace(b'"x"', b'"y"')
    reader, writer = await asyncio.open_connection("127.0.0.1", there.number)
    writer.write(line)
    assert await reader.read() == b""
    writer.close()
    assert await asyncio.to_thread(port.ask, str(tmp_path), {"ask": "x"}, 5.0) == {"echo": "x"}, "it goes on"


def test_another_program_at_the_port_is_not_believed(tmp_path: Path) -> None:
    """As after a kill: the file is there, and another account has taken the number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = Port(listening.getsockname()[1], "secret")
        (tmp_path / port.FILE).write_text(json.dumps({"port": there.number, "secret": there.secret}))
        replies = [
            port.signed("guessed", "", {"nothing": True}),
            port.signed(there.secret, "", {"nothing": True}),  # as if an earlier line were sent again
            b'{"nothing": true}\n',
            b"y" * (2 * port.MAX_LINE_BYTES),
            b"",
        ]
        for reply in replies:
            with Conversation(port.find(str(tmp_path)), {"ask": "hook"}, 5.0) as asked:
                peer, _ = listening.accept()
                with peer:
                    said = peer.recv(65536)
                    assert b"secret" not in said
                    peer.sendall(reply)
                with pytest.raises((NoPort, ConnectionError)):
                    asked.next(5.0)


def test_without_the_program_or_with_a_corrupt_file_there_is_no_port(tmp_path: Path) -> None:
    for text in (None, "", "[]", "{", '{"port": "x", "secret": "y"}', '{"port": 5}', "[" * 5000):
        if text is not None:
            (tmp_path / port.FILE).write_text(text)
        with pytest.raises(NoPort):
            port.ask(str(tmp_path), {"ask": "x"}, 1.0)
