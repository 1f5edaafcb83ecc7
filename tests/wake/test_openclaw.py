"""OpenClaw's hooks: which answers count, which are final, and what leaves this machine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from clawlink.wake import openclaw
from clawlink.wake.openclaw import AGAIN, COUNTED, KEPT, Gateway, NoGateway, OpenClaw, Outcome, checked, find, outcome
from tests.tables import each
from tests.wake.openclaw import OpenClawStandIn


async def test_a_wake_is_one_line_of_the_main_session() -> None:
    async with OpenClawStandIn() as there, aiohttp.ClientSession() as session:
        client = OpenClaw(session, there.gateway)
        assert await client.wake("1 new message: m-1") == Outcome(COUNTED, 200)
        assert await client.wake("1 new message: m-2", now=False) == Outcome(COUNTED, 200)
        assert there.lines == [("1 new message: m-1", "now"), ("1 new message: m-2", "next-heartbeat")]


async def test_a_repeated_run_is_one_run_and_reaches_no_channel() -> None:
    async with OpenClawStandIn() as there, aiohttp.ClientSession() as session:
        client = OpenClaw(session, there.gateway)
        first = await client.agent("text of a peer", key="m-1", timeout=60)
        assert (first.kind, first.status, first.run_id) == (COUNTED, 202, "run-0")
        assert await client.agent("text of a peer", key="m-1", timeout=60) == first
        assert (await client.agent("another", key="m-2")).run_id == "run-1"
        said = {"message": "text of a peer", "name": "ClawLink", "wakeMode": "now", "deliver": False}
        assert there.runs["m-1"] == {**said, "timeoutSeconds": 60}
        assert not {"channel", "to"} & there.runs["m-2"].keys()


async def test_refusals_for_good_are_kept_and_all_others_are_tried_again() -> None:
    async with OpenClawStandIn() as there, aiohttp.ClientSession() as session:
        wrong = OpenClaw(session, there.gateway._replace(token="wrong"))
        found = await wrong.wake("x")
        assert (found.kind, found.status) == (KEPT, 401)
        assert "hooks.token" in (found.why or "")
        gone = OpenClaw(session, there.gateway._replace(hooks=there.url + "/elsewhere"))
        assert (await gone.wake("x")).kind == KEPT
        client = OpenClaw(session, there.gateway)
        assert (await client.wake("  ")).status == 400
        asked = there.asked
        large = await client.agent("x" * openclaw.MAX_BODY_BYTES, key="k")
        assert (large.kind, large.status, there.asked) == (KEPT, 413, asked), "it never leaves"
        fits = "y" * (openclaw.MAX_BODY_BYTES - 300)
        assert (await client.agent(fits, key="k")).kind == COUNTED
        for status in (405, 408, 409, 429, 500, 502, 503):
            there.scripted.append(web.Response(status=status, text="busy\x1b[2J"))
            found = await client.wake("x")
            assert (found.kind, found.status) == (AGAIN, status)
            assert "\x1b" not in (found.why or "")
        there.scripted.append(web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}))
        assert (await client.wake("x")).kind == AGAIN, "the token goes nowhere else"
        there.scripted.append(web.Response(status=429, headers={"Retry-After": "7"}))
        assert (await client.wake("x")).retry_after == 7.0
        url = there.gateway
    async with aiohttp.ClientSession() as session:
        found = await OpenClaw(session, url).wake("x")
        assert (found.kind, found.status) == (AGAIN, None), "nothing listens there any more"


@pytest.mark.virtual_time
async def test_a_gateway_without_an_answer_is_given_up_after_20_seconds() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began = asyncio.get_running_loop().time()
    async with aiohttp.ClientSession() as session:
        found = await OpenClaw(session, Gateway(f"http://127.0.0.1:{port}/hooks", "t")).wake("x")
    assert (found.kind, found.status) == (AGAIN, None)
    assert 20 <= asyncio.get_running_loop().time() - began < 40
    await ended.wait()
    server.close()


@each(
    ("status", "said", "retry_after", "kind", "pause"),
    [
        (200, b'{"ok":true}', None, COUNTED, None),
        (204, b"", None, COUNTED, None),
        (202, b"[" * 100_000, None, COUNTED, None),
        (400, b'{"ok":false,"error":"text required"}', None, KEPT, None),
        (413, b"\xff\xfe", None, KEPT, None),
        (503, b'{"error":5}', "12", AGAIN, 12.0),
        (503, b"", "Fri, 31 Dec 1999 23:59:59 GMT", AGAIN, 2.0),
        (503, b"", "99999999", AGAIN, 3600.0),
        (503, b"", "\u0663", AGAIN, 2.0),
    ],
)
def test_answers(status: int, said: bytes, retry_after: str | None, kind: str, pause: float | None) -> None:
    found = outcome(status, said, retry_after)
    assert (found.kind, found.status) == (kind, status)
    if kind != COUNTED:
        assert found.why
    if pause is not None:
        assert openclaw.pause(2, found) == pause


def test_pauses_grow_and_end() -> None:
    assert [openclaw.pause(n, Outcome(AGAIN)) for n in (1, 2, 3, 9, 10, 5000)] == [1, 2, 4, 256, 300, 300]


def test_the_settings_of_a_gateway_are_where_its_variables_say(tmp_path: Path) -> None:
    moved = tmp_path / "state"
    moved.mkdir()
    (moved / "openclaw.json").write_text('{"hooks": {"enabled": true, "token": "t"}, "gateway": {"port": 5}}')
    with pytest.raises(NoGateway):
        find({}, home=tmp_path)
    for name, value in (("OPENCLAW_STATE_DIR", moved), ("OPENCLAW_CONFIG_PATH", moved / "openclaw.json")):
        assert find({name: str(value)}, home=tmp_path) == Gateway("http://127.0.0.1:5/hooks", "t")
    (moved / "openclaw.json").write_text("{x")
    with pytest.raises(NoGateway, match="state"):
        find({"OPENCLAW_STATE_DIR": str(moved)}, home=tmp_path)


def test_a_gateway_is_found_in_the_environment_then_in_the_files(tmp_path: Path) -> None:
    with pytest.raises(NoGateway, match="OPENCLAW_HOOKS_TOKEN"):
        find({}, home=tmp_path)
    folder = tmp_path / ".openclaw"
    folder.mkdir()
    settings = {"hooks": {"enabled": True, "token": "of-json", "path": "/my/hooks"}, "gateway": {"port": 4000}}
    (folder / "openclaw.json").write_text(json.dumps(settings))
    assert find({}, home=tmp_path) == Gateway("http://127.0.0.1:4000/my/hooks", "of-json")
    (folder / "gateway.env").write_text("# OPENCLAW_HOOKS_TOKEN=old\nOPENCLAW_HOOKS_TOKEN = of-env \n")
    assert find({}, home=tmp_path) == Gateway("http://127.0.0.1:4000/my/hooks", "of-env")
    environ = {"OPENCLAW_HOOKS_TOKEN": "t", "OPENCLAW_GATEWAY_URL": "https://claw.example/base/"}
    assert find(environ, home=tmp_path) == Gateway("https://claw.example/base/my/hooks", "t")
    (folder / "gateway.env").unlink()
    settings["hooks"]["enabled"] = False  # type: ignore[index]
    (folder / "openclaw.json").write_text(json.dumps(settings))
    with pytest.raises(NoGateway, match="not true"):
        find({}, home=tmp_path)
    for text in ("// a comment\n{}", "[]", '{"hooks": 5, "gateway": []}', "[" * 100_000):
        (folder / "openclaw.json").write_text(text)
        with pytest.raises(NoGateway, match=r"is not true|was not read"):
            find({}, home=tmp_path)


@each(
    ("url", "path", "token"),
    [
        ("127.0.0.1:18789", "/hooks", "t"),
        ("ftp://x", "/hooks", "t"),
        ("http://", "/hooks", "t"),
        ("http://x?token=y", "/hooks", "t"),
        ("http://x", "/", "t"),
        ("http://x", "/hooks?a", "t"),
        ("http://x", "/hooks", "t\r\nX: y"),
        ("http://x", "/hooks", "tök"),
    ],
)
def test_a_gateway_that_no_request_can_reach_is_refused(url: str, path: str, token: str) -> None:
    with pytest.raises(NoGateway):
        checked(url, path, token)
