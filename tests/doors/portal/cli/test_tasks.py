"""``clawlink portal answer`` with files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.doors.portal.cli.test_portal import clawlink as clawlink
from tests.doors.portal.conftest import Bridges, Portals
from tests.doors.portal.test_errands import B_KEY, delegate, heard, task_in
from tests.doors.portal.test_files import pair
from tests.doors.portal.test_task_files import read
from tests.waiting import until


async def test_an_answer_takes_files(portals: Portals, bridges: Bridges, clawlink: Any, tmp_path: Path) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    id = await delegate(a, "B-bot@portal", "count the sheep")
    there = await heard(bridge, "count the sheep")
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(name)
    attach = ("--attach", str(tmp_path / "one.txt"), "--attach", str(tmp_path / "two.txt"))
    for _ in range(2):
        code, out, err = await clawlink(b, "answer", there, "see there", *attach, "--idempotency-key", "k")
        assert (code, "is stored with 2 files" in out) == (0, True), (out, err)
    done = await task_in(a, id, "completed")
    for one in done["result_attachments"]:
        assert await read(a, one["file_key"]) == (200, one["name"].encode())
    assert len(done["result_attachments"]) == 2
    for _ in range(2):
        attach = ("--attach", str(tmp_path / "one.txt"), "--idempotency-key", "d")
        code, out, err = await clawlink(a, "delegate", "B-bot", "read it", *attach)
        assert (code, "is stored" in out) == (0, True), (out, err)
    there = await heard(bridge, "read it")
    text = next(text for text in bridge.texts if "read it" in text)
    code, out, err = await clawlink(b, "get-file", text.rpartition(" ")[2], str(tmp_path / "got"))
    assert (code, (tmp_path / "got" / "one.txt").read_text()) == (0, "one.txt"), (out, err)
    code, out, err = await clawlink(b, "answer", there, "done", "--attach", str(tmp_path / "two.txt"))
    assert code == 0, err
    owners = await bridges(a)
    await until(
        lambda: any("is completed: done\nFile two.txt, 7 bytes: clawlink portal" in one for one in owners.texts)
    )
    code, _, err = await clawlink(b, "answer", "none", "x", "--attach", str(tmp_path / "one.txt"))
    assert (code, "no task 'none' crossed this portal" in err) == (5, True), err
    code, _, err = await clawlink(b, "answer", there, "x", "--attach", str(tmp_path / "three.txt"))
    assert (code, "three.txt" in err) == (1, True), err
