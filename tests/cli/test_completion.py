"""Completion in real shells: commands, paths, names and keys; and no name of somebody else's is ever run."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawlink.cli.completing import as_typed, flags_in, typed
from clawlink.cli.verbs import verbs
from clawlink.client.sync import Client
from tests import processes
from tests.cli.conftest import Relays, Run
from tests.processes import command_in
from tests.shells import SHELLS
from tests.waiting import PATIENCE, wait_until

HERE = [pytest.param(shell) for shell in SHELLS if shutil.which(shell) is not None]
# Each of these would leave a file `pwned` if a shell expanded it.
EVIL = "evil $(touch pwned) `touch pwned`; touch pwned & touch pwned | cat 'a' \"b\" \\ * ~ # !! <x> {a..b} $HOME"
EVIL_KEY = "evil/$(touch pwned);`touch pwned` 'a'\"b\"\\*&|#"

# Job control needs a terminal that is the session's own.
_TAKE_TERMINAL = """import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])"""
_START = {
    "bash": ["bash", "--noprofile", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
# Each reads the script, shows a prompt, and writes the line that is typed into a file at Ctrl-X p.
_SETUP = {
    "bash": """PS1='READY''> '; bind 'set enable-bracketed-paste off' 2>/dev/null; set +H; source ./script
bind -x '"\\C-xp": printf %s "$READLINE_LINE" > line.new; mv line.new line'
""",
    "zsh": """PS1='READY''> '; unsetopt zle_bracketed_paste prompt_sp beep; autoload -Uz compinit
fpath=($PWD $fpath); compinit -u -D
show() { print -rn -- "$BUFFER" > line.new; mv line.new line }; zle -N show; bindkey '^Xp' show
""",
    "fish": """function fish_prompt; echo -n 'READY''> '; end; set -g fish_autosuggestion_enabled 0
source ./script
bind \\cxp 'printf %s (commandline | string collect) > line.new; mv line.new line'
""",
}


class Shell:
    """An interactive shell on a terminal of its own, with the script of completion read."""

    def __init__(self, name: str, script: str, folder: Path) -> None:
        import pty

        self._folder = folder
        (folder / ("_clawlink" if name == "zsh" else "script")).write_text(script, "utf-8")
        environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "TERM": "xterm",
            "COLUMNS": "300",
            "LC_ALL": "C.UTF-8",
            "XDG_CONFIG_HOME": str(folder),
            "XDG_DATA_HOME": str(folder),
        }
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *_START[name]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._setup = _SETUP[name].splitlines()

    def begin(self) -> None:
        """Read the script, and wait for the prompt."""
        for line in self._setup:
            self._write(line + "\r")
        self._until(lambda: self.shown.count("READY> ") >= len(self._setup))

    def line_after(self, keys: str) -> str:
        """Type, and return the line that stands at the prompt then. The line is cleared afterwards."""
        line = self._folder / "line"
        line.unlink(missing_ok=True)
        self._write(keys + "\x18p")
        self._until(line.exists)
        self._write("\x05\x15")
        return line.read_text("utf-8")

    def run(self, keys: str, done: Callable[[], bool]) -> None:
        """Type a line, complete and run it."""
        self._write(keys + "\r")
        self._until(done)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            self._read()
            data = data[os.write(self._master, data[:200]) :]

    def _read(self) -> None:
        while select.select([self._master], [], [], 0)[0]:
            try:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                return

    def _until(self, done: Callable[[], bool]) -> None:
        def shown() -> bool:
            self._read()
            return done()

        wait_until(shown, say=lambda: self.shown[-3000:])


@pytest.fixture
def shell(
    request: pytest.FixtureRequest, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Shell]]:
    """Start the shell that the test is for."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "plan.md").write_text("a plan")
    (folder / "my folder").mkdir()
    script = run("completion", request.param).ok().out
    with command_in(folder / "bin"):
        started = Shell(request.param, script, folder)
        try:
            started.begin()
            yield request.param, started
        finally:
            started.close()


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
@pytest.mark.parametrize("shell", HERE, indirect=True)
def test_a_shell_completes_what_can_be_known(shell: tuple[str, Shell], call: Run, own_relay: Relays) -> None:
    name, at = shell
    url = own_relay()
    (Path.home() / "at-home.md").write_text("a plan")
    call("--relay", url, "register", "ida").ok()
    with Client(url) as peer:
        peer.register("alice")
        peer.put_file("docs/plan.md", "x")
        peer.put_file("notes:today", "x")
        for typed_so_far, line in (
            ("clawlink deleg", "clawlink delegate "),
            ("clawlink file pu", "clawlink file put "),
            ("clawlink task li", "clawlink task list "),
            ("clawlink dead-l", "clawlink dead-letters "),
            *([] if name == "zsh" else [("clawlink file-pu", "clawlink file-put ")]),
            ("clawlink send --pri", "clawlink send --priority "),
            ("clawlink send x y --priority ur", "clawlink send x y --priority urgent "),
            ("clawlink send al", "clawlink send alice "),
            ("clawlink message send al", "clawlink message send alice "),
            ("clawlink send --to al", "clawlink send --to alice "),
            ("clawlink --as id", "clawlink --as ida "),
            ("clawlink poll --as id", "clawlink poll --as ida "),
            ("clawlink --as ida send al", "clawlink --as ida send alice "),
            ("clawlink delegate ida,al", "clawlink delegate ida,alice "),
            ("clawlink file get do", "clawlink file get docs/plan.md "),
            ("clawlink file rm --key do", "clawlink file rm --key docs/plan.md "),
            ("clawlink file get notes:t", "clawlink file get notes:today "),
            ("clawlink file put k pla", "clawlink file put k plan.md "),
            ("clawlink file put pla", "clawlink file put plan.md "),
            ("clawlink file put do", "clawlink file put docs/plan.md "),
            ("clawlink file put my", r"clawlink file put my\ folder/"),
            *([] if name == "fish" else [("clawlink file put ~/at-h", "clawlink file put ~/at-home.md ")]),
            ("clawlink file put k --file pla", "clawlink file put k --file plan.md "),
            ("clawlink send x y --attach pla", "clawlink send x y --attach plan.md "),
            (f"clawlink --relay {url} send al", f"clawlink --relay {url} send alice "),
            ("clawlink --relay http://127.0.0.1:1 send al", "clawlink --relay http://127.0.0.1:1 send al"),
        ):
            assert at.line_after(typed_so_far + "\t").rstrip() == line.rstrip(), (typed_so_far, at.shown[-500:])
    assert "Traceback" not in at.shown
    assert "clawlink:" not in at.shown


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
@pytest.mark.parametrize("shell", HERE, indirect=True)
def test_a_name_of_somebody_elses_is_completed_whole_and_never_run(
    shell: tuple[str, Shell], call: Run, own_relay: Relays, tmp_path: Path
) -> None:
    _, at = shell
    url = own_relay()
    call("--relay", url, "register", "ida").ok()
    with Client(url) as peer:
        peer.register(EVIL)
        peer.put_file(EVIL_KEY, "x")
        at.run("clawlink send evi\thi; touch sent", (tmp_path / "here" / "sent").exists)
        assert [one.raw["content"] for one in peer.poll() if one.raw["type"] == "message"] == ["hi"]
        at.run("clawlink file get evil/\t--output got; touch got-it", (tmp_path / "here" / "got-it").exists)
        assert (tmp_path / "here" / "got").read_text() == "x"
        at.line_after('clawlink send "evi\t')
        at.line_after("clawlink file get 'evi\t")
        at.run("clawlink file put evil/\tplan.md; touch put-it", (tmp_path / "here" / "put-it").exists)
        assert peer.get_file(EVIL_KEY).content == b"a plan"
    left = {path.name for path in (tmp_path / "here").iterdir()}
    assert "pwned" not in left
    assert not any("pwned" in name for name in os.listdir())


def test_words_are_printed_only_where_they_can_be_typed(call: Run, own_relay: Relays) -> None:
    url = own_relay()
    call("--relay", url, "register", "ida").ok()
    with Client(url) as peer:
        id = peer.register("two\u00a0words, and $more").agent.agent_id
        plain = peer.put_file("-dash", "x")
        assert plain.version == 1
        peer.put_file("a\u202eb", "x")
        peer.put_file("a b$c", "x")
        assert call("completion", "agents").ok().out.split("\n") == [*sorted(["ida", id], key=["ida", id].index), ""]
        assert call("completion", "keys").ok().out == "a b$c\n"
        assert call("completion", "keys", "--shell", "bash").ok().out == "a\\ b\\$c\n"
        assert call("completion", "keys", "a\\ b", "--shell", "bash").ok().out == "a\\ b\\$c\n"
        assert call("completion", "keys", "'a b", "--shell", "bash").ok().out == ""
        assert call("completion", "keys", "b").ok().out == ""
        assert call("completion", "agents", "bob,id").ok().out == "bob,ida\n"
        assert call("completion", "identities", "i").ok().out == "ida\n"
        assert call("completion", "agents", "--line", f"clawlink --relay {url} send 'x").ok().out.startswith("ida\n")
        assert call("completion", "agents", "--line", "clawlink --relay=http://127.0.0.1:1 send").ok().out == ""
        peer.put_blob("for ida", b"x", readers=["ida"])
        peer.put_blob("for nobody else", b"x", readers=[peer.agent_id or ""])
        assert call("completion", "keys", "for").ok().out == "for ida\n"


def test_where_no_relay_answers_nothing_is_printed_and_nothing_fails(
    call: Run, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("agents", "keys", "identities"):
        done = call("--relay", "http://127.0.0.1:1", "completion", kind)
        assert (done.code, done.raw, done.err) == (0, b"", ""), kind
    folder = account / ".clawlink" / "identities"
    folder.mkdir(parents=True)
    (folder / "torn-00000000.json").write_text("{")
    monkeypatch.setenv("CLAWLINK_RELAY", "http://127.0.0.1:1")  # a relay of this machine may have the usual port
    for kind in ("agents", "keys", "identities"):
        done = call("completion", kind)
        assert (done.code, done.raw, done.err) == (0, b"", ""), kind


def test_the_beginning_of_a_word_is_read_as_a_shell_reads_it() -> None:
    for raw, text, quote in (
        ("plain", "plain", ""),
        ("two\\ words", "two words", ""),
        ("'two words", "two words", "'"),
        ('"two words', "two words", '"'),
        ("'a'b\"c", "abc", '"'),
        ('"a\\"b\\x', 'a"b\\x', '"'),
        ("'a\\b", "a\\b", "'"),
        ("$(touch x)", "$(touch x)", ""),
        ("end\\", "end", ""),
        ("", "", ""),
    ):
        assert typed(raw, "bash") == (text, quote), raw
    assert typed("'a", None) == ("'a", "")


def test_bash_gets_each_character_that_it_acts_on_with_a_backslash() -> None:
    for word in (EVIL, EVIL_KEY, "日本", "é", "a\u00a0b", "~root", "!x", "a=b:c", "{a,b}", "-x"):
        quoted = as_typed(word, typed("", "bash"), "bash")
        assert quoted is not None
        done = subprocess.run(["sh", "-c", f"printf %s {quoted}"], capture_output=True, check=True)
        assert done.stdout.decode() == word
        assert as_typed(word, typed("", "zsh"), "zsh") == word
    assert as_typed("a b", typed("'a", "bash"), "bash") == "a b"
    assert as_typed("a'b", typed("'a", "bash"), "bash") is None


def test_a_line_tells_relay_token_and_identity() -> None:
    for line, told in (
        ("clawlink --relay r --token=t send --as n x", {"relay": "r", "token": "t", "named": "n"}),
        ("clawlink send 'open quote --as n", {}),
        ("clawlink --as 'a b' --relay", {"named": "a b"}),
        ("clawlink --as --relay r", {"relay": "r"}),
        ("clawlink \\", {}),
        ("", {}),
    ):
        assert flags_in(line) == told, line


def test_every_agent_key_and_path_is_completed(run: Run) -> None:
    script = run("completion", "bash").ok().out
    for part in ("task_delegate_pos_0", "message_send___to", "agent_kick_pos_0", "topic_history___author"):
        assert f"_shtab_clawlink_{part}_COMPGEN=_clawlink_agents" in script, part
    for verb in verbs():
        name = f"_shtab_clawlink_{re.sub(r'[^a-z0-9]', '_', verb.spellings[0])}___as_COMPGEN=_clawlink_identities"
        assert (name in script) == ("--as" not in verb.unused), name
        if verb.noun == "file" and verb.name != "list":
            assert f"_shtab_clawlink_file_{verb.name}_pos_0_COMPGEN=_clawlink_keys" in script, verb.name
            assert f"_shtab_clawlink_file_{verb.name}___key_COMPGEN=_clawlink_keys" in script, verb.name
    for part in (
        "file_put_pos_1",
        "file_put___file",
        "file_get___output",
        "task_delegate___attach",
        "serve___tls_cert",
    ):
        assert f"_shtab_clawlink_{part}_COMPGEN=_shtab_compgen_files" in script, part
    assert "_shtab_clawlink_serve___spool_COMPGEN=_shtab_compgen_dirs" in script
    assert "$(clawlink" not in script  # what `compgen -W` expanded


@pytest.mark.skipif(shutil.which("bash") is None or os.name != "posix", reason="needs bash, and names with a newline")
def test_a_path_with_a_newline_is_offered_in_no_parts(run: Run, tmp_path: Path) -> None:
    for name in ("plan\nof.md", "plan\tb.md", "plan a.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "script").write_text(run("completion", "bash").ok().out)
    offer = ["bash", "--norc", "-c", "source ./script; COMP_LINE='clawlink file put '; _clawlink_keys_or_paths plan"]
    told = processes.run(offer, cwd=tmp_path, timeout=PATIENCE).stdout
    assert set(told.splitlines()) == {b"$'plan\\tb.md'", b"plan\\ a.md"}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script_of_that_shell(call: Run, shell: str) -> None:
    script = call("completion", shell).ok().out
    for verb in verbs():
        assert verb.name in script
    assert "reply-to" in script
    assert call("completion", shell, "--json").ok().json == {"shell": shell, "script": script.removesuffix("\n")}
