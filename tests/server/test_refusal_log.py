"""A log line that peers can cause as often as they like comes once a minute, with address and count."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.getMessage() == event]


async def test_wrong_tokens_are_one_line_a_minute_and_address(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    relay = await serve(token="right", clock=lambda: now[0], trust_proxies=("127.0.0.1",))
    with caplog.at_level(logging.WARNING, "clawlink"):
        for turn in range(10):  # no answer to so few waits
            for address in ("192.0.2.1", "2001:db8::1"):
                headers = {"Authorization": f"Bearer wrong-{turn}", "X-Forwarded-For": address}
                assert (await relay.get("/", headers=headers))[0] == 401
        told = lines(caplog, "refused")
        assert [(line["address"], line["code"], "count" in line) for line in told] == [
            ("192.0.2.1", "not_authenticated", False),
            ("2001:db8::1", "not_authenticated", False),
        ]
        caplog.clear()
        now[0] += 60
        relay.app.relay.refusal_log.tell()
        told = lines(caplog, "refused")
        assert [(line["address"], line["count"]) for line in told] == [("192.0.2.1", 9), ("2001:db8::1", 9)]
        caplog.clear()
        now[0] += 60
        relay.app.relay.refusal_log.tell()
        assert lines(caplog, "refused") == []


@pytest.mark.parametrize("store_kind", ["memory"])
async def test_a_disk_that_takes_nothing_has_a_line(
    serve: Serve, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    now = [1000.0]
    spool = tmp_path / "spool"
    spool.mkdir()
    relay = await serve(clock=lambda: now[0], spool=str(spool), spool_above=10)
    await relay.post("/register", {"agent_id": "a"})
    spool.rmdir()  # to the relay the same as a disk without room: the system refuses the file
    with caplog.at_level(logging.WARNING, "clawlink"):
        for turn in range(5):
            body = b"x" * 500_000
            status, told = await relay.ask("PUT", f"/blobs/k{turn}", data=body, headers={"ClawLink-Agent": "a"})
            assert (status, told["code"]) == (507, "storage_full"), told
        now[0] += 60
        relay.app.relay.refusal_log.tell()
        event = "cannot write to the disk"
        assert [line.get("count") for line in lines(caplog, event)] == [None, 4]
        assert all(line["reason"] for line in lines(caplog, event))
