"""The commands of README.md work in the order in which a reader meets them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import Relays, Result, Run

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def commands(heading: str) -> list[list[str]]:
    """Return the commands of a chapter, as words."""
    chapter = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = "".join(re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_first_minute_and_the_shared_files(
    call: Run, own_relay: Relays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_relay()
    monkeypatch.setenv("CLAWLINK_RELAY", url)
    monkeypatch.chdir(tmp_path)
    id = ""

    def follow(words: list[str], **named: str) -> Result | None:
        if words[0] == "export":
            name, value = words[1].split("=")
            monkeypatch.setenv(name, named.get(value, value))
        if words[0] != "clawlink":
            return None
        return call(*(named.get(word, word) for word in words[1:])).ok()

    shown = []
    for words in commands("A delegated task in a minute"):
        if words[1:3] == ["agent", "leave"] and "alice" in words:
            assert "note  identity    several identities fit: alice" in call("doctor").ok().out
        done = follow(words, ID=id[:4])
        if done is not None:
            shown.append(done.out)
            id = id or (re.findall(r"task: +(\w{20,})", done.out) or [""])[0]
    assert sum(f"clawlink respond {id} --as bob" in out for out in shown) == 1  # by poll
    assert any(re.search(r"│ 6$", out, re.MULTILINE) for out in shown)  # by wait
    assert "No agent is online" in call("discover").ok().out

    for name in ("ada", "counter"):  # two are kept here: one is joined, and one is that of `clawlink work`
        call("register", name).ok()
    (tmp_path / "site").mkdir()
    for file in ("site/index.html", "report.pdf"):
        (tmp_path / file).write_text("text\n")
    (tmp_path / "editor.py").write_text("import sys; open(sys.argv[1], 'a').write('more\n')\n".replace("\n')", "\\n')"))
    monkeypatch.setenv("EDITOR", f'"{sys.executable}" "{tmp_path / "editor.py"}"')
    with Client(url) as other:
        other.register("eve")
        for words in commands("Share files"):
            follow(words, **{"YOUR-NAME": "ada", "OTHER": "eve"})
        (claimed,) = other.poll()
        assert claimed.message.task == "Review this"  # type: ignore[union-attr]
    assert (tmp_path / "copy" / "index.html").read_text() == "text\n"
