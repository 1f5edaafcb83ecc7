"""``clawlink portal`` and ``clawlink.portal``: two owners meet and write, with nothing but commands."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest

from clawlink import portal as functions
from clawlink.cli.main import main
from clawlink.doors.portal import DOOR
from clawlink.doors.portal.client import scripts
from clawlink.doors.portal.client.portal import Portal
from clawlink.doors.portal.client.start_script import FOLDER, PID_FILE, STATUS_FILE, running
from clawlink.doors.portal.server import outbox
from clawlink.errors import BadRequest, RelayUnreachable
from tests.cli.test_output import Terminal
from tests.doors.portal.conftest import OWNER, Bridges, Own, Peers, Portals
from tests.doors.portal.test_files import pair
from tests.ports import free_port
from tests.waiting import eventually, until

B_KEY = "ap2p_the-key-of-another-owner-000000000000000000"


@pytest.fixture
def clawlink(clawlink_home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command for an owner beside the relays: ``code, out, err = await clawlink(a, "contacts")``."""

    async def run(own: Own, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["portal", *words, "--at", own.url, "--key", own.key])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def rows(clawlink: Any) -> Any:
    """Return the cells of the table that an action prints, below its head: ``(first, *_) = await rows(a, "files")``."""

    async def run(own: Own, action: str) -> list[list[str]]:
        code, out, err = await clawlink(own, action)
        assert code == 0, err
        return [re.split(" {2,}", line) for line in out.splitlines()[1:]]

    return run


async def test_the_examples_work(portals: Portals, clawlink: Any) -> None:
    a, b = await portals(key=OWNER), await portals(key=B_KEY)
    assert (await clawlink(a, "ask", b.url, "I am Ann.", "--name", "bob"))[0] == 0
    (verb,) = DOOR.verbs()
    for example in ("portal approve 1", "portal contacts", 'portal send bob "hello"'):
        assert example in verb.examples
        own = b if "approve" in example else a
        assert (await clawlink(own, *shlex.split(example)[1:]))[0] == 0, example
    assert len(verb.examples) == 3


async def test_two_owners_meet_and_write(portals: Portals, bridges: Bridges, clawlink: Any) -> None:
    a, b = await portals(key=OWNER), await portals(key=B_KEY)

    async def well(own: Own, *words: str) -> str:
        code, out, err = await clawlink(own, *words)
        assert code == 0, (words, out, err)
        return str(out)

    assert "portal ask URL" in await well(a, "contacts")
    assert "Contact 1 is added" in await well(a, "ask", b.url + "/", "I am Ann.", "--name", "bob")
    code, out, _ = await clawlink(a, "send", "bob", "early", "--timeout", "0.2")
    assert (code, "and not yet sent" in out) == (6, True), out
    shown = await well(b, "list")
    assert "I am Ann." in shown
    assert "clawlink portal approve 1" in shown
    assert "Contact 1 is " + a.url in await well(b, "approve", "1", "--name", "ann")
    assert "No guest message waits" in await well(b, "list")
    assert "approved" in await well(b, "guests")
    assert "Message 2 to" in await well(a, "send", "bob", "hello", "--idempotency-key", "k")
    assert "is sent" in await well(a, "status", "1")
    bridge = await bridges(b)
    await until(lambda: len(bridge.texts) == 2)
    assert "acknowledged" in await well(a, "status", "2")
    numbers = [frame["id"] for frame in bridge.frames if frame["type"] == "new_message"]
    assert f"Message {numbers[1]} from {a.url} is acknowledged" in await well(b, "status", str(numbers[1]))
    await well(b, "send", "ann", "hi", "--in-reply-to", str(numbers[1]))
    assert json.loads(await well(a, "status", "2", "--json"))["state"] == "answered"
    history = await well(a, "history", "bob")
    assert [history.index(text) for text in ("early", "hello", "hi")] == sorted(
        history.index(text) for text in ("early", "hello", "hi")
    )
    await well(b, "say", "what is new")
    await well(b, "reply", "nothing")
    assert "what is new" in await well(b, "chat")
    made = json.loads(await well(b, "make-key", "bot", "--json"))["api_key"]
    assert "bot" in await well(b, "keys")
    agent = Own(b.relay, made)
    assert "ann" in await well(agent, "contacts")
    code, _, err = await clawlink(agent, "remove", "1")
    assert (code, "for the owner" in err) == (4, True), err
    other = json.loads(await well(b, "make-key", "other", "--json"))["api_key"]
    code, _, err = await clawlink(b, "revoke-key", "ap2p_")
    assert (code, "'clawlink portal keys' lists them" in err) == (5, True), "too short to name one"
    await well(b, "revoke-key", made[:14])
    assert "bot" not in await well(b, "keys")
    await well(b, "revoke-key", other)
    assert "is blocked" in await well(b, "block", "ann")
    assert "blocked" in await well(b, "contacts")
    assert "is unblocked" in await well(b, "unblock", a.url)
    assert "3 messages, 1 guest messages and 0 files" in await well(b, "forget", "ann")
    await well(a, "remove", "1")
    for words, code, said in (
        (["send", "nobody", "x"], 5, "clawlink portal contacts"),
        (["get-file", ""], 2, "a word is empty"),
        (["approve", "99"], 5, "no guest message 99; 'clawlink portal guests' lists them"),
        (["approve", "x"], 2, "a number is needed"),
        (["approve", "9" * 5000], 2, "a number is needed"),
        (["get-attachment", "9" * 5000], 2, "the number of a line is needed"),
        (["send", "bob"], 2, "clawlink portal send CONTACT TEXT|-"),
        (["status", "99"], 5, "no message 99; 'clawlink portal history CONTACT' lists"),
        (["history", "x"], 5, "clawlink portal contacts"),
        (["forget", "bob"], 5, "no contact 'bob'"),
    ):
        got, _, err = await clawlink(a, *words)
        assert (got, said in err) == (code, True), (words, err)


async def test_an_end_and_a_certificate_are_told_as_they_are(portals: Portals, clawlink: Any) -> None:
    a = await portals()
    await a.befriend("https://bob.example", agent_name="bob")
    for words, code, said in (
        (["end", "bob", "2020-01-01"], 0, "has ended: 2020-01-01 is over, so it is as if blocked; take the end away"),
        (["end", "bob", "2020-01-01"], 0, "with: clawlink portal end 1 never"),
        (["end", "bob", "2099-01-01"], 0, "ends 2099-01-01."),
        (["end", "bob", "Never"], 0, "has no end."),
        (["end", "bob", "soon"], 2, "a date or a time is needed, as 2027-01-31, or never, not 'soon'"),
        (["end", "bob", "2026-02-30"], 2, "a date or a time is needed"),
        (["end", "bob", "9999-12-31"], 2, "a date or a time is needed"),
        (["pin", "bob", "AB:" * 31 + "AB"], 0, "needs this very certificate."),
        (["pin", "bob", "abc"], 2, "64 hexadecimal digits; or none"),
        (["pin", "bob", "none"], 0, "needs a trusted certificate."),
    ):
        got, out, err = await clawlink(a, *words)
        assert (got, said in out + err) == (code, True), (words, out, err)


async def test_what_holds_a_contact_back_is_told_with_the_way_out(portals: Portals, clawlink: Any) -> None:
    a = await portals()
    await a.befriend("https://bob.example", agent_name="bob")
    for words, code, said in (
        (["pause", "bob"], 0, "is paused: "),
        (
            ["send", "bob", "hi", "--timeout", "0.1"],
            6,
            "the contact is paused; it goes after: clawlink portal resume 1",
        ),
        (["send", "bob", "hi", "--timeout", "0.1"], 6, "; see later with: clawlink portal status 2."),
        (["status", "2"], 6, "not yet sent: the contact is paused"),
        (["send-file", "bob", __file__, "--timeout", "0.1"], 6, "is queued: the contact is paused; it goes after: "),
        (["files", "bob"], 0, "is queued: the contact is paused; it goes after: clawlink portal resume 1"),
        (["delegate", "bob", "later", "--timeout", "0.1"], 6, "The other portal does not have it yet."),
        (["block", "bob"], 0, "is blocked: what it sends is refused"),
        (["contacts"], 0, "blocked, paused"),
        (["resume", "bob"], 0, "is not paused, but is blocked; end that with: clawlink portal unblock 1."),
        (["send", "bob", "x"], 7, "contact 1 is blocked; unblock it first: clawlink portal unblock 1"),
        (["send-file", "bob", __file__], 7, "contact 1 is blocked; unblock it first: clawlink portal unblock 1"),
        (["delegate", "bob", "x"], 7, "contact 1 is blocked; unblock it first: clawlink portal unblock 1"),
        (["delegate", "bob", "x", "--attach", __file__], 7, "contact 1 is blocked; unblock it first"),
        (["renew", "bob"], 7, "contact 1 is blocked; unblock it first"),
        (["end", "bob", "2020-01-01"], 0, "take the end away with: clawlink portal end 1 never"),
        (["unblock", "bob"], 0, "is unblocked, but has ended; end that with: clawlink portal end 1 never."),
        (["contacts"], 0, "ended 2020-01-01 00:00:00"),
        (["send", "bob", "x"], 7, "contact 1 is ended; take its end away first: clawlink portal end 1 never"),
        (["send-file", "bob", __file__], 7, "contact 1 is ended; take its end away first"),
        (["delegate", "bob", "x"], 7, "contact 1 is ended; take its end away first"),
        (["end", "bob", "never"], 0, "has no end."),
        (["resume", "bob"], 0, "goes on."),
        (["ask", "nowhere"], 2, "begins with https:// and a host"),
        (["ask", "https://eve.example:99999"], 2, "the port of a portal's address is from 1 to 65535"),
    ):
        got, out, err = await clawlink(a, *words)
        assert (got, said in out + err) == (code, True), (words, out, err)


async def test_a_message_tells_which_one_goes_first(portals: Portals, clawlink: Any) -> None:
    a = await portals()
    port = free_port()
    await a.befriend(f"http://127.0.0.1:{port}", agent_name="bob")
    await clawlink(a, "send", "bob", "one", "--timeout", "0.1")

    async def failed() -> bool:
        return "no connection" in (await clawlink(a, "status", "1"))[1]

    await eventually(failed)
    code, out, _ = await clawlink(a, "send", "bob", "two", "--timeout", "0.1")
    assert (code, "message 1 goes first" in out) == (6, True), out

    async def named() -> bool:  # a try that is under way has no failure yet
        shown = (await clawlink(a, "status", "2"))[1]
        return f"message 1 goes first (no connection to 127.0.0.1:{port}" in shown

    await eventually(named)
    code, _, err = await clawlink(a, "send", "bob", "three", "--in-reply-to", "1")
    assert (code, "message 1 is not from this contact" in err) == (1, True), err


async def test_files_go_and_come_by_commands_functions_and_scripts(
    portals: Portals,
    clawlink: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = await portals(key=OWNER), await portals(key=B_KEY)
    key = await a.befriend(b.url, agent_name="bob")
    path = tmp_path / "наш report.txt"
    path.write_bytes(b"what we found")
    code, out, _ = await clawlink(a, "send-file", "bob", str(path), "--timeout", "0.1", "--idempotency-key", "k")
    assert (code, "is queued" in out) == (6, True), out
    await b.well("POST", "/api/contacts", {"portal_url": a.url, "SHARED_KEY": key})
    code, out, _ = await clawlink(a, "send-file", "bob", str(path), "--idempotency-key", "k")
    assert (code, "is sent" in out) == (0, True), out
    code, out, _ = await clawlink(b, "files", "--json")
    (told,) = json.loads(out)["files"]
    assert "from " + a.url in (await clawlink(b, "files"))[1]
    for name in ("наш report.txt", "наш report (1).txt"):
        code, out, _ = await clawlink(b, "get-file", told["file_id"], str(tmp_path / "got"))
        assert (code, (tmp_path / "got" / name).read_bytes()) == (0, b"what we found"), out
    monkeypatch.setenv("AGENTP2P_HUB_URL", a.url)
    monkeypatch.setenv("AGENTP2P_API_KEY", OWNER)
    assert (await asyncio.to_thread(functions.send_file, path, "bob"))["status"] == "sent"
    assert await asyncio.to_thread(scripts.files, ["-f", str(path), "-t", "1"]) == 0
    assert await asyncio.to_thread(scripts.files, ["-f", str(path), "-t", "99"]) == 1
    capsys.readouterr()
    assert await asyncio.to_thread(scripts.files, ["-f", str(tmp_path / "none"), "-t", "1"]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none'}: No such file or directory\n"
    monkeypatch.setenv("AGENTP2P_HUB_URL", b.url)
    monkeypatch.setenv("AGENTP2P_API_KEY", B_KEY)
    output = tmp_path / "by script"
    assert await asyncio.to_thread(scripts.files, ["-d", told["file_id"], "-o", str(output)]) == 0
    assert [one.read_bytes() for one in output.iterdir()] == [b"what we found"]
    assert await asyncio.to_thread(scripts.files, ["-d", "-begins-with-a-dash", "-o", str(output)]) == 1
    part = output / f".{told['file_id']}.part"
    part.write_bytes(b"what")
    path = await asyncio.to_thread(functions.get_file, told["file_id"], output)
    assert path.read_bytes() == b"what we found", "it goes on where it was cut"
    others = [one["file_id"] for one in (await b.well("GET", "/api/portal/files"))["files"]]
    others.remove(told["file_id"])
    short = told["file_id"][:8]
    assert not any(one.startswith(short) for one in others)
    assert (await clawlink(b, "get-file", short, str(tmp_path / "short")))[0] == 0
    code, out, _ = await clawlink(b, "remove-file", short)
    assert (code, out) == (0, f"File {told['file_id']} is deleted.\n")
    for given in (told["file_id"], short, "x"):
        code, _, err = await clawlink(b, "get-file", given)
        assert (code, err) == (5, "clawlink: there is no such file; 'clawlink portal files' lists them\n")


async def test_tasks_cross_by_commands_and_short_ids(portals: Portals, clawlink: Any) -> None:
    a, b = await pair(portals)
    assert "portal delegate CONTACT TEXT" in (await clawlink(a, "tasks"))[1]
    code, out, _ = await clawlink(a, "delegate", "B-bot", "count the sheep")
    id = out.split()[1]
    assert (code, f"clawlink portal tasks {id}" in out) == (0, True), out

    async def there() -> Any:
        return json.loads((await clawlink(b, "tasks", "--json"))[1])["tasks"]

    (task,) = await eventually(there)
    code, out, _ = await clawlink(b, "tasks")
    assert (code, task["task_id"] in out, "A-bot" in out, "count the sheep" in out) == (0, True, True, True), out
    short = task["task_id"][:6]
    assert (await clawlink(b, "answer", short, "which ones?", "--status", "input_required"))[0] == 0

    async def asked() -> bool:
        return "which ones?" in (await clawlink(a, "tasks", id[:6]))[1]

    await eventually(asked)
    code, out, _ = await clawlink(a, "tasks", id[:6])
    assert (code, f"clawlink portal answer {id} TEXT" in out) == (6, True), out
    assert (await clawlink(a, "answer", id[:6], "all"))[0] == 0
    assert (await clawlink(b, "answer", short, "a hundred"))[0] == 0

    async def done() -> bool:
        return bool((await clawlink(a, "tasks", id[:6]))[0] == 0)

    await eventually(done)
    assert "a hundred" in (await clawlink(a, "tasks", id))[1]
    code, out, _ = await clawlink(a, "delegate", "B-bot", "wait", "--timeout", "0.1", "--json")
    second = json.loads(out)["task_id"]
    assert (code, json.loads(out)["final"]) == (6, False), out
    assert (await clawlink(a, "cancel", second[:8]))[0] == 0
    assert (await clawlink(a, "tasks", second))[0] == 1
    assert (await clawlink(a, "tasks", "beef" * 6))[0] == 5
    assert (await clawlink(a, "delegate", "nobody", "x"))[0] == 5


async def test_each_wait_goes_on_when_the_portal_is_back(
    portals: Portals, clawlink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = await pair(portals)
    real = Portal.ask
    looks = ("/api/portal/tasks", "/api/portal/messages/", "/api/file/status/")
    failures: Iterator[RelayUnreachable | None] = iter(())

    def ask(self: Portal, method: str, path: str, *args: Any, **options: Any) -> Any:
        failure = next(failures, None) if method == "GET" and path.startswith(looks) else None
        if failure is not None:
            raise failure
        return real(self, method, path, *args, **options)

    monkeypatch.setattr(Portal, "ask", ask)
    assert (await clawlink(a, "pause", "B-bot"))[0] == 0
    gone = RelayUnreachable("the portal does not answer: refused; is it running?")
    away = "clawlink: the portal does not answer: refused; waiting until it is back"
    # The first look at a file is a part of the sending.
    for command, first in (("delegate", []), ("send", []), ("send-file", [None])):
        for failing, notes in (([gone], [away, "clawlink: the relay is back"]), (repeat(gone), [away])):
            failures = chain(first, failing)
            code, _, err = await clawlink(a, command, "B-bot", __file__, "--timeout", "3")
            told = err.splitlines()
            assert (told[: len(notes)], code) == (notes, 3 if command == "delegate" and len(notes) == 1 else 6), command


async def test_each_list_names_its_columns(portals: Portals, clawlink: Any, rows: Any, tmp_path: Path) -> None:
    a, b = await pair(portals)
    path = tmp_path / "a report.txt"
    path.write_bytes(b"what we found")
    assert (await clawlink(a, "send-file", "B-bot", str(path)))[0] == 0
    assert (await clawlink(a, "make-key", "bot"))[0] == 0
    assert (await clawlink(a, "delegate", "B-bot", "count the sheep"))[0] == 0
    heads = {
        "contacts": "CONTACT NAME ADDRESS UNREAD TERMS",
        "files": "FILE NAME STATUS SIZE CONTACT TASK",
        "keys": "KEY LABEL MADE",
        "tasks": "TASK CONTACT STATE SINCE WHAT",
    }
    for action, head in heads.items():
        assert (await clawlink(a, action))[1].splitlines()[0].split() == head.split(), action
    assert (await rows(a, "files"))[0][1:] == ["a report.txt", "sent", "13 bytes", f"to {b.url}", "-"]


async def test_a_history_says_from_whom_each_message_came(portals: Portals, clawlink: Any) -> None:
    a, b = await pair(portals)
    shown = await clawlink(a, "history", "B-bot")
    assert shown[:2] == (0, f"No message has gone to or come from {b.url}; send one with: clawlink portal send\n")
    assert (await clawlink(a, "send", "B-bot", "hello\n  you"))[0] == 0
    head, *said = (await clawlink(a, "history", "B-bot"))[1].splitlines()
    assert head.startswith(f"Message 1 to {b.url}, ")
    assert said == ["  \u2502 hello", "  \u2502   you"]
    (head, *_) = (await clawlink(b, "history", "A-bot"))[1].splitlines()
    assert f" from {a.url}, " in head


async def test_the_lists_say_why_something_did_not_arrive(
    portals: Portals, clawlink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = await portals()
    await portal.befriend(f"http://127.0.0.1:{free_port()}", agent_name="bob")
    path = tmp_path / "report.txt"
    path.write_bytes(b"what we found")
    assert (await clawlink(portal, "send", "bob", "hello", "--timeout", "0.1"))[0] == 6
    assert (await clawlink(portal, "send-file", "bob", str(path), "--timeout", "0.1"))[0] == 6
    assert (await clawlink(portal, "block", "bob"))[0] == 0

    async def told(action: str, *words: str) -> list[str]:
        lines: list[str] = (await clawlink(portal, action, *words))[1].splitlines()
        return lines if any("refused: the contact was blocked before the" in line for line in lines) else []

    history = await eventually(partial(told, "history", "bob"))
    assert history[0].endswith("refused: the contact was blocked before the message was sent")
    listed = await eventually(partial(told, "files"))
    id = listed[1].split()[0]
    assert listed[2] == f"{id[:8]}, report.txt, is refused: the contact was blocked before the file was sent."
    for room in (40, 50, 60):
        monkeypatch.setenv("COLUMNS", str(room))
        monkeypatch.setenv("TERM", "xterm")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        assert (await clawlink(portal, "files"))[0] == 0
        lines = [re.sub("\x1b\\[[0-9;]*m", "", line).split() for line in terminal.getvalue().splitlines()]
        assert [id[:8], "report.txt", "refused"] in [line[:3] for line in lines], (room, lines)


async def test_what_cannot_be_meant_is_refused_with_the_way_to_write_it(portals: Portals, clawlink: Any) -> None:
    portal = await portals()
    await portal.befriend("https://bob.example", agent_name="bob")
    file = str(Path(__file__))
    for words, code, said in (
        (["answer", "907c", ""], 2, "TEXT is empty; give a text, or - for standard input, which may be empty"),
        (["send", "bob", "x", "--idempotency-key", ""], 2, "--idempotency-key is empty"),
        (["send", "bob", ""], 2, "a word is empty; give it as: clawlink portal send CONTACT TEXT|-"),
        (["send", "bob", " \n"], 2, "a word is empty"),
        (["delegate", "bob", " "], 2, "a word is empty"),
        (["ask", "https://eve.example", ""], 2, "a word is empty"),
        (["end", "bob", ""], 2, "a word is empty; give it as: clawlink portal end CONTACT DATE|never"),
        (["pin", "bob", " "], 2, "a word is empty; give it as: clawlink portal pin CONTACT SHA256|none"),
        (["rename", "bob", "12"], 1, "'12' stands for the number or the address of a contact; choose another name"),
        (["rename", "bob", "https://eve.example"], 1, "stands for the number or the address of a contact"),
        (["ask", "https://eve.example", "hi", "--name", "12"], 2, "--name '12' stands for the number"),
        (["status", "abc"], 2, "a number is needed, not 'abc'; see: clawlink portal history CONTACT"),
        (["deny", "bob"], 2, "a number is needed, not 'bob'; see: clawlink portal list"),
        (["send", "bob", "hi", "--in-reply-to", "x"], 2, "--in-reply-to: a whole number"),
        (["install-scripts", file], 1, f"File exists ({file}); choose another place"),
        (["bridge", "--install", "--uninstall"], 2, "--install and --uninstall exclude each other"),
    ):
        got, out, err = await clawlink(portal, *words)
        assert (got, said in err, out) == (code, True, ""), (words, out, err)
    assert (await portal.contact("https://bob.example"))["display_name"] is None
    assert len((await portal.well("GET", "/api/contacts"))["contacts"]) == 1
    for key in ("ключ", "a\nb"):
        code, _, err = await clawlink(Own(portal.relay, key), "list")
        assert (code, "the key has characters that no key has" in err) == (2, True), err


async def test_a_contact_is_removed_by_its_name_address_or_number(portals: Portals, clawlink: Any) -> None:
    portal = await portals()
    names = ("ann", "bob", "eve", "zoe", "max")
    for name in names:
        await portal.befriend(f"https://{name}.example", agent_name=name, user_name="" if name != "max" else "Liz")
    numbers = {c["agent_name"]: c["id"] for c in (await portal.well("GET", "/api/contacts"))["contacts"]}
    words = ("Ann", "HTTPS://bob.example:443/", str(numbers["eve"]), f"0{numbers['zoe']}", "liz的max")
    for at, (name, word) in enumerate(zip(names, words, strict=True), 1):
        code, out, err = await clawlink(portal, "remove", word)
        assert (code, f"Contact {numbers[name]} is removed; its messages stay." in out) == (0, True), (word, out, err)
        left = [c["agent_name"] for c in (await portal.well("GET", "/api/contacts"))["contacts"]]
        assert sorted(left) == sorted(names[at:])


async def test_a_relay_without_a_portal_is_told_from_a_wrong_key(
    portals: Portals, capsys: pytest.CaptureFixture[str], clawlink_home: Path
) -> None:
    portal = await portals()
    for at, key, code, said in (
        (portal.url + "/path", portal.key, 3, "answers as a relay without a portal; is the address right"),
        (portal.url, "ap2p_wrong", 4, "give the owner key or an agent key"),
    ):
        assert await asyncio.to_thread(main, ["portal", "contacts", "--at", at, "--key", key]) == code, at
        assert said in capsys.readouterr().err, at


async def test_an_answer_has_a_state_that_there_is(portals: Portals, clawlink: Any) -> None:
    portal = await portals()
    for wrong in ("bogus", "Completed"):
        code, _, err = await clawlink(portal, "answer", "beef", "x", "--status", wrong)
        assert (code, f"invalid choice: '{wrong}'" in err, "'in_progress', 'input_required'" in err) == (2, True, True)
    code, _, err = await clawlink(portal, "answer", "beef", "x", "--status", "")
    assert (code, "--status is empty; give one of in_progress, input_required, " in err) == (2, True)


async def test_a_contact_has_the_name_that_the_owner_gives_it(portals: Portals, clawlink: Any, rows: Any) -> None:
    portal = await portals()
    await portal.befriend("https://b.example")
    assert (await rows(portal, "contacts"))[0] == ["1", "-", "https://b.example", "0", "-"]
    assert (await clawlink(portal, "rename", "1", "Bob of the hill"))[0] == 0
    assert (await rows(portal, "contacts"))[0][1] == "Bob of the hill"
    assert (await clawlink(portal, "send", "bob of the hill", "hello", "--timeout", "0.05"))[0] == 6
    assert "hello" in (await clawlink(portal, "history", "BOB of the hill"))[1]
    code, _, err = await clawlink(portal, "rename", "1", "x" * 201)
    assert (code, "at most 200 characters" in err) == (1, True), err
    assert (await clawlink(portal, "rename", "1", ""))[0] == 0
    assert (await rows(portal, "contacts"))[0][1] == "-"


async def test_photos_are_added_and_removed_by_commands(portals: Portals, clawlink: Any, tmp_path: Path) -> None:
    portal, path = await portals(), tmp_path / "me.png"
    assert "add-photo FILE" in (await clawlink(portal, "photos"))[1]
    path.write_bytes(b"\x89PNG\r\n\x1a\n of me")
    assert (await clawlink(portal, "add-photo", str(path)))[0] == 0
    code, name, _ = await clawlink(portal, "photos")
    assert (code, name.strip()[-4:]) == (0, ".png")
    assert (await clawlink(portal, "remove-photo", name.strip()))[0] == 0
    code, _, err = await clawlink(portal, "remove-photo", name.strip())
    assert (code, "no such photo; 'clawlink portal photos' lists" in err) == (5, True), err
    path.write_text("no picture")
    code, _, err = await clawlink(portal, "add-photo", str(path))
    assert (code, "jpg, png, gif or webp" in err) == (1, True), err


async def test_an_exit_code_is_true(
    portals: Portals, old_portals: Peers, clawlink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.05)
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url), portal.url
    peer.lose = 2
    code, out, _ = await clawlink(portal, "send", peer.url, "hopeless")
    assert (code, "unknown" in out) == (1, True), out
    await peer.stop()
    code, out, _ = await clawlink(portal, "send", peer.url, "away", "--timeout", "0.3", "--json")
    assert code == 6, out
    assert json.loads(out)["state"] in ("queued", "sending"), "perhaps it is being tried again at this moment"
    code, _, err = await clawlink(Own(portal.relay, "ap2p_wrong"), "contacts")
    assert (code, "Invalid API Key" in err) == (4, True), err
    assert "give the owner key or an agent key" in err, err


async def test_an_error_is_a_sentence_with_the_next_step(
    portals: Portals, clawlink: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    portal = await portals()
    nobody = f"http://127.0.0.1:{free_port()}"
    code, _, err = await clawlink(portal, "ask", nobody, "hi")
    assert (code, "see whether the address is right" in err) == (3, True), err
    assert "clawlink portal remove 1" in err
    assert "ConnectionPool" not in err
    assert (await clawlink(portal, "remove", "1"))[0] == 0
    await portal.befriend(nobody, agent_name="bob")
    path = tmp_path / "nothing"
    code, _, err = await clawlink(portal, "send-file", "bob", str(path))
    assert (code, "see whether the path is right" in err) == (1, True), err
    assert "Errno" not in err
    away = Own(portal.relay)
    code = await asyncio.to_thread(main, ["portal", "contacts", "--at", nobody, "--key", away.key])
    assert (code, "is it running, and is --at right?" in capsys.readouterr().err) == (3, True)
    await portal.befriend("https://bob.example", agent_name="bob")
    for words, code, said in (
        (["history", "eve"], 5, "there is no contact 'eve'; 'clawlink portal contacts' lists them"),
        (["send", "eve", "x"], 5, "there is no contact 'eve'; 'clawlink portal contacts' lists them"),
        (["history", "bob"], 7, "2 contacts have the name 'bob'; name one by its number: "),
        (["send", "bob", "x"], 7, "2 contacts have the name 'bob'; name one by its number: "),
        (["remove", "bob"], 7, "2 contacts have the name 'bob'; name one by its number: "),
        (["remove", "eve"], 5, "there is no contact 'eve'; 'clawlink portal contacts' lists them"),
        (["remove", "https://eve.example"], 5, "there is no contact 'https://eve.example'"),
        (["remove", "99"], 5, "99"),
        (["get-attachment", "99999999999"], 5, "line 99999999999 of the chat has no attachment"),
    ):
        got, _, err = await clawlink(portal, *words)
        assert (got, said in err) == (code, True), (words, err)
    with pytest.raises(RelayUnreachable, match=r"does not answer: [^()]+; is it running"):
        await asyncio.to_thread(Portal(nobody, "k").contacts)


async def test_the_functions_use_the_portal_of_the_environment(
    portals: Portals, old_portals: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal, peer = await portals(), await old_portals("0.9")
    peer.key, peer.from_portal = await portal.befriend(peer.url, agent_name="bob"), portal.url
    monkeypatch.setenv("AGENTP2P_HUB_URL", portal.url + "/")
    (contact,) = await asyncio.to_thread(functions.get_contacts)
    for fields in ({"to_contact_id": contact["id"]}, {"to_user_id": "bob"}, {"to": peer.url}):
        sent = await asyncio.to_thread(lambda fields=fields: functions.send_message("hi", **fields))  # type: ignore[misc]
        assert sent["state"] == "sent", fields
    assert len(peer.stored) == 3
    told = await asyncio.to_thread(lambda: functions.send_message("done", to="owner"))
    assert told["success"]
    with pytest.raises(BadRequest, match="name one recipient"):
        functions.send_message("hi")


async def test_start_py_starts_and_stops_the_bridge(portals: Portals, monkeypatch: pytest.MonkeyPatch) -> None:
    portal = await portals()
    with TemporaryDirectory() as home:
        monkeypatch.setattr(Path, "home", lambda: Path(home))
        (Path(home) / ".openclaw").mkdir()
        folder = Path(home) / FOLDER

        async def run(*words: str) -> int:
            return await asyncio.to_thread(scripts.start, words)

        monkeypatch.setenv("AGENTP2P_HUB_URL", "https://wrong.example")
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("USERPROFILE", home)
        assert [await run(word) for word in ("status", "stop")] == [1, 0]
        monkeypatch.setenv("AGENTP2P_API_KEY", "")
        assert await run("start") == 1, "the bridge has no key, and says so"
        kept = f"AGENTP2P_HUB_URL={portal.url}\nAGENTP2P_API_KEY={portal.key}\n"
        (Path(home) / ".openclaw" / "gateway.env").write_text(kept, "utf-8")
        try:
            assert await run("start") == 0
            first = running(folder)
            assert first
            assert [await run("start"), running(folder)] == [0, first], "one is enough"
            door: Any = portal.relay.app.doors["portal"]

            async def connected() -> bool:
                return bool((await door.info())["agent_sockets"] == 1)

            await eventually(connected)
            assert await run("status") == 0
            assert await run("restart") == 0
            second = running(folder)
            assert second not in (None, first)
            assert await run("stop") == 0
            if sys.platform != "win32":
                assert json.loads((folder / STATUS_FILE).read_text("utf-8"))["status"] == "stopped"
            (folder / PID_FILE).write_text(f"{os.getpid()}\n")  # as a killed bridge leaves that of another process
            assert [await run("status"), await run("stop")] == [1, 0]
        finally:
            assert await run("stop") == 0
        assert running(folder) is None


def test_what_is_missing_of_the_place_is_named(
    clawlink_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("AGENTP2P_HUB_URL", "AGENTP2P_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for action in (["send", "bob", "hi"], ["bridge"]):
        for words, said in (
            (["--at", "https://me.example"], "no key: add --key or set AGENTP2P_API_KEY"),
            (["--key", "ap2p_x"], "no portal is named: add --at or set AGENTP2P_HUB_URL"),
            ([], "no portal is named: set AGENTP2P_HUB_URL and AGENTP2P_API_KEY"),
        ):
            assert main(["portal", *action, *words]) == 2
            assert said in capsys.readouterr().err, (action, words)
    monkeypatch.setenv("AGENTP2P_HUB_URL", "https://me.example")
    assert main(["portal", "contacts"]) == 2
    assert "no key: AGENTP2P_HUB_URL names a portal; set AGENTP2P_API_KEY, too" in capsys.readouterr().err


async def test_the_commands_that_are_told_about_a_guest_work(portals: Portals, clawlink: Any) -> None:
    portal = await portals(key=OWNER)
    key = f"ap2p_{'b' * 40}"
    for text in ("hello", "I am at https://b.example", f"My key is {key}", "hello again"):
        await portal.well("POST", "/api/guest/leave-message", {"content": text}, key="")
    code, _, refusal = await clawlink(portal, "approve", "1")
    assert code == 1
    shown = (await clawlink(portal, "list"))[1]
    steps = re.findall(r"clawlink portal (\w+ \d.*)$", shown, re.MULTILINE)
    more = " --url URL --shared-key KEY"
    assert steps == [
        *("read 4", "deny 4", f"approve 4{more}"),
        "approve 3 --url URL",
        "approve 2 --shared-key KEY",
        *("read 1", "deny 1", f"approve 1{more}"),
    ], "an owner of a plain text is not led to an approval first"
    assert refusal.strip().endswith(f"clawlink portal approve 1{more}")
    told = await clawlink(portal, *steps[0].split())
    assert told[1] == "Guest message 4 is read, and still waits.\n"
    shown = (await clawlink(portal, "list"))[1]
    stands = dict(re.findall(r"^Guest message (\d), [-\d]+ [:\d]+, (.*)$", shown, re.MULTILINE))
    assert (stands, "portal read 4" in shown) == (
        {"1": "pending", "2": "pending", "3": "pending", "4": "pending, read"},
        False,
    )
    assert (await clawlink(portal, "guests"))[1].startswith("Guest message 4, ")
    for number, command in enumerate((refusal.strip().rpartition("clawlink portal ")[2], *steps[3:5])):
        place = "https://b.example" if number else "https://a.example"
        words = command.replace("URL", place).replace("KEY", f"ap2p_{'c' * 40}" if number == 0 else key).split()
        code, _, err = await clawlink(portal, *words)
        assert code == 0, (command, err)
    assert (await clawlink(portal, "read", "1"))[1] == "Guest message 1 is read, and approved.\n"
    assert (await clawlink(portal, *steps[1].split()))[1] == "Guest message 4 is rejected.\n"


async def test_a_repeated_ask_claims_no_new_contact(portals: Portals, clawlink: Any) -> None:
    a, b = await portals(key=OWNER), await portals(key=B_KEY)
    first = (await clawlink(a, "ask", b.url))[1].splitlines()
    again = (await clawlink(a, "ask", b.url + "/"))[1].splitlines()
    assert first[0] == f"Contact 1 is added, and guest message 1 waits for the owner of {b.url}."
    assert again[0] == f"Contact 1 was here already, and the owner of {b.url} has the offer as guest message 1."


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_forget_asks_at_a_terminal(
    portals: Portals, clawlink_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = await portals(key=OWNER)
    for typed, words, left in (
        ("n\n", [], 1),
        ("", [], 1),
        ("y\n", [], 0),
        ("", ["--yes"], 0),
        ("", ["--json"], 0),
    ):
        await portal.befriend("https://b.example", agent_name="bob")
        for name, text in (("stdin", typed), ("stdout", ""), ("stderr", "")):
            monkeypatch.setattr(sys, name, _Terminal(text))
        command = ["portal", "forget", "bob", *words, "--at", portal.url, "--key", portal.key]
        code = await asyncio.to_thread(main, command)
        assert code == left, (typed, words)
        asked = "Delete bob, its messages, files and tasks? [y/N]" in cast(io.StringIO, sys.stderr).getvalue()
        assert asked is not bool(words), (typed, words)
        assert len((await portal.well("GET", "/api/contacts"))["contacts"]) == left
