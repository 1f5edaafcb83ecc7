"""``clawlink portal answer`` with files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clawlink.doors.portal.cli.output import local
from tests.doors.portal.cli.test_portal import clawlink as clawlink
from tests.doors.portal.conftest import Bridges, Own, Portals
from tests.doors.portal.test_files import pair
from tests.doors.portal.test_forwarded_tasks import B_KEY, delegate, heard, task_in
from tests.doors.portal.test_task_files import delegate as with_file
from tests.doors.portal.test_task_files import read, share
from tests.ports import free_port
from tests.waiting import eventually, until


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
    code, _, err = await clawlink(b, "cancel", there)
    assert (code, f"turn it down with: clawlink portal answer {there} TEXT --status rejected" in err) == (2, True), err
    code, _, err = await clawlink(b, "answer", "none", "x", "--attach", str(tmp_path / "one.txt"))
    assert (code, "no task 'none' crossed this portal" in err) == (5, True), err
    code, _, err = await clawlink(b, "answer", there, "x", "--attach", str(tmp_path / "three.txt"))
    assert (code, "three.txt" in err) == (1, True), err


async def test_the_answer_to_a_question_takes_no_status(portals: Portals, clawlink: Any) -> None:
    a = await portals()
    await a.befriend(f"http://127.0.0.1:{free_port()}", agent_name="bob")
    _, out, _ = await clawlink(a, "delegate", "bob", "count the sheep")
    id = out.split()[1]
    code, _, err = await clawlink(a, "answer", id, "no", "--status", "failed")
    assert (code, f"take it back with: clawlink portal cancel {id}" in err) == (2, True), err
    code, _, err = await clawlink(a, "answer", id, "no", "--attach", __file__)
    assert (code, "--attach is for tasks that you were given" in err) == (2, True), err
    code, out, _ = await clawlink(a, "renew", "bob")
    assert (code, "has not taken the new key: it did not answer, or refused" in out) == (6, True), out
    assert "(no connection to 127.0.0.1:" in out, "it says why"


async def test_a_task_names_its_files_its_id_there_and_the_time_of_its_state(
    portals: Portals, bridges: Bridges, clawlink: Any, tmp_path: Path
) -> None:
    a, b = await pair(portals)
    bridge = await bridges(b, key=B_KEY)
    of_ann = await with_file(a, "B-bot@portal", "count them", await share(a, "flock.csv", b"1234"))
    (tmp_path / "sheep.csv").write_text("123")
    (tmp_path / "draft.txt").write_text("draft")
    (tmp_path / "count.pdf").write_text("12345")
    _, out, _ = await clawlink(a, "delegate", "B-bot", "count the sheep", "--attach", str(tmp_path / "sheep.csv"))
    id = out.split()[1]
    there = await heard(bridge, "count the sheep")
    draft = ("--status", "in_progress", "--attach", str(tmp_path / "draft.txt"))
    assert (await clawlink(b, "answer", there, "a draft", *draft))[0] == 0
    assert (await clawlink(b, "answer", there, "see there", "--attach", str(tmp_path / "count.pdf")))[0] == 0

    async def shown(own: Own, task: str) -> Any:
        return json.loads((await clawlink(own, "tasks", task, "--json"))[1])

    async def done() -> bool:
        return bool((await shown(a, id))["final"] and (await shown(b, there))["files"][1]["status"] == "sent")

    await eventually(done)
    for own, task, ways, states in (
        (a, id, ["sent", "received", "received"], ["sent", "completed", "completed"]),
        (b, there, ["received", "sent", "sent"], ["completed", "sent", "sent"]),
    ):
        told = await shown(own, task)
        files = told["files"]
        assert [(one["filename"], one["size"], one["part"]) for one in files] == [
            ("sheep.csv", 3, "task"),
            ("count.pdf", 5, "answer"),
            ("draft.txt", 5, "report"),
        ]
        assert ([one["type"] for one in files], [one["status"] for one in files]) == (ways, states)
        _, out, _ = await clawlink(own, "tasks", task)
        for one in files:
            command = f"clawlink portal get-file {one['file_id']}"
            assert f"{one['part']}, file {one['filename']}, {one['size']} bytes: " in out
            assert (command in out) is (one["type"] == "received"), out
        listed = {one["file_id"]: one for one in json.loads((await clawlink(own, "files", "--json"))[1])["files"]}
        assert all(listed[one["file_id"]]["task_id"] == task for one in files)
        assert (await clawlink(own, "files"))[1].count(f"  {task}\n") == 3
        assert told["since"] > told["created_at"], "the state came later"
        _, out, _ = await clawlink(own, "tasks")
        line = next(line for line in out.splitlines() if task in line)
        assert local(told["since"]) in line, out
    for own, task, other in ((a, id, there), (b, there, id)):
        assert (await shown(own, task))["task_id_there"] == other
        assert f"At the other portal it is task {other}." in (await clawlink(own, "tasks", task))[1]
    (one,) = (await shown(a, of_ann))["files"]
    assert (one["filename"], one["status"], one["type"]) == ("flock.csv", "sent", "sent")
    assert (await clawlink(a, "remove-file", one["file_id"]))[0] == 0
    (one,) = (await shown(a, of_ann))["files"]
    assert (one["filename"], one["file_id"], one["status"]) == ("flock.csv", None, None)
    assert "flock.csv, 4 bytes: not on its way, or deleted" in (await clawlink(a, "tasks", of_ann))[1]
