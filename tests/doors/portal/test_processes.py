"""Portals as processes with ``--data``: first start, restart, and a kill at the worst moments."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clawlink.cli.main import main
from clawlink.server import options
from clawlink.server.keys import with_secrets
from tests.conftest import RelayProcess, Running, Start
from tests.doors.portal.conftest import OWNER, Bridges, Own, Peers
from tests.doors.portal.test_files import PART, download, give, status_of
from tests.ports import free_port
from tests.tables import each
from tests.waiting import PATIENCE, until

KEYS = {"AGENTP2P_API_KEY": OWNER, "CLAWLINK_PORTAL_PASSWORD": "the password"}


class Gate:
    """A proxy that passes requests on, and may hold the answers back until they are lost."""

    def __init__(self) -> None:
        self.url = ""
        self.target = 0
        self.holds = False
        self.hold_at = 0
        """The answer, counted from now, after which all are held back; 0 for none."""
        self.held = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break off all connections."""
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hold_at:
            self.hold_at -= 1
            self.holds = not self.hold_at
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self.target)
        except ConnectionError:  # on Python 3.10 the peer would wait for an answer
            writer.close()
            return
        for work in (self._pass(reader, to, answers=False), self._pass(there, writer, answers=True)):
            task = asyncio.create_task(work)
            self._tasks.add(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    if answers and self.holds:
                        self.held.set()
                        continue
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    made = Gate()
    await made.start()
    yield made
    await made.stop()


class Portal:
    """A portal in a process of its own, over one folder."""

    def __init__(self, start: Start, session: Any, folder: Path, *flags: str, url: str = "") -> None:
        self.port = free_port()
        self._start = start
        self._flags = ("--data", str(folder), "--port", str(self.port), "--sync", "normal", *flags)
        self._url = url or f"http://127.0.0.1:{self.port}"
        self.process: RelayProcess | None = None
        running: Any = Running(f"http://127.0.0.1:{self.port}", None, session)  # type: ignore[arg-type]
        self.own = Own(running)

    def begin(self, env: dict[str, str] | None = None) -> RelayProcess:
        self.process = self._start("--portal", self._url, *self._flags, env=KEYS if env is None else env)
        return self.process

    def kill(self) -> None:
        assert self.process is not None
        self.process.stop(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)


async def one_message(portal: Own, other: str) -> list[str]:
    told = await portal.well("GET", "/api/messages/history", params={"contact_portal": other})
    return [one["content"] for one in told["messages"]]


async def test_a_killed_sender_and_a_killed_receiver_lose_and_double_nothing(
    start_relay: Start, session: aiohttp.ClientSession, gate: Gate, bridges: Bridges, tmp_path: Path
) -> None:
    a = Portal(start_relay, session, tmp_path / "a")
    b = Portal(start_relay, session, tmp_path / "b", url=gate.url)
    gate.target = b.port
    a.begin()
    b.begin()
    a_url = f"http://127.0.0.1:{a.port}"
    key = await a.own.befriend(gate.url)
    await b.own.well("POST", "/api/contacts", {"portal_url": a_url, "SHARED_KEY": key})
    gate.holds = True
    ask = {"to": gate.url, "content": "held", "idempotency_key": "k"}
    number = (await a.own.well("POST", "/api/portal/send", ask))["id"]
    await gate.held.wait()
    assert (await b.own.contact(a_url))["unread_count"] == 1
    a.kill()
    gate.holds = False
    a.begin()
    again = await a.own.well("POST", "/api/portal/send", ask)
    assert again["id"] == number, "the script that repeats its request meets the same message"
    await a.own.state(number, "sent")
    assert await one_message(b.own, a_url) == ["held"]
    mute = await bridges(b.own, acks=False)
    await until(lambda: len(mute.texts) == 1)
    b.kill()
    await mute.close()
    b.begin()
    bridge = await bridges(b.own)
    await until(lambda: [text.rpartition(" ")[2] for text in bridge.texts] == ["held"])
    await a.own.state(number, "acknowledged")
    assert await one_message(b.own, a_url) == await one_message(a.own, gate.url) == ["held"]
    login = {"password": KEYS["CLAWLINK_PORTAL_PASSWORD"]}
    session_key = (await b.own.well("POST", "/api/admin/login", login, key=""))["token"]
    b.kill()
    b.begin()
    await b.own.well("GET", "/api/contacts", key=session_key)  # a restart ends no login
    later = await bridges(b.own)
    second = (await a.own.well("POST", "/api/portal/send", {"to": gate.url, "content": "next"}))["id"]
    await a.own.state(second, "acknowledged")
    assert [text.rpartition(" ")[2] for text in later.texts] == ["next"], "what was acked does not come again"
    given = max(frame["id"] for frame in later.frames if frame["type"] == "new_message")
    await b.own.well("DELETE", "/api/portal/contacts/1")
    b.kill()
    b.begin()
    await b.own.well("POST", "/api/contacts", {"portal_url": a_url, "SHARED_KEY": key})
    assert (await b.own.contact(a_url))["id"] == 2
    told = await b.own.well("POST", "/api/message/receive", {"api_key": key, "from_portal": a_url, "content": "x"})
    assert told["message_id"] > given, "a number that was forgotten does not come again"


async def test_what_another_portal_may_have_is_never_said_not_to_be_there(
    start_relay: Start, session: aiohttp.ClientSession, gate: Gate, tmp_path: Path
) -> None:
    a = Portal(start_relay, session, tmp_path / "a")
    b = Portal(start_relay, session, tmp_path / "b", url=gate.url)
    gate.target = b.port
    a.begin()
    b.begin()
    a_url = f"http://127.0.0.1:{a.port}"
    key = await a.own.befriend(gate.url)
    await b.own.well("POST", "/api/contacts", {"portal_url": a_url, "SHARED_KEY": key})

    async def send(text: str) -> int:
        return int((await a.own.well("POST", "/api/portal/send", {"to": gate.url, "content": text}))["id"])

    await a.own.state(await send("known"), "sent")  # from now on it is known that repeats are taken once
    gate.holds = True
    number = await send("held")
    await gate.held.wait()
    assert (await one_message(b.own, a_url))[0] == "held"
    a.kill()
    gate.holds, gate.target = False, free_port()
    a.begin()
    await a.own.state(number, "sending")
    await a.own.well("POST", "/api/portal/contacts/1", {"blocked": True})
    told = await a.own.state(number, "unknown")
    assert "the other portal may have it; the contact was blocked before it was confirmed" in told["detail"]


async def test_a_killed_sender_posts_once_more_to_an_old_portal(
    start_relay: Start, session: aiohttp.ClientSession, gate: Gate, old_portals: Peers, tmp_path: Path
) -> None:
    portal, peer = Portal(start_relay, session, tmp_path / "a"), await old_portals("0.9")
    gate.target = int(peer.url.rpartition(":")[2])
    portal.begin()
    peer.from_portal = f"http://127.0.0.1:{portal.port}"
    peer.key = await portal.own.befriend(gate.url)
    gate.holds = True
    number = (await portal.own.well("POST", "/api/portal/send", {"to": gate.url, "content": "held"}))["id"]
    await gate.held.wait()
    portal.kill()
    gate.holds = False
    portal.begin()
    await portal.own.state(number, "sent")
    assert "/api/portal/about" in peer.asked
    assert [one["content"] for one in peer.stored] == ["held", "held"], "once in doubt, and once more"


async def test_a_kill_at_any_point_of_a_file_loses_and_doubles_nothing(
    start_relay: Start, session: aiohttp.ClientSession, gate: Gate, tmp_path: Path
) -> None:
    """Lose the answer to each request of a file in turn, and kill the receiver or the sender at that moment."""
    a = Portal(start_relay, session, tmp_path / "a")
    b = Portal(start_relay, session, tmp_path / "b", url=gate.url)
    gate.target = b.port
    a.begin()
    b.begin()
    key = await a.own.befriend(gate.url)
    a_url = f"http://127.0.0.1:{a.port}"
    await b.own.well("POST", "/api/contacts", {"portal_url": a_url, "SHARED_KEY": key})
    sent: list[bytes] = []
    for number, (point, victim) in enumerate(((1, b), (3, a), (4, b), (5, a))):
        sent.append(bytes([number]) * (PART + 1))
        gate.hold_at = point  # the announcement, the first part, the last one, the look at the end
        id = await give(a.own, gate.url, f"{number}.bin", sent[-1])
        await gate.held.wait()
        victim.kill()
        gate.holds, gate.hold_at = False, 0
        gate.held.clear()
        victim.begin()
        if victim is b:  # the sender's request ends with its connection only once the other side is gone
            gate.cut()
        await status_of(a.own, id, "sent")
    found = sorted((await b.own.well("GET", "/api/portal/files"))["files"], key=lambda one: one["filename"])
    assert [(one["filename"], one["status"]) for one in found] == [(f"{n}.bin", "completed") for n in range(4)]
    for one, data in zip(found, sent, strict=True):
        assert (await download(b.own, one["file_id"]))[1] == data


def test_the_first_start_makes_keys_and_prints_them_once(start_relay: Start, tmp_path: Path) -> None:
    def said(portal: Portal) -> str:
        process = portal.begin({"CLAWLINK_TOKEN": "t"})
        process.process.terminate()
        assert process.process.stdout is not None
        told = process.process.stdout.read()
        process.process.wait(PATIENCE)
        return told

    portal = Portal(start_relay, None, tmp_path / "a")
    first, second = said(portal), said(portal)
    assert re.search(r"^The owner key of the portal, shown this once: ap2p_[\w-]{43}$", first, re.MULTILINE)
    assert re.search(r"^The owner's password, shown this once: \S{12,}$", first, re.MULTILINE)
    assert "shown this once" not in second
    assert "This relay is the portal http://127.0.0.1" in second
    kept = b"".join(path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file())
    for secret in re.findall(r"shown this once: (\S+)", first):
        assert secret.encode() not in kept, "the folder has hashes alone"


@each(
    ("key", "password", "said"),
    [
        ("ap2p_$(openssl rand -hex 16)", "", "AGENTP2P_API_KEY cannot be the owner key: this key is the same for"),
        ("", "19950302", "CLAWLINK_PORTAL_PASSWORD cannot be the owner's password: this password is the default"),
        ("", "short", "CLAWLINK_PORTAL_PASSWORD cannot be the owner's password: a password has 6 to"),
    ],
)
def test_what_everybody_knows_opens_no_portal(
    key: str, password: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTP2P_API_KEY", key)
    monkeypatch.setenv("CLAWLINK_PORTAL_PASSWORD", password)
    assert main(["serve", "--portal", "https://me.example", "--port", "0", "--no-mdns"]) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "the contact" not in told, "it is about the owner"


@each(
    ("flags", "word"),
    [
        (["--portal", "http://me.example"], "give https://"),
        (["--portal", "me.example"], "begins with https://"),
        (["--portal", "https://me.example", "--no-auth"], "--no-auth would open"),
        (["--portal", "https://me.example", "--portal-allow-private", "10.0.0.0/99"], "--portal-allow-private: "),
        (["--portal", "https://me.example", "--portal-ca", "no-such-file"], "--portal-ca: no-such-file"),
        (["--portal-ca", "file"], "--portal-ca; give --portal, too"),
        (["--portal-ttl", "60", "--portal-lease", "0"], "--portal-ttl, --portal-lease; give --portal, too"),
        (["--portal", "https://me.example", "--portal-lease", "0.5"], "at least 1 seconds, not 0.5"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: list[str], word: str) -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    with pytest.raises(ValueError, match=re.escape(word)):
        options.read(parser.parse_args(flags), {})


def test_a_portal_on_loopback_asks_for_a_token_and_knows_its_name(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    flags = ["--portal", "https://Me.example:8443", "--data", str(tmp_path)]
    config = with_secrets(options.read(parser.parse_args(flags), {}), {"CLAWLINK_HOME": str(tmp_path / "home")})
    assert config.token
    assert config.allow_hosts == ("me.example",)
    assert not config.operated_locally


async def test_an_owner_key_that_was_ended_stays_ended_also_if_the_environment_has_it(
    start_relay: Start, session: aiohttp.ClientSession, tmp_path: Path, bridges: Bridges
) -> None:
    """Old agents hold the owner key, and so may others: the owner alone replaces it."""
    portal = Portal(start_relay, session, tmp_path / "a")
    portal.begin()
    own = portal.own
    status, told = await own.ask("POST", "/api/portal/owner-key", {})
    assert (status, told["code"]) == (403, "not_allowed"), "an agent could shut its owner out"
    assert "AGENTP2P_API_KEY" in told["detail"]
    bridge = await bridges(own)
    async with session.post(own.url + "/api/portal/session", json={"password": "the password"}) as answer:
        csrf = (await answer.json())["csrf"]
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    headers = {"Cookie": cookie, "ClawLink-CSRF": csrf}
    before = (await own.well("GET", "/api/key/list"))["owner_key"]
    assert (before["key_id"], before["last_used_at"] is None) == (OWNER[:20] + "...", False)
    async with session.post(own.url + "/api/portal/owner-key", headers=headers, json={}) as answer:
        key = (await answer.json())["api_key"]
    await until(lambda: bridge.closed)
    for _ in range(2):
        assert (await own.ask("GET", "/api/contacts"))[0] == 401
        after = (await own.well("GET", "/api/key/list", key=key))["owner_key"]
        assert after["key_id"] == key[:20] + "..."
        portal.kill()
        portal.begin()  # the old key is in its environment still
    portal.kill()
    other = "ap2p_" + "x" * 43
    portal.begin({**KEYS, "AGENTP2P_API_KEY": other})
    assert [(await own.ask("GET", "/api/contacts", key=one))[0] for one in (other, key, OWNER)] == [200, 401, 401]


async def test_a_login_at_the_page_outlives_a_restart_until_it_ends(
    start_relay: Start, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    portal = Portal(start_relay, session, tmp_path / "a")
    portal.begin()
    url = f"http://127.0.0.1:{portal.port}"

    async def opened() -> dict[str, str]:
        async with session.post(url + "/api/portal/session", json={"password": "the password"}) as answer:
            csrf = (await answer.json())["csrf"]
            return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "ClawLink-CSRF": csrf}

    async def status(headers: dict[str, str], path: str = "/api/chat/owner/reply", body: Any = None) -> int:
        async with session.post(url + path, json=body or {"content": "x"}, headers=headers) as answer:
            return answer.status

    first, second, third = [await opened() for _ in range(3)]
    assert await status(first, "/admin/logout", {"all": False}) == 200
    portal.kill()
    portal.begin()
    assert [await status(page) for page in (first, second, third)] == [401, 200, 200]
    assert await status(second, "/api/portal/logout-all", {"x": 1}) == 200
    portal.kill()
    portal.begin()
    assert [await status(page) for page in (second, third)] == [401, 401]
    last = await opened()
    change = {"old_password": "the password", "new_password": "another one"}
    assert await status(last, "/api/auth/change-password", change) == 200
    portal.kill()
    portal.begin()
    assert await status(last) == 401
