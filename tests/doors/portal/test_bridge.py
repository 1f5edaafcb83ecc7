"""The bridge beside OpenClaw: nothing is acked before OpenClaw has it, and nothing is lost at any point."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clawlink import service
from clawlink.cli.main import main
from clawlink.doors.portal.client import bridge as module
from clawlink.doors.portal.client.bridge import Bridge, Status
from clawlink.doors.portal.client.portal import Place
from clawlink.doors.portal.client.start_script import STATUS_FILE
from clawlink.doors.portal.rules.wake_texts import MOST_TEXT_BYTES, merged, shortened, turn_of
from clawlink.wake.openclaw import Gateway, NoGateway
from tests.doors.portal.conftest import OWNER, Own, Portals
from tests.waiting import eventually, until
from tests.wake.openclaw import OpenClawStandIn

A, B = "https://a.example", "https://b.example"


class Bridged:
    """A portal with two contacts, an OpenClaw, and bridges that may die."""

    def __init__(self, portal: Own, openclaw: OpenClawStandIn, folder: Path) -> None:
        self.portal = portal
        self.openclaw = openclaw
        self.folder = folder
        self.gateway: Gateway | None = openclaw.gateway
        self.keys: dict[str, str] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.bridge: Bridge

    def find(self) -> Gateway:
        if self.gateway is None:
            raise NoGateway("there is none")
        return self.gateway

    async def begin(self) -> Bridge:
        (self.folder / STATUS_FILE).unlink(missing_ok=True)
        self.bridge = Bridge(Place(self.portal.url, OWNER), self.find, Status(self.folder, self.portal.url))
        self.tasks.append(asyncio.create_task(self.bridge.run()))
        await until(lambda: self.status["status"] != "starting")
        return self.bridge

    async def die(self) -> None:
        self.tasks[-1].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.tasks[-1]

    @property
    def status(self) -> dict[str, Any]:
        path = self.folder / STATUS_FILE
        told: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"status": "starting"}
        return told

    async def receive(self, url: str, text: str) -> None:
        ask = {"api_key": self.keys[url], "from_portal": url, "content": text}
        await self.portal.well("POST", "/api/message/receive", ask, key="")

    async def unread(self) -> dict[str, int]:
        contacts = (await self.portal.well("GET", "/api/contacts"))["contacts"]
        return {one["portal_url"]: one["unread_count"] for one in contacts}

    @property
    def runs(self) -> list[str]:
        return [run["message"].rpartition(": ")[2] for run in self.openclaw.runs.values()]


@pytest.fixture
async def bridged(portals: Portals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridged]:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "pause", lambda failed, last: 0.02)
    async with OpenClawStandIn() as openclaw:
        made = Bridged(await portals(), openclaw, tmp_path)
        for url, name in ((A, "ann"), (B, "bob")):
            made.keys[url] = await made.portal.befriend(url, agent_name=name, user_name="王")
        yield made
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_each_kind_of_news_wakes_in_its_own_way(bridged: Bridged) -> None:
    there = bridged.openclaw
    await bridged.receive(A, "hello")
    await bridged.portal.well("POST", "/api/guest/leave-message", {"content": "a stranger"}, key="")
    await bridged.portal.well("POST", "/api/chat/owner/send", {"content": "what is new"})
    await bridged.begin()
    await until(lambda: len(there.runs) == 2)
    await until(lambda: len(there.lines) == 1)
    message, guest = sorted((run["message"] for run in there.runs.values()), reverse=True)
    assert sorted([message, guest]) == sorted(
        [
            "[Agent P2P] 新消息来自 王的ann(Agent): hello",
            "[Agent P2P] 新留言: a stranger\n\n"
            "回复以下指令处理:\n- 同意添加: 同意 2\n- 拒绝添加: 拒绝 2\n- 仅标记已读: 已读 2",
        ]
    )
    assert there.lines == [("[主人消息] what is new\n[chat-3]", "now")]
    assert all(not run.keys() & {"channel", "to"} for run in there.runs.values())
    await until(lambda: bridged.status["status"] == "connected")
    await until(lambda: len(bridged.bridge._done) == 3 and not bridged.bridge._unconfirmed)
    await bridged.die()
    assert set(bridged.status) == {"status", "message", "timestamp", "hub_url"}
    await bridged.begin()
    await bridged.receive(A, "again")
    await until(lambda: "again" in bridged.runs)
    assert (len(there.runs), len(there.lines)) == (3, 1), "what was acked does not come again"

    async def all_acked() -> bool:
        return await bridged.unread() == {A: 0, B: 0}

    await eventually(all_acked)


async def test_nothing_is_acked_before_openclaw_has_it(bridged: Bridged) -> None:
    """OpenClaw is away, the bridge dies again and again, and nothing of it counts as an attempt."""
    away = bridged.gateway
    assert away is not None
    bridged.gateway = away._replace(hooks="http://127.0.0.1:9/hooks")
    for text in ("one", "two"):
        await bridged.receive(A, text)
    await bridged.portal.well("POST", "/api/chat/owner/send", {"content": "words"})
    for _ in range(7):  # more than the attempts after which a message is a dead letter
        await bridged.begin()
        await until(lambda: bridged.status["status"] == "error")
        await until(lambda: len(bridged.bridge._waiting) == 3)
        await bridged.die()
    assert await bridged.unread() == {A: 2, B: 0}
    bridged.gateway = away
    await bridged.begin()
    await until(lambda: bridged.runs == ["one", "two"])
    await until(lambda: bridged.openclaw.lines == [("[主人消息] words\n[chat-3]", "now")])
    await _until_unread(bridged, {A: 0, B: 0})


async def _until_unread(bridged: Bridged, wanted: dict[str, int]) -> None:
    async def unread() -> bool:
        return await bridged.unread() == wanted

    await eventually(unread)


async def test_a_death_between_wake_and_ack_makes_no_second_run(
    bridged: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(self: Bridge, item: Any) -> None:
        """Lose the ack."""

    with monkeypatch.context() as patch:
        patch.setattr(Bridge, "_ack", lost)
        await bridged.receive(A, "once")
        await bridged.begin()
        await until(lambda: bridged.runs == ["once"])
        assert await bridged.unread() == {A: 1, B: 0}
        await bridged.die()
    asked = bridged.openclaw.asked
    await bridged.begin()
    await _until_unread(bridged, {A: 0, B: 0})
    assert bridged.openclaw.asked == asked + 1, "it came again"
    assert bridged.runs == ["once"], "and was the same run"


async def test_a_failure_holds_up_its_own_contact_alone(bridged: Bridged) -> None:
    bridged.openclaw.not_now = ("a0", "a1", "a2")
    for n in range(3):
        await bridged.receive(A, f"a{n}")
        await bridged.receive(B, f"b{n}")
    await bridged.begin()
    await until(lambda: bridged.runs == ["b0", "b1", "b2"])
    bridged.openclaw.not_now = ()
    await until(lambda: bridged.runs[3:] == ["a0", "a1", "a2"])


async def test_a_refusal_for_good_is_kept_and_the_owner_told(bridged: Bridged) -> None:
    there = bridged.openclaw
    right = bridged.gateway
    assert right is not None

    async def said() -> list[str]:
        lines = (await bridged.portal.well("GET", "/api/chat/owner/history"))["messages"]
        return [line["content"] for line in lines if line["role"] == "agent"]

    bridged.gateway = right._replace(token="wrong")
    for text in ("one", "two"):
        await bridged.receive(A, text)
    await bridged.begin()
    await until(lambda: len(bridged.bridge._kept) == 2)
    (line,) = await eventually(said)
    assert "OpenClaw answers 401" in line, "told once for both"
    assert await bridged.unread() == {A: 2, B: 0}
    bridged.gateway = right
    await until(lambda: bridged.runs == ["one", "two"])
    await _until_unread(bridged, {A: 0, B: 0})
    for status in (400, 404, 413):
        asked = there.asked
        there.scripted.append(web.Response(status=status))
        await bridged.receive(B, f"refused {status}")
        await bridged.receive(B, f"after {status}")
        await until(lambda status=status: f"after {status}" in bridged.runs)  # type: ignore[misc]
        assert there.asked == asked + 2, "a text that is refused for good is not tried again"
    await _until_unread(bridged, {A: 0, B: 3})
    await until(lambda: len(bridged.bridge._told) == 3)
    assert len(await said()) == 4
    await bridged.die()
    await bridged.begin()
    await _until_unread(bridged, {A: 0, B: 0})
    assert "refused 413" in bridged.runs, "the next start tries again"


async def test_a_message_that_nobody_holds_counts_its_attempts(bridged: Bridged) -> None:
    """A bridge that reads and dies without a word may be killed by the text, so that has an end."""
    relay = bridged.portal.relay
    await bridged.receive(A, "poison")
    for _ in range(5):
        socket = await relay.session.ws_connect(
            bridged.portal.url + "/ws/agent", params={"api_key": OWNER, "acks": "all"}, autoping=True
        )
        frame = await socket.receive_json()
        while frame["type"] != "new_message":
            frame = await socket.receive_json()
        assert frame["delivery"]
        await socket.send_json({"type": "ping"})
        while (await socket.receive_json())["type"] != "pong":
            pass
        await socket.send_json({"type": "hold", "deliveries": ["no such thing", ""]})
        await socket.send_json({"type": "ack", "deliveries": ["no such thing"]})
        await socket.close()
    socket = await relay.session.ws_connect(bridged.portal.url + "/ws/agent", params={"api_key": OWNER, "acks": "all"})
    await bridged.portal.well("POST", "/api/chat/owner/send", {"content": "next"})
    assert (await socket.receive_json())["type"] == "owner_message", "the message would be first"
    await socket.close()


async def test_it_serves_at_a_portal_of_agent_p2p_too(bridged: Bridged) -> None:
    """There it acks messages by their numbers, and once OpenClaw has them."""
    acked: list[tuple[list[int] | None, int]] = []

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert (await socket.receive_json())["type"] == "sync_request"
        old = {"id": 3, "from": A, "content": "synced", "type": "text", "created_at": "x"}
        await socket.send_json({"type": "sync_response", "messages": [old]})
        await socket.send_str("no JSON")
        await socket.send_json([1])
        new = {"type": "new_message", "id": 4, "from": B, "from_name": "bob", "content": "live", "created_at": "x"}
        for frame in (new, {"type": "owner_message", "message_id": 1, "content": "words", "created_at": "x"}):
            await socket.send_json(frame)
        async for received in socket:
            told = received.json()
            if told["type"] == "ack":
                acked.append((told.get("message_ids"), len(bridged.openclaw.runs)))
                if len(acked) == 2:  # it is one more frame that takes the place of an ack of the owner's words
                    await socket.send_json({**new, "id": 5, "content": "last"})
        return socket

    app = web.Application()
    app.router.add_get("/ws/agent", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    task = asyncio.create_task(Bridge(Place(url, OWNER), bridged.find, Status(bridged.folder, url)).run())
    bridged.tasks.append(task)
    await until(lambda: len(acked) == 3 and len(bridged.openclaw.lines) == 1)
    assert sorted(str(numbers) for numbers, _ in acked) == ["[3]", "[4]", "[5]"]
    assert all(runs >= place for place, (_, runs) in enumerate(acked, 1)), "OpenClaw had each before its ack"
    assert sorted(bridged.runs) == ["last", "live", "synced"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await runner.cleanup()


def test_words_of_others_are_never_trusted_and_long_ones_are_cut() -> None:
    for frame in (
        {"type": "new_message", "from": A, "from_name": "x", "content": "y", "id": 1},
        {"type": "new_message", "from": A, "content": "y"},
        {"type": "new_guest_message", "message_id": 1, "content": "y"},
        {"type": "notice", "content": "the other portal answers 400: do as I say"},
        {"type": "file_transfer", "content": "[Agent P2P] 文件传输完成\n文件ID: a b; do as I say"},
    ):
        turn = turn_of(frame)
        assert turn is not None
        assert turn.external, frame
    done = turn_of({"type": "file_transfer", "content": "[Agent P2P] 文件传输完成\n文件ID: aB-_9\n文件已准备好下载"})
    assert done is not None
    assert not done.external
    named = turn_of({"type": "new_message", "from": A + "/p", "from_name": "https://x", "content": "y"})
    assert named is not None
    assert named.text == "[Agent P2P] 新消息来自 a.example/p: y"
    for frame in ({"type": "ping"}, {"type": "ack_confirm"}, {"type": "guest_message", "content": "x"}, {}):
        assert turn_of(frame) is None
    for text in ("字" * 131072, "\x00" * 131072, "x" * 131072):
        cut = shortened("head ", text, "clawlink portal history")
        assert len(json.dumps(cut)) < MOST_TEXT_BYTES + 200
        assert (cut == "head " + text) == (len(json.dumps(text)) < MOST_TEXT_BYTES)
    long = turn_of({"type": "notice", "content": "Task 1: " + "x" * MOST_TEXT_BYTES})
    assert long is not None
    assert len(json.dumps(long.text)) < MOST_TEXT_BYTES + 200
    assert long.text.endswith("cut here; the whole text: clawlink portal tasks]")


def test_gateway_env_is_merged_and_never_overwritten(
    clawlink_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merged("", {"A": "1"}) == ("A=1\n", [])
    assert merged("# A=0\nB=2", {"A": "1", "B": "3"}) == ("# A=0\nB=2\nA=1\n", ["B"])
    ran: list[tuple[str, ...]] = []

    def system(words: Sequence[str]) -> service.Done:
        ran.append(tuple(words))
        return service.Done(0, "")

    home = tmp_path / "account"
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr(service, "kind_here", lambda: service.SYSTEMD)
    monkeypatch.setattr(service, "_run", system)
    env = home / ".openclaw" / "gateway.env"
    env.parent.mkdir(parents=True)
    env.write_text("# mine\nOPENCLAW_HOOKS_TOKEN=secret\nAGENTP2P_HUB_URL=https://old.example\n")
    assert main(["portal", "bridge", "--install", "--at", "https://me.example", "--key", OWNER]) == 0
    assert "another value for AGENTP2P_HUB_URL, and keeps it" in capsys.readouterr().err
    after = env.read_text()
    assert (
        after
        == f"# mine\nOPENCLAW_HOOKS_TOKEN=secret\nAGENTP2P_HUB_URL=https://old.example\nAGENTP2P_API_KEY={OWNER}\n"
    )
    unit = home / ".config" / "systemd" / "user" / "clawlink-portal-bridge.service"
    assert '"portal" "bridge"' in unit.read_text()
    assert OWNER not in unit.read_text()
    assert ("systemctl", "--user", "enable", unit.name) in ran
    assert main(["portal", "bridge", "--install"]) == 0
    assert env.read_text() == after
    assert main(["portal", "bridge", "--uninstall"]) == 0
    assert not unit.exists()
    capsys.readouterr()
    assert main(["portal", "bridge", "--at", "http://me.example", "--key", OWNER]) == 2
    assert "would show the key on the way" in capsys.readouterr().err
