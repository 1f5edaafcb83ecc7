"""Sessions behind a server of their program: a turn begins by our words, and a refusal says why."""

from __future__ import annotations

import gc
import sys
from itertools import count
from pathlib import Path

import aiohttp
import pytest

from clawlink.wake.adapters import Notice
from clawlink.wake.rules import FAILED, STARTED
from clawlink.wake.servers import Codex, Opencode
from tests.waiting import cancelled_after
from tests.wake.codex import THREAD, CodexStandIn
from tests.wake.opencode import OpencodeStandIn

NOTICE = Notice("ClawLink: 1 new message", ("m-1",), "key-1")


async def test_a_session_of_opencode_begins_a_turn() -> None:
    async with OpencodeStandIn("pw") as there, aiohttp.ClientSession() as http:
        session = Opencode(http, there.url + "/", "ses_1", "pw")
        assert await session.busy() is False
        assert (await session.fire(NOTICE)).result == STARTED
        assert there.turns == [NOTICE.text]
        assert there.agents == [("plan", {"providerID": "p", "modelID": "m"})], "a session that plans goes on planning"
        there.busy = True
        assert await session.busy() is True
        assert await Opencode(http, there.url, "ses_2", "pw").busy() is False
        gone = await Opencode(http, there.url, "ses_2", "pw").fire(NOTICE)
        assert (gone.result, gone.again) == (FAILED, None)
        assert "Session not found" in (gone.note or "")
        refused = await Opencode(http, there.url, "ses_1").fire(NOTICE)
        assert "OPENCODE_SERVER_PASSWORD" in (refused.note or "")
        assert await Opencode(http, there.url, "ses_1").busy() is False
        url = there.url
    async with aiohttp.ClientSession() as http:
        away = await Opencode(http, url, "ses_1").fire(NOTICE)
        assert (away.result, away.again is not None) == (FAILED, True)


@pytest.mark.skipif(sys.platform == "win32", reason="the socket is one of Unix")
async def test_a_thread_of_codex_begins_a_turn_and_is_resumed_first_if_need_be(tmp_path: Path) -> None:
    async with CodexStandIn(tmp_path / "c.sock") as there:
        thread = Codex(there.endpoint, THREAD)
        assert await thread.busy() is False
        assert (await thread.fire(NOTICE)).result == STARTED
        assert there.turns == [NOTICE.text]
        there.active = True
        assert await thread.busy() is True
        there.active, there.refuses = False, "Server overloaded\x1b[2J"
        refused = await thread.fire(NOTICE)
        assert (refused.result, refused.again) == (FAILED, None)
        assert "\x1b" not in (refused.note or "")
        assert "no rollout" in ((await Codex(there.endpoint, "other").fire(NOTICE)).note or "")
    async with CodexStandIn(tmp_path / "d.sock", loaded=False) as there:
        thread = Codex(there.endpoint, THREAD)
        assert await thread.busy() is False
        assert (await thread.fire(NOTICE)).result == STARTED
        assert there.asked[-3:] == ["turn/start", "thread/resume", "turn/start"]
        there.loaded, there.active = False, True
        busy = await thread.fire(NOTICE)
        assert (busy.result, busy.again is not None, len(there.turns)) == (FAILED, True, 1)
    away = await thread.fire(NOTICE)
    assert (away.result, away.again is not None) == (FAILED, True)
    assert await thread.busy() is False


@pytest.mark.skipif(sys.platform == "win32", reason="the socket is one of Unix")
async def test_a_conversation_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    async with CodexStandIn(tmp_path / "c.sock") as there:
        for turns in count():
            over = await cancelled_after(turns, Codex(there.endpoint, THREAD).busy())
            gc.collect()  # a session that is still open warns of itself
            if over:
                break
