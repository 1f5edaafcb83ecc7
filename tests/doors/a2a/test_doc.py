"""``references/a2a.md`` and the code say the same, and its examples work."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from clawlink.domain.dense_json import MAX_PARTS
from clawlink.domain.limits import MAX_ATTACHMENTS, MAX_JSON_DEPTH
from clawlink.doors.a2a import DOOR, Settings, cards
from clawlink.doors.a2a.rules import asking, saying, states
from clawlink.doors.a2a.server import bodies, files, forwarded_tasks, push, remote_calls, sites
from clawlink.doors.a2a.wire import clients, failures, large_strings, remotes, shapes, v0_3
from tests.cli.test_docs import require_described
from tests.conftest import Start
from tests.waiting import PATIENCE

PAGE = (Path(__file__).parents[3] / "references" / "a2a.md").read_text("utf-8")
TEXT = " ".join(PAGE.split())
STEPS = PAGE.split("## Step by step")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this head."""
    table = re.split(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n", PAGE, flags=re.MULTILINE)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_mapping_is_that_of_the_code() -> None:
    told = {clawlink.strip("`"): f"TASK_STATE_{a2a}" for clawlink, a2a, _ in rows("ClawLink")}
    assert told == states.STATES


def test_the_reasons_are_those_of_the_code() -> None:
    told = {reason.strip("`"): (int(rpc), int(http)) for reason, rpc, http, _ in rows("Reason")}
    assert told == {reason: (kind.rpc, kind.http) for reason, kind in failures.KINDS.items()}


def test_the_methods_of_0_3_are_those_of_the_code() -> None:
    told: dict[str, str] = {}
    for old, new in rows("Method of 0.3"):
        told |= dict(zip(re.findall(r"`(.+?)`", old), re.findall(r"`(.+?)`", new), strict=True))
    assert told == v0_3.METHODS


def test_what_a_worker_may_say_is_described() -> None:
    told = {name for cell, *_ in rows("Field of `a2a`") for name in re.findall(r"\w+", cell)}
    assert told == {field.encode_name for field in msgspec.structs.fields(saying.Said)}
    for kind in (saying.Artifact, saying.Reply):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"[{{ ]{field.encode_name}[,}}]", PAGE), field.encode_name
    for field in msgspec.structs.fields(asking.Asked):
        assert f"`{field.encode_name}`" in PAGE, field.encode_name


def test_the_limits_are_those_of_the_code() -> None:
    told = {limit: default for limit, default, _ in rows("Limit")}
    assert told["body of a request, with its raw parts"] == f"{Settings.a2a_max_body:,} bytes"
    assert told["time that `SendMessage` waits"] == f"{Settings.a2a_wait:g} seconds"
    assert f"for {Settings.a2a_wait:g} s at most" in TEXT
    assert told["parts of a message"] == str(shapes.MAX_PARTS)
    assert told["raw parts of a message"] == str(MAX_ATTACHMENTS)
    assert told["an id of a message or context"] == f"{shapes.MAX_ID_LENGTH} characters"
    assert told["webhooks of a task"] == str(push.MAX_OF_TASK)
    assert told["webhooks of a relay"] == f"{push.MAX_WEBHOOKS:,}"
    assert told["clients in a file"] == f"{clients.MAX_CLIENTS:,}"
    assert told["remote agents in a file"] == f"{remotes.MAX_REMOTES:,}"
    assert f"after {forwarded_tasks.FIRST_SECONDS:g} s at first and {forwarded_tasks.MOST_SECONDS:g} s at most" in TEXT
    assert f"raw parts, {forwarded_tasks.MAX_FILES_BYTES >> 20} MiB in all" in TEXT
    assert f"reads {remote_calls.MAX_ANSWER_BYTES >> 20} MiB of an answer" in TEXT
    assert f"{remote_calls.MAX_ANSWER_JSON_BYTES >> 20} MiB besides long strings" in TEXT
    assert f"with {MAX_PARTS:,} arrays, objects and commas" in TEXT
    assert told["arrays, objects and commas of a request, besides those in strings"] == f"{MAX_PARTS:,}"
    assert f"nested {MAX_JSON_DEPTH} levels deep" in TEXT
    together = f"{forwarded_tasks.FILES_AT_ONCE} messages with files at a time, and {remote_calls.FILES_AT_ONCE} to one"
    assert together in TEXT
    assert told["large bodies at a time (over 64 KiB, or without a length)"] == (
        f"{bodies.LARGE_AT_ONCE}, and 1 of a client"
    )
    assert told["time for a large body"] == (
        f"{bodies.LARGE_SECONDS:g} seconds, and 1 second for each {bodies.LARGE_RATE >> 10} KiB of it"
    )
    assert large_strings.LONG == 64 << 10
    assert f"up to {shapes.MAX_PAGE_SIZE} tasks a page" in TEXT
    assert f"tries {push.ATTEMPTS} times" in TEXT
    assert f"takes {push.POST_SECONDS:g} s at most" in TEXT
    assert f"kept for {sites.CARD_SECONDS} s" in TEXT
    assert f"for {files.KEPT_SECONDS / 86_400:g} days" in TEXT
    for name in (cards.WAITING, cards.PRESENCE, states.FILE, clients.DEFAULT_FILE):
        assert name in PAGE


def test_the_command_and_the_flags_of_the_relay_are_described() -> None:
    for verb in DOOR.verbs():
        require_described(verb, PAGE)
    for field in dataclasses.fields(Settings):
        assert f"`{field.metadata['flag']}" in PAGE, field.name


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("curl") is None, reason="it needs curl")
def test_the_requests_that_it_shows_work(start_relay: Start) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", STEPS, re.DOTALL)
    serve, *rest = blocks
    flags = serve.split()[2:]
    relay = start_relay(*flags)
    script = "set -e\n" + "\n".join(rest)
    environ = {**os.environ, "RELAY": relay.url}
    done = subprocess.run(["/bin/sh", "-c", script], env=environ, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert '"parts":[{"text":"6"}]' in done.stdout
    assert "TASK_STATE_CANCELED" in done.stdout
