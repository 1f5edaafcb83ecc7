"""Every example that --help shows does what it says, on a real relay."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawlink.cli.parser import parse
from clawlink.cli.verb import Verb
from clawlink.cli.verbs import spellings, verbs
from clawlink.client.sync import Client
from clawlink.lan import Found
from clawlink.store.sqlite.folder import DataFolder
from tests.cli.conftest import COMMAND, Relays, Run
from tests.processes import Popen
from tests.waiting import PATIENCE, wait_until

ID = "7f3a"
# Doors that a relay opens only if it is asked to. Their own tests try their examples.
APART = {"a2a", "portal"}
EXAMPLES = [(verb, example) for verb in verbs() if verb.typed not in APART for example in verb.examples]


def test_every_example_is_of_its_verb() -> None:
    for verb, example in EXAMPLES:
        if example == "help file put":
            continue
        assert parse(shlex.split(example))[0] == verb, example
        assert re.match(rf"{verb.typed}(?![\w-])", example), example


class Stage:
    """A relay with alice, of this account, and bob, who is somebody else; a file to share, and an editor."""

    def __init__(self, call: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.call = call
        self.monkeypatch = monkeypatch
        self.url = url
        self.bob = Client(url)
        self.bob.register("bob", capabilities=["review"])
        self._id = ""

    def task_of_bob(self) -> str:
        """Return a task that bob has."""
        call = self.call("delegate", "bob", "x", "--json")
        return str(call.ok().json["message_id"])

    def id_for(self, verb: Verb) -> str:
        """Return an id that the example of the verb can be about."""
        if verb.typed == "respond":
            self._id = self._id or self.bob.delegate("alice", "x").message_id
            return self._id
        id = self.task_of_bob()
        if verb.typed == "wait":
            self.bob.respond(id, "done")
        elif verb.typed == "task answer":
            self.bob.respond(id, "which?", status="input_required")
        return id

    def run(self, verb: Verb, example: str) -> None:
        """Run one example."""
        words = [self.id_for(verb) if word == ID else word for word in shlex.split(example)]
        if verb.typed == "serve":
            self._until([*words, "--port", "0"], "listening on")
        elif example == "wake":
            self._until(words, "watching")
        elif verb.typed == "work":
            self._until(words, "done", self._task_for_shout)
            assert self.bob.task(self._id).result == "LOUD WORDS"
        else:
            if "--wait" in words and verb.typed == "poll":
                self.bob.send("alice", "hello")
            with self.monkeypatch.context() as environment:
                if verb.typed == "bench":  # it starts relays of its own where none is named
                    environment.delenv("CLAWLINK_RELAY")
                done = self.call(*words)
            assert done.code == 0, (example, done.code, done.raw, done.err)

    def _task_for_shout(self) -> None:
        wait_until(lambda: self.bob.discover(name="shout").agents)
        self._id = self.bob.delegate("shout", "loud words").message_id

    def _until(self, words: list[str], said: str, meanwhile: object = None) -> None:
        """Start a command that stays, read what it prints up to a line that says this, and end it."""
        process = Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            if callable(meanwhile):
                meanwhile()
            assert any(said in line for line in process.stdout), words
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
            process.stdout.close()


@pytest.fixture
def stage(
    call: Run, own_relay: Relays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: Path
) -> Iterator[Stage]:
    """Make the place where all examples work."""
    url = own_relay("--admin-token", "operator")
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    monkeypatch.setenv("CLAWLINK_ADMIN_TOKEN", "operator")
    monkeypatch.setattr("clawlink.lan.scan", lambda seconds: [Found("vm", url, "1.2.0", "vm", False)])
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("plan.md").write_text("a plan\n")
    for data in ("mesh", "backups/monday"):
        DataFolder(data).close()
    Path("editor.py").write_text("import sys; open(sys.argv[1], 'a').write('more\\n')\n")
    monkeypatch.setenv("EDITOR", f'"{sys.executable}" "{folder / "editor.py"}"')
    stage = Stage(call, url, monkeypatch)
    with stage.bob:
        yield stage


def test_every_example_works(stage: Stage) -> None:
    # These end what the others need.
    last = [spellings()["work"], spellings()["agent leave"], spellings()["agent kick"]]
    for verb, example in EXAMPLES:
        if verb not in last:
            stage.run(verb, example)
    for verb in last:
        for example in verb.examples:
            stage.run(verb, example)
