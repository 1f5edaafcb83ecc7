"""The help of ``clawlink portal``: of all actions, and of one alone."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from clawlink import service
from clawlink.cli.main import main
from clawlink.cli.parser import parse
from clawlink.doors import portal as door
from clawlink.doors.portal.cli.actions import ACTIONS
from tests.doors.portal.conftest import Bridges, Portals
from tests.doors.portal.old_databases import OWN, make
from tests.doors.portal.test_files import give, pair, status_of
from tests.doors.portal.test_forwarded_tasks import B_KEY, heard

DOOR_FOLDER = Path(door.__file__).parent
_COMMAND = r"clawlink portal ([a-z-]+(?: (?:--[a-z-]+|never|rejected|[A-Z]{2,}[0-9]*|[0-9]+)\b)*)"
PAGE = (Path(__file__).parents[4] / "references" / "portal.md").read_text("utf-8")


def test_the_help_of_an_action_has_its_words_flags_and_example_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for name, action in ACTIONS.items():
        for words in (["portal", name, "--help"], ["portal", "--help", name]):
            assert main(words) == 0
            told = capsys.readouterr().out
            assert told.startswith(f"usage: clawlink portal {name} {action.usage}".rstrip()), told
            assert " ".join(action.help.split()) in " ".join(told.split())
        example = f"portal {name} {action.example}".rstrip()
        assert told.endswith(f"example:\n  clawlink {example}\n"), told
        _, args = parse(shlex.split(example))
        assert (args.action, action.least <= len(args.words) <= action.most) == (name, True), example
        typed = set(re.findall(r"(?<![\w-])--[a-z-]+", action.example))
        assert typed <= set(re.findall(r"^  (--[a-z-]+)", told, re.MULTILINE)), example
    for name, has, has_not in (
        ("chat", "--after", "--attach"),
        ("say", "--attach", "--after"),
        ("import", "--at URL", "--key KEY"),
        ("setup", "--domain", "--at URL"),
    ):
        assert main(["portal", name, "--help"]) == 0
        told = capsys.readouterr().out
        assert (has in told, has_not in told, f"{name}:" in told) == (True, False, False), told


def test_the_help_of_all_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout", stream := io.StringIO())
        monkeypatch.setattr(stream, "isatty", lambda: True)
        assert main(["portal", "--help"]) == 0
        told = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
        assert max(map(len, told.partition("actions:")[2].splitlines())) <= columns, columns


def test_the_address_of_a_portal_that_is_missing_is_shown_by_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--portal"]) == 2
    assert "--portal: expected one argument, as --portal https://me.example; see" in capsys.readouterr().err


def test_the_help_of_all_lists_each_action(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["portal", "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    told = re.sub(r"\n {4,}", " ", shown)
    for name, action in ACTIONS.items():
        assert re.search(rf"^  {re.escape(f'{name} {action.usage}'.strip())} +{re.escape(action.help)}$", told, re.M)
    section = PAGE.partition("\n## Command line")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z-]+)(?: [^`]*)?`", " ".join(section.split())))
    assert not set(ACTIONS) - named, set(ACTIONS) - named


def test_each_command_that_the_door_prints_has_words_and_flags_of_its_action(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def flags(name: str) -> set[str]:
        assert main(["portal", name, "--help"]) == 0
        return set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))

    common = flags("contacts")
    found: list[list[str]] = []
    for path in (*DOOR_FOLDER.rglob("*.py"), *DOOR_FOLDER.rglob("*.js")):
        # A field of an f-string stands for one word.
        text = re.sub(r"{(?:[^{}]|{[^{}]*})*}", "1", path.read_text("utf-8"))
        text = re.sub(r'"\s*f?"', "", text)
        found += [one.split() for one in re.findall(_COMMAND, text)]
    assert len(found) > 40
    assert ["approve", "1", "--url", "URL", "--shared-key", "KEY"] in found
    for command in found:
        name = command[0]
        assert name in ACTIONS, command
        given = {word for word in command if word.startswith("--")}
        assert given <= flags(name) - common, command
        if len(command) > 1:
            _, args = parse(["portal", *command])
            assert ACTIONS[name].least <= len(args.words) <= ACTIONS[name].most, command


def test_a_mistyped_action_is_told_the_one_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in (
        ("caht", "; did you mean: clawlink portal chat"),
        ("xyz", ""),
        ("forgat", ""),
    ):
        for more in ([], ["--help"]):
            assert main(["portal", typed, *more]) == 2
            said = f"clawlink: there is no action '{typed}'{meant}; see: clawlink portal --help\n"
            assert capsys.readouterr().err == said


async def test_every_example_works(
    portals: Portals,
    bridges: Bridges,
    clawlink_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = await pair(portals)
    await a.well("POST", "/api/contacts", {"portal_url": b.url, "agent_name": "bob"})
    theirs = await bridges(b, key=B_KEY)
    monkeypatch.chdir(tmp_path)
    for name in ("report.pdf", "sheep.csv", "count.pdf"):
        (tmp_path / name).write_text(name)
    (tmp_path / "garden.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(64))
    make(tmp_path / "portal.db", "0.9")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("AGENTP2P_HUB_URL", a.url)
    monkeypatch.setenv("AGENTP2P_API_KEY", a.key)
    monkeypatch.setattr(service, "kind_here", lambda: service.SYSTEMD)
    monkeypatch.setattr(service, "_run", lambda words: service.Done(0, ""))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    left = set(ACTIONS)

    async def run(name: str, *swaps: tuple[str, Any]) -> str:
        """Run the example of an action, with what is here in place of some of its words."""
        left.discard(name)
        words = ["portal", name, *shlex.split(ACTIONS[name].example)]
        for word, here in swaps:
            words[words.index(word)] = str(here)
        code = await asyncio.to_thread(main, words)
        told = capsys.readouterr()
        assert code == 0, (words, code, told)
        return told.out

    await run("ask", ("https://bob.example", b.url))
    for number, name in enumerate(("approve", "deny", "read"), 1):
        offer = f"https://{name}.example ap2p_{name:x<40}"
        assert (await a.well("POST", "/api/guest/leave-message", {"content": offer}, key=""))["message_id"] == number
        await run(name, ("3", number))
    for name in ("contacts", "guests", "list", "rename", "block", "unblock", "pause", "resume", "end", "pin", "renew"):
        await run(name)
    await a.well("POST", "/api/portal/contacts/bob", {"until": ""})
    sent = (await run("send")).split()[1]
    await run("status", ("12", sent))
    await run("history")
    await run("send-file")
    file = await give(b, "A-bot", "sheep.csv", b"1")
    await status_of(b, file, "sent")
    came = next(one for one in (await a.well("GET", "/api/portal/files"))["files"] if one["type"] == "received")
    for name in ("files", "get-file", "remove-file"):
        await run(name, *[("kEJb3", came["file_id"][:5])] * (name != "files"))
    photo = (await run("add-photo")).split()[-1].strip(".").rpartition("/")[2]
    await run("photos")
    await run("remove-photo", ("7aTz.jpg", photo))
    await run("delegate")
    given = (await heard(theirs, "count the sheep"), (await a.well("GET", "/api/portal/tasks"))["tasks"][0]["task_id"])
    await run("cancel", ("907c", given[1]))
    await b.well("POST", "/api/portal/delegate", {"to": "A-bot", "task": "count the goats"})
    ours = await bridges(a)
    asked = (await heard(ours, "count the goats"))[:6]
    await run("answer", ("907c", asked))
    await run("tasks", ("907c", asked))
    for name in ("say", "reply", "chat"):
        await run(name)
    assert await asyncio.to_thread(main, ["portal", "say", "--attach", "report.pdf"]) == 0
    lines = (await a.well("GET", "/api/chat/owner/history"))["messages"]
    await run("get-attachment", ("41", lines[-1]["id"]))
    await run("make-key")
    key = (await a.well("GET", "/api/key/list"))["api_keys"][0]["key_id"]
    await run("keys")
    await run("revoke-key", ("ap2p_x7Ty", key))
    await run("remove", ("bob", "ann"))
    await run("forget")
    await run("install-scripts")
    await run("setup")
    await run("skill", ("~/.openclaw/skills", tmp_path / "skills"))
    await run("bridge")
    monkeypatch.setenv("PORTAL_URL", OWN)
    await run("import")
    assert await asyncio.to_thread(main, ["portal", "import", "portal.db", "--data", "data"]) == 0
    await run("password", ("/var/lib/clawlink", tmp_path / "data"))
    assert not left
