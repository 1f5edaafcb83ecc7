"""``clawlink portal chat``: live both ways in a terminal and through pipes, with attachments."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests

from clawlink.cli.exits import UsageError
from clawlink.cli.main import main
from clawlink.doors.portal.cli import chat
from clawlink.doors.portal.cli.chat import attach, save
from clawlink.doors.portal.cli.output import as_instant, local
from clawlink.doors.portal.client.portal import Portal
from clawlink.errors import NotFound, RelayUnreachable, TooLarge
from tests.cli.test_top import Screen
from tests.doors.portal.conftest import PASSWORD, Bridges, Own, Portals
from tests.waiting import until


class Pipe:
    """Standard input that a test writes to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, self._writer = os.pipe()
        self._open = True
        self.reader = os.fdopen(read, encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", self.reader)

    def say(self, text: str) -> None:
        os.write(self._writer, text.encode())

    def end(self) -> None:
        if self._open:
            os.close(self._writer)
        self._open = False


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    pipe = Pipe(monkeypatch)
    try:
        yield pipe
    finally:
        pipe.end()
        pipe.reader.close()


async def reply(own: Own, text: str) -> int:
    number: int = (await own.well("POST", "/api/chat/owner/reply", {"content": text}))["message_id"]
    return number


async def test_through_pipes_lines_go_and_come_while_it_runs(
    portals: Portals,
    bridges: Bridges,
    clawlink_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(chat, "_PAUSE_SECONDS", 0.02)
    portal = await portals()
    bridge = await bridges(portal)
    shown = ""

    def out() -> str:
        nonlocal shown
        shown += capsys.readouterr().out
        return shown

    def talk(key: str, *words: str) -> asyncio.Task[int]:
        words = ("portal", "chat", *words, "--at", portal.url, "--key", key)
        return asyncio.create_task(asyncio.to_thread(main, list(words)))

    await reply(portal, "before")
    with piped(monkeypatch) as pipe:
        talking = talk(portal.key)
        await until(lambda: "before" in out())
        pipe.say("hello\n\n/file /etc/passwd\n")
        await until(lambda: "[主人消息] hello" in bridge.texts)
        await until(lambda: "[主人消息] /file /etc/passwd" in bridge.texts)  # no command: others may have written it
        await reply(portal, "\x1b[31mhere I am")
        await until(lambda: "here I am" in out())
        assert "\x1b" not in shown
        away = True
        request = requests.Session.request

        def unreachable(self: Any, *args: Any, **options: Any) -> Any:
            if away:
                raise requests.ConnectionError("away")
            return request(self, *args, **options)

        monkeypatch.setattr(requests.Session, "request", unreachable)
        await reply(portal, "ends the wait under way")
        await until(lambda: "ends the wait under way" in out())
        for number in range(60):
            await reply(portal, f"while away {number}.")
        away = False
        await until(lambda: "while away 59." in out())
        pipe.end()
        assert await talking == 0
    for text in ("hello", *(f"while away {number}." for number in range(60))):
        assert out().count(text) == 1, text
    agent = (await portal.well("POST", "/api/key/create", {"agent_name": "a"}))["api_key"]
    shown, last = "", await reply(portal, "the last one")
    with piped(monkeypatch) as pipe:
        pipe.say("an answer\n")
        pipe.end()
        assert await talk(agent, "--json", "--after", str(last - 1)) == 0
    # Its own line may come back before its input ends.
    assert [json.loads(line)["content"] for line in out().splitlines()] in (
        ["the last one"],
        ["the last one", "an answer"],
    )
    newest = (await portal.well("GET", "/api/chat/owner/history", params={"limit": "1"}))["messages"]
    assert [(line["role"], line["content"]) for line in newest] == [("agent", "an answer")]
    await portal.well("POST", "/api/key/revoke", params={"api_key": agent})
    with piped(monkeypatch):
        assert await talk(agent) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
async def test_in_a_terminal_it_shows_what_comes_and_ends_clean(
    portals: Portals, bridges: Bridges, clawlink_home: Path, tmp_path: Path
) -> None:
    portal = await portals()
    bridge = await bridges(portal)
    path = tmp_path / "report 1.pdf"
    path.write_bytes(b"what we found")
    words = ("portal", "chat", "--at", portal.url, "--key", portal.key)
    screen = await asyncio.to_thread(lambda: Screen(*words, env={"TZ": "NPT-5:45"}))

    async def until_shown(text: str) -> None:
        await asyncio.to_thread(screen.until, text)

    try:
        await until_shown("> ")
        screen.type("hello\n")
        await until(lambda: "[主人消息] hello" in bridge.texts)
        await reply(portal, "here I am")
        await until_shown("here I am")
        screen.type(f"/file {path}\n")
        await until(lambda: any("[文件] report 1.pdf" in text for text in bridge.texts))
        lines = (await portal.well("GET", "/api/chat/owner/history"))["messages"]
        screen.type(f"/save {lines[-1]['id']} {tmp_path / 'kept'}\n")
        await until_shown("Wrote ")
        assert (tmp_path / "kept" / "report 1.pdf").read_bytes() == b"what we found"
        for typed, said in (
            ("/hepl", "there is no command /hepl, and nothing is sent"),
            ("/save", "/save takes a LINE"),
            ("/file", "/file takes a PATH"),
            ("/help", "/quit or Ctrl-C ends the chat"),
        ):
            screen.type(f"{typed}\n")
            await until_shown(said)
        screen.type("//etc is a folder\n")
        await until(lambda: "[主人消息] /etc is a folder" in bridge.texts)
        last = (await portal.well("GET", "/api/chat/owner/history"))["messages"][-1]["id"]
        await until_shown(f"line {last}")
        assert not [
            text for text in bridge.texts if text.startswith(("[主人消息] /s", "[主人消息] /h", "[主人消息] /f"))
        ]
        screen.type("/quit\n")
        assert await asyncio.to_thread(screen.process.wait, 30) == 0
    finally:
        await asyncio.to_thread(screen.close)
    assert screen.shown.count("hello") == 1, "what was typed is not shown again"
    (line,) = [one for one in lines if one["content"] == "here I am"]
    there = datetime.fromisoformat(line["created_at"]).astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert f"agent  {there:%Y-%m-%d %H:%M:%S}" in screen.shown, "the time of the person"
    assert "Traceback" not in screen.shown


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reads no TZ")
def test_times_are_shown_and_read_in_the_time_zone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "NPT-5:45")
        time.tzset()
        try:
            assert local("2026-11-30T08:00:00.000000+08:00") == "2026-11-30 05:45:00"
            assert as_instant("2027-01-31") == "2027-01-31T00:00:00+05:45"
            assert as_instant("2027-01-31T12:00Z") == "2027-01-31T17:45:00+05:45"
            assert local("soon") == "?"
            with pytest.raises(UsageError, match="not 'soon'"):
                as_instant("soon")
        finally:
            patched.undo()
            time.tzset()


async def test_attachments_go_with_a_text_and_are_kept(
    portals: Portals, clawlink_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    portal = await portals()
    path = tmp_path / "x.txt"
    path.write_text("a file")

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["portal", *words, "--at", portal.url, "--key", portal.key])
        told = capsys.readouterr()
        return code, told.out + told.err

    assert (await run("say", "look", "--attach", str(path)))[0] == 0
    assert (await run("say"))[0] == 2
    assert (await run("say", "--attach", str(tmp_path / "none")))[0] == 1
    lines = (await portal.well("GET", "/api/chat/owner/history"))["messages"]
    assert [line["content"].partition("\n")[0] for line in lines] == ["[文件] x.txt", "look"]
    code, out = await run("get-attachment", str(lines[0]["id"]), str(tmp_path / "kept"))
    assert (code, "x.txt" in out, (tmp_path / "kept" / "x.txt").read_text()) == (0, True, "a file")
    assert (await run("get-attachment", str(lines[0]["id"]), str(tmp_path / "kept")))[0] == 0
    assert (tmp_path / "kept" / "x (1).txt").exists(), "nothing is overwritten"
    assert (await run("get-attachment", str(lines[1]["id"])))[0] == 5
    evil = "[文件] ../../x\n/static/owner_files/../../api/portal/info"
    number = await reply(portal, evil)
    with Portal(portal.url, portal.key) as client, pytest.raises(NotFound):
        await asyncio.to_thread(save, client, str(number), tmp_path)
    path.write_bytes(b"")
    os.truncate(path, 10 * 1024 * 1024 + 1)
    with Portal(portal.url, portal.key) as client, pytest.raises(TooLarge, match="send-file"):
        attach(client, path)


async def test_a_reply_that_breaks_off_is_no_answer_and_no_file(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ntext"

    async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(cut)
        writer.close()

    server = await asyncio.start_server(cut_off, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())

    def read(portal: Portal) -> None:
        with portal.stream("/file", 0) as answer:
            assert answer.content == b"text"

    for size in range(len(reply)):
        cut = reply[:size]
        with Portal(url, "k") as portal:
            for ask in (lambda portal: portal.ask("GET", "/x"), read):
                with pytest.raises(RelayUnreachable, match=r"does not answer: .*; is it running"):
                    await asyncio.to_thread(ask, portal)
    server.close()
    await server.wait_closed()


async def test_a_wait_for_a_line_ends_with_it_or_with_the_key(portals: Portals) -> None:
    portal = await portals()
    history = "/api/chat/owner/history"
    for text in ("one", "two", "three"):
        await reply(portal, text)
    for after, limit, expected in ((0, 2, ["one", "two"]), (1, 50, ["two", "three"]), (3, 50, []), (99, 50, [])):
        told = await portal.well("GET", history, params={"after": str(after), "limit": str(limit)})
        assert [line["content"] for line in told["messages"]] == expected, after
    session = (await portal.well("POST", "/api/admin/login", {"password": PASSWORD}, key=""))["token"]
    waiting = [
        asyncio.create_task(portal.ask("GET", history, params={"after": "3", "wait": "60"}, key=key))
        for key in (portal.key, session)
    ]
    signals = portal.relay.app.relay.core.signals
    await until(lambda: signals.listeners() == 2)
    await portal.well("POST", "/api/portal/logout-all")
    await reply(portal, "four")
    (status, told), (refused, _) = await asyncio.gather(*waiting)
    assert (status, [line["content"] for line in told["messages"]], refused) == (200, ["four"], 401)
    for query in ({"after": "-1"}, {"after": "x"}, {"after": "0", "wait": "61"}, {"limit": "00000000000501"}):
        assert (await portal.ask("GET", history, params=query))[0] == 400, query
