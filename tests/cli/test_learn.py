"""Demo, skill and completion: nothing to set up, nothing left behind."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clawlink.cli.learn import demo, skill
from clawlink.cli.parser import parser_of
from clawlink.cli.verbs import noun_named, spellings, verbs
from clawlink.errors import InternalError, RelayUnreachable
from tests.cli.conftest import Run

SKILL = Path(skill.__file__).parents[2] / "SKILL.md"


# -- demo ------------------------------------------------------------------------------------------------------------


def test_demo_shows_a_task_going_through(run: Run, account: Path) -> None:
    shown = (
        run("demo", "--fast", env={"CLAWLINK_TOKEN": "someone else's", "CLAWLINK_RELAY": "http://127.0.0.1:1"}).ok().out
    )
    for part in ("registers", "discovers", "delegates", "polls", "acknowledges", "reports", "answers", "completed"):
        assert part in shown
    for fact in ("stored", "delivered", "acked", "answered"):
        assert re.search(rf"  {fact}: +(after \d|\d{{4}}-)", shown)
    assert "clawlink register ada" in shown
    assert list(account.iterdir()) == []


def test_demo_with_json_is_an_object_a_line(call: Run, account: Path) -> None:
    told = [json.loads(line) for line in call("demo", "--fast", "--json").ok().out.splitlines()]
    assert {step["who"] for step in told} == {"relay", "ada", "grace"}
    assert told[-1]["status"]["task_status"] == "completed"
    assert list(account.iterdir()) == []


def test_demo_pauses_for_reading(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = demo.PAUSE_SECONDS
    monkeypatch.setattr(demo, "PAUSE_SECONDS", 0.001)
    steps = call("demo", "--json").ok().out.splitlines()
    assert 3 <= len(steps) * pause <= 6


def test_demo_tells_why_it_cannot_start(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("true") or "true")
    assert "clawlink serve --port 0" in call("demo", "--fast").failed(3).err


def test_demo_fails_if_grace_does(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise InternalError("grace is ill")

    monkeypatch.setattr(demo, "_serve_one", fail)
    monkeypatch.setattr(demo, "_await_answer", lambda *args: None)
    assert "grace is ill" in call("demo", "--fast").failed(1).err


def test_demo_does_not_wait_for_ever(call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(demo, "_serve_one", lambda *args: None)
    assert "did not arrive" in call("demo", "--fast").failed(3).err


def test_demo_kills_a_relay_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def ignore(self: object) -> None:
        return None

    monkeypatch.setattr(demo, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(subprocess.Popen, "terminate", ignore)
    with pytest.raises(RelayUnreachable), demo.own_relay():
        raise RelayUnreachable("x")


# -- skill -----------------------------------------------------------------------------------------------------------


def test_skill_prints_what_is_packaged(run: Run, call: Run) -> None:
    packaged = SKILL.read_text("utf-8")
    assert run("skill").ok().raw.decode().splitlines() == packaged.splitlines()
    assert call("skill", "--json").ok().json == {"skill": packaged}


def test_skill_has_front_matter_that_both_programs_read() -> None:
    yaml = importlib.import_module("yaml")
    _, front, body = SKILL.read_text("utf-8").split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["name"] == "clawlink"
    assert set(told) == {"name", "description"}
    assert "\n" not in told["description"]
    assert len(told["description"]) <= 160
    assert body.strip().startswith("# ")


def test_skill_names_only_commands_and_flags_that_exist() -> None:
    text = SKILL.read_text("utf-8")
    for verb in set(re.findall(r"clawlink ([a-z][a-z-]+)", text.replace("ClawLink", ""))):
        assert verb in spellings() or noun_named(verb), verb
    flags = {flag for verb in verbs() for flag in parser_of(verb).flags()}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= flags
    shared = text.partition("Everyone on the relay can read ")[2].partition("\n## ")[0]
    assert "--readers" in shared, "not all files are for everyone"
    assert "--attach" in shared


@pytest.mark.parametrize(
    ("args", "folder"),
    [(["--install"], ".openclaw"), (["--install", "openclaw"], ".openclaw"), (["--install", "claude"], ".claude")],
)
def test_skill_is_put_where_the_program_looks(run: Run, account: Path, args: list[str], folder: str) -> None:
    target = account / folder / "skills" / "clawlink" / "SKILL.md"
    assert run("skill", *args).ok().out == f"Installed {target}\n"
    assert target.read_bytes() == SKILL.read_bytes()
    assert run("skill", *args, "--json").ok().json == {"installed": str(target), "changed": False}


def test_skill_does_not_overwrite_what_differs(call: Run, tmp_path: Path) -> None:
    target = tmp_path / "skills" / "clawlink" / "SKILL.md"
    target.parent.mkdir(parents=True)
    target.write_text("mine")
    args = ["skill", "--install", "claude", "--dir", str(tmp_path / "skills")]
    assert "--force" in call(*args).failed(7).err
    assert target.read_text() == "mine"
    call(*args, "--force").ok()
    assert target.read_bytes() == SKILL.read_bytes()
    assert "up to date" in call(*args).ok().out
