"""Editing together: what is written meanwhile is merged, nothing of anyone is overwritten, and no text is lost."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clawlink.client.sync import Client
from tests.cli.conftest import Relays, Result, Run

Fresh = Callable[[str], str]
BASE = "one\ntwo\nthree\nfour\nfive\n"

# A stand-in for an editor: each time it runs, it does the next thing that a file names.
EDITOR = """
import os, sys
from pathlib import Path
path, folder = Path(sys.argv[1]), Path(sys.argv[0]).parent
number = len(list(folder.glob("seen-*")))
(folder / f"seen-{number}").write_bytes(path.read_bytes())
(folder / f"name-{number}").write_text(path.name)
exec((folder / f"do-{number}.py").read_text())
"""


class Editor:
    """An editor that follows a script: Python that may use ``path``, and ``put(text)`` as somebody else."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "editor.py").write_text(EDITOR)
        monkeypatch.setenv("EDITOR", f'"{sys.executable}" "{folder / "editor.py"}"')

    def does(self, *steps: str, other: Client, key: str) -> None:
        somebody_else = (
            "from clawlink.client.sync import Client\n"
            f"other = Client({other.relay!r}, agent_id={other.agent_id!r}, agent_key={other.agent_key!r})\n"
            f"key = {key!r}\n"
            "put = lambda text: other.put_file(key, text)\n"
        )
        for number, step in enumerate(steps):
            # The import takes ten times as long as all else that an editor does.
            begin = somebody_else if "put(" in step or "other." in step else ""
            (self._folder / f"do-{number}.py").write_text(f"{begin}text = path.read_text()\n{step}\n")

    @property
    def seen(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.glob("seen-*"))]

    @property
    def names(self) -> list[str]:
        return [path.read_text() for path in sorted(self._folder.glob("name-*"))]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return Editor(tmp_path / "editor", monkeypatch)


@pytest.fixture
def me(call: Run, relay: str, fresh: Fresh) -> str:
    """Register this account's agent, and return its name."""
    name = fresh("me")
    call("register", "--name", name).ok()
    return name


def left(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


def failed(result: Result, code: int) -> str:
    """Fail the test unless the command ended with this code, and said why; return what it said."""
    assert result.code == code, (result.code, result.raw, result.err)
    assert "Traceback" not in result.err
    return result.err


def test_what_is_changed_is_written_in_the_next_version(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("dir/notes.md")
    peer.put_blob(key, BASE.encode(), content_type="text/markdown", file_type="notes", ttl=3600)
    editor.does("path.write_text(text.replace('two', 'TWO'))", other=peer, key=key)
    done = call("file-edit", key).ok()
    assert "version 2" in done.out
    assert f"clawlink file diff --key {key}" in done.out
    assert editor.seen == [BASE]
    assert re.fullmatch(r"notes.*", editor.names[0])
    facts = peer.stat_blob(key)
    assert (facts.content_type, facts.file_type) == ("text/markdown", "notes")
    assert facts.expires_at is not None
    assert peer.get_file(key).content.decode() == BASE.replace("two", "TWO")
    assert left(tmp_path) == []


def test_the_suffix_is_kept_for_the_editor(call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor) -> None:
    key = fresh("x") + "/../x".replace("..", "y") + ".py"
    editor.does("path.write_text('print()')", other=peer, key=key)
    call("file-edit", key).ok()
    assert editor.names[0].endswith(".py")
    assert peer.get_file(key).version == 1
    assert peer.stat_blob(key).content_type == "text/plain; charset=utf-8"


def test_nothing_changed_is_nothing_written(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("same")
    peer.put_file(key, BASE)
    editor.does("pass", other=peer, key=key)
    assert "Nothing was changed" in call("file-edit", key).ok().out
    assert peer.get_file(key).version == 1
    assert left(tmp_path) == []


def test_a_new_file_that_stays_empty_is_not_written(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("ghost")
    editor.does("pass", other=peer, key=key)
    assert call("file-edit", key).ok().out.splitlines() == [
        f"Nothing was written: the relay has no file {key} yet.",
        f"  share one of yours: clawlink file put --key {key} --file FILE",
    ]


def test_with_json_only_json_is_on_standard_output(
    run: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("json")
    editor.does("print('welcome to my editor')\npath.write_text('x')", "pass", other=peer, key=key)
    assert run("file-edit", key, "--json").ok().json["version"] == 1
    assert run("file-edit", key, "--json").ok().json == {"status": "unchanged", "file_key": key}


def test_changes_in_other_lines_are_merged_without_asking(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("merged")
    peer.put_file(key, BASE)
    editor.does(
        "put(text.replace('one', 'ONE'))\nput(text.replace('one', 'ONE') + 'six\\n')\n"
        "path.write_text(text.replace('four', 'FOUR'))",
        other=peer,
        key=key,
    )
    done = call("file-edit", key).ok()
    assert "merged with version 3" in done.err
    assert len(editor.seen) == 1
    assert peer.get_file(key).content.decode() == "ONE\ntwo\nthree\nFOUR\nfive\nsix\n"
    assert [one.version for one in peer.file_history(key).versions] == [4, 3, 2, 1]


def test_changes_of_the_same_line_are_asked_for(call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor) -> None:
    key = fresh("asked")
    peer.put_file(key, BASE)
    editor.does(
        "put(text.replace('two', '2').replace('five', 'FIVE'))\npath.write_text(text.replace('two', 'II'))",
        "path.write_text('\\n'.join(l for l in text.split('\\n') if l[:7] not in ('<<<<<<<', '=======', '>>>>>>>')))",
        other=peer,
        key=key,
    )
    done = call("file-edit", key).ok()
    assert "1 place" in done.err
    shown = editor.seen[1].splitlines()
    name = next(one.name for one in peer.discover(status="all").agents if one.agent_id == peer.agent_id)
    assert shown == [
        "one",
        "<<<<<<< yours",
        "II",
        "=======",
        "2",
        f'>>>>>>> version 2 by "{name}"',
        "three",
        "four",
        "FIVE",
    ]
    assert peer.get_file(key).content.decode() == "one\nII\n2\nthree\nfour\nFIVE\n"


def test_who_decides_nothing_overwrites_nothing_and_loses_nothing(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("undecided")
    peer.put_file(key, "a\n")
    editor.does("put('b\\n')\npath.write_text('c\\n')", "pass", other=peer, key=key)
    said = failed(call("file-edit", key), 7)
    assert "conflict markers" in said
    assert peer.get_file(key).content == b"b\n"
    [kept] = left(tmp_path)
    assert "c\n" in kept.read_text()
    assert str(kept) in said
    # The command that is shown works, once the text is as it should be.
    kept.write_text("b and c\n")
    shown = re.search(r"clawlink (file put .*)", said)
    assert shown is not None
    call(*shown[1].split()).ok()
    assert peer.get_file(key).content == b"b and c\n"


def test_what_was_written_while_a_conflict_was_decided_is_merged_too(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("twice")
    peer.put_file(key, BASE)
    editor.does(
        "put(text.replace('two', '2'))\npath.write_text(text.replace('two', 'II'))",
        "put(open(path).read() and 'one\\n2\\nthree\\nfour\\nfive\\nsix\\n')\n"
        "path.write_text('one\\nII and 2\\nthree\\nfour\\nfive\\n')",
        other=peer,
        key=key,
    )
    call("file-edit", key).ok()
    assert peer.get_file(key).content.decode() == "one\nII and 2\nthree\nfour\nfive\nsix\n"


def test_bytes_that_somebody_else_has_written_meanwhile_are_not_overwritten(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("bytes")
    peer.put_file(key, "text\n")
    editor.does("put(b'\\xff\\x00')\npath.write_text('mine\\n')", other=peer, key=key)
    said = failed(call("file-edit", key), 7)
    assert "not text" in said
    assert peer.get_file(key).content == b"\xff\x00"
    [kept] = left(tmp_path)
    assert kept.read_text() == "mine\n"
    assert str(kept) in said
    assert "--if-version 1" in said  # so that what is typed cannot overwrite what was not seen


def test_a_file_that_was_deleted_meanwhile_stays_deleted(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("deleted")
    peer.put_file(key, "text\n")
    editor.does("other.delete_file(key)\npath.write_text('mine\\n')", other=peer, key=key)
    assert "was deleted" in failed(call("file-edit", key), 7)
    assert key not in call("file-list").out
    assert [path.read_text() for path in left(tmp_path)] == ["mine\n"]


def test_two_who_begin_a_file_both_are_in_it_or_asked(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("begun")
    editor.does(
        "put('theirs\\n')\npath.write_text('mine\\n')",
        "path.write_text('mine and theirs\\n')",
        other=peer,
        key=key,
    )
    call("file-edit", key).ok()
    assert "theirs" in editor.seen[1]
    assert "mine" in editor.seen[1]
    assert peer.get_file(key).content == b"mine and theirs\n"


def test_a_lock_of_somebody_else_keeps_the_text(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("locked")
    peer.put_file(key, "text\n")
    editor.does("other.lock_file(key, note='mine')\npath.write_text('mine\\n')", other=peer, key=key)
    assert "locked by" in failed(call("file-edit", key), 7)
    assert [path.read_text() for path in left(tmp_path)] == ["mine\n"]


def test_an_editor_that_fails_writes_nothing_and_keeps_the_text(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor, tmp_path: Path
) -> None:
    key = fresh("failed")
    peer.put_file(key, "text\n")
    editor.does("path.write_text('mine\\n')\nsys.exit(3)", other=peer, key=key)
    assert "code 3" in failed(call("file-edit", key), 1)
    assert peer.get_file(key).version == 1
    assert [path.read_text() for path in left(tmp_path)] == ["mine\n"]
    editor.does("pass", "sys.exit(1)", other=peer, key=key)
    for path in left(tmp_path):
        path.unlink()
    call("file-edit", key).failed(1)
    assert left(tmp_path) == []


def test_a_relay_that_went_away_keeps_the_text(
    call: Run, peer: Client, editor: Editor, own_relay: Relays, tmp_path: Path, fresh: Fresh
) -> None:
    url = own_relay()
    call("--relay", url, "register", "--name", "me").ok()
    with Client(url) as other:
        other.register("other")
        other.put_file("k", "text\n")
        editor.does("path.write_text('mine\\n')", other=other, key="k")
    (tmp_path / "editor" / "do-0.py").write_text(
        (tmp_path / "editor" / "do-0.py").read_text() + "\nimport os, signal, socket\n"
        f"os.kill({own_relay.pid(url)}, getattr(signal, 'SIGKILL', signal.SIGTERM))\n"
        f"while not socket.socket().connect_ex(('127.0.0.1', {url.rpartition(':')[2]})): pass\n"
    )
    done = call("--relay", url, "--timeout", "2", "file-edit", "k")
    assert "kept in" in failed(done, 3)
    assert [path.read_text() for path in left(tmp_path)] == ["mine\n"]


@pytest.mark.parametrize("chosen", ["", " ", "'"])
def test_no_editor_is_told_before_anything_else(
    call: Run, me: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", chosen)
    assert "EDITOR" in call("file-edit", fresh("k")).failed(2).err


def test_visual_goes_before_editor_and_one_that_is_not_there_is_told(
    call: Run, me: str, fresh: Fresh, editor: Editor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISUAL", "no-such-editor --wait")
    assert "no-such-editor" in call("file-edit", fresh("k")).failed(2).err
    assert left(tmp_path) == []


def test_what_only_one_may_read_is_not_opened(call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor) -> None:
    key = fresh("once")
    peer.put_blob(key, b"x", burn=True)
    assert "cannot be edited" in call("file-edit", key).failed(2).err
    assert peer.stat_blob(key).size == 1


def test_what_can_follow_a_deletion_is_what_the_shown_command_writes(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("deleted")
    peer.put_file(key, "text\n")
    editor.does("other.delete_file(key)\npath.write_text('mine\\n')", other=peer, key=key)
    shown = re.search(r"clawlink (file put .*)", failed(call("file-edit", key), 7))
    assert shown is not None
    call(*shown[1].split()).ok()
    assert peer.get_file(key).content == b"mine\n"


def test_a_lock_of_somebody_else_is_told_before_the_editor_opens(
    call: Run, me: str, peer: Client, fresh: Fresh, editor: Editor
) -> None:
    key = fresh("locked")
    peer.put_file(key, "text\n")
    peer.lock_file(key, note="until\x1b five")
    editor.does("path.write_text('mine\\n')", "pass", other=peer, key=key)
    refused = call("file-edit", key).failed(7).err
    assert 'locked by "peer-' in refused
    assert "--force" in refused
    assert editor.seen == []
    call("file-edit", key, "--force").ok()
    peer.unlock_file(key)
    call("file-lock", key).ok()
    call("file-edit", key).ok()
