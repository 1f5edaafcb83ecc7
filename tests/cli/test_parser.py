"""Options before and after the verb, mistakes in one sentence, and a start that imports nothing it does not need."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from clawlink.cli import parser
from clawlink.cli.exits import Exit, UsageError
from clawlink.cli.plumbing import NOUN as PLUMBING
from clawlink.cli.verb import OF_A_RELAY, Noun, Verb
from clawlink.cli.verbs import NOUNS, nouns, spellings, verbs
from tests.cli.conftest import Run
from tests.processes import run
from tests.tables import each
from tests.waiting import PATIENCE

HEAVY = {"aiohttp", "requests", "rich", "msgspec", "zeroconf", "urllib3", "shtab", "asyncio"}


def imported_by(*args: str) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    code = "import sys; from clawlink.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@each("args", [["--help"], ["--version"], ["discover", "--help"], ["nonsense"], []])
def test_help_and_mistakes_import_nothing_heavy(args: list[str]) -> None:
    modules = imported_by(*args)
    assert not HEAVY & modules
    commands = {verb.module for verb in verbs()} & modules
    assert commands == {"discover": {spellings()["discover"].module}, "": {spellings()["help"].module}}.get(
        (args or [""])[0], set()
    )


def test_a_command_imports_no_server_and_no_aiohttp() -> None:
    modules = imported_by("--relay", "http://127.0.0.1:1", "discover")
    assert "requests" in modules
    assert not {"aiohttp", "rich", "zeroconf", "clawlink.relay", "clawlink.server", "clawlink.store"} & modules
    # Finding doors reads what is installed, and most commands need none.
    assert not {"clawlink.doors.registry", "shtab"} & modules


@each("verb", verbs(), ids=lambda verb: verb.typed)
def test_every_spelling_of_a_verb_has_its_help(verb: Verb, call: Run) -> None:
    shown = {call(*spelling.split(), "--help").ok().out for spelling in verb.spellings}
    shown |= {call("help", *spelling.split()).ok().out for spelling in verb.spellings}
    assert len(shown) == 1
    text = shown.pop()
    assert text.startswith(f"usage: clawlink {verb.typed}")
    for part in ("--json", verb.help, *verb.examples):
        assert part in text
    options = text.partition("\nexample")[0]
    for flag in OF_A_RELAY:  # help shows those that do something
        assert (f"\n  {flag} " in options) == (flag not in verb.unused), flag
        assert flag in parser.parser_of(verb).flags(), "each is taken, wherever it stands"


def test_every_verb_of_1_0_and_of_1_1_is_there_under_its_name() -> None:
    ever = """register whoami heartbeat discover leave delegate wait tasks answer cancel poll respond work send
        broadcast knowledge status dead-letters redrive file-put file-get file-list file-edit file-diff file-history
        file-watch file-lock file-unlock file-rm serve scan info kick doctor bench demo
        skill completion"""
    assert set(ever.split()) <= set(spellings())
    assert parser.parse(["task", "0123abcd"])[0] is spellings()["task show"]


def test_no_word_means_two_things() -> None:
    words = [spelling for verb in verbs() for spelling in verb.spellings] + [noun.name for noun in NOUNS if noun.name]
    assert len(words) == len(set(words))
    # The beginning of an id behind `task` must never be one of its verbs.
    assert not [verb.name for verb in verbs() if verb.noun == "task" and set(verb.name) <= set("0123456789abcdef")]


@each("noun", [noun for noun in NOUNS if noun.name], ids=lambda noun: noun.name)
def test_a_noun_alone_says_its_verbs(noun: Noun, call: Run) -> None:
    shown = call(noun.name, "--help").ok().out
    assert shown == call("help", noun.name).ok().out
    told = call(noun.name).failed(2).err
    for verb in noun.verbs:
        assert f"\n  {verb.name} " in shown
        assert verb.name in told


def test_special_needs_come_last(call: Run) -> None:
    shown = call("--help").ok().out
    at = nouns().index(PLUMBING)
    rare = [f"\n  {verb.typed} " for noun in nouns()[at:] for verb in noun.verbs]
    often = [f"\n  {verb.typed} " for noun in nouns()[:at] for verb in noun.owned()]
    assert max(map(shown.index, often)) < min(map(shown.index, rare))


def test_clawlink_alone_shows_how_to_begin(call: Run) -> None:
    shown = call().ok().out
    assert shown == call("help").ok().out
    assert call("help", "--json").ok().json == {"help": shown.rstrip("\n")}
    for word in ("register", "delegate", "poll", "wait"):
        assert f"\n  clawlink {word} " in shown
    assert shown.count("\n  clawlink ", shown.index("examples:")) == 3


def test_help_lists_verbs_exit_codes_and_environment(call: Run) -> None:
    shown = call("--help").ok().out
    in_one_line = " ".join(shown.split())
    for verb in verbs():
        assert f"\n  {verb.typed} " in shown
        assert verb.help in in_one_line
    for code in Exit:
        assert f"\n  {code.value} " in shown
    for name in ("CLAWLINK_RELAY", "CLAWLINK_TOKEN", "CLAWLINK_AGENT", "CLAWLINK_CA", "CLAWLINK_HOME"):
        assert name in shown


@each("columns", ["60", "80"])
def test_help_fits_into_the_terminal(call: Run, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = [call(*words, "--help").ok().out for words in ([], ["task"], ["bench"], ["poll"])]
    for shown in (*texts, call("help").ok().out):
        wide = [line for line in shown.partition("\nexamples:")[0].splitlines() if len(line) > int(columns)]
        assert not wide


@each(
    "argv",
    [
        ["--relay", "r", "--token", "t", "--as", "n", "--ca", "c", "--timeout", "3", "--json", "discover"],
        ["discover", "--relay", "r", "--token", "t", "--as", "n", "--ca", "c", "--timeout", "3", "--json"],
        ["--relay=r", "--json", "--timeout=3", "discover", "--as=n", "--token=t", "--ca=c"],
    ],
)
def test_options_stand_before_or_after_the_verb(argv: list[str]) -> None:
    verb, args = parser.parse(argv)
    assert verb is spellings()["discover"]
    assert (args.relay, args.token, args.named, args.ca, args.timeout, args.json) == ("r", "t", "n", "c", 3.0, True)


def test_the_later_one_counts_and_absent_ones_are_none() -> None:
    _, args = parser.parse(["--relay", "one", "poll", "--relay", "two"])
    assert (args.relay, args.token, args.named, args.ca, args.timeout, args.json) == (
        "two",
        None,
        None,
        None,
        None,
        False,
    )


def test_serve_takes_its_token_from_both_places() -> None:
    assert parser.parse(["--token", "t", "serve"])[1].token == "t"
    assert parser.parse(["serve", "--token", "t"])[1].token == "t"


@each(
    ("argv", "said"),
    [
        (["--json"], "name a command"),
        (["dicsover"], "did you mean: clawlink discover"),
        (["version"], "did you mean: clawlink --version"),
        (["get", "plan"], "there is no command 'get'; did you mean: clawlink file get"),
        (["edit", "plan"], "there is no command 'edit'; did you mean: clawlink file edit"),
        (["list"], "did you mean: clawlink discover or clawlink task list or clawlink file list"),
        (["rm", "plan"], "there is no command 'rm'; all commands: clawlink --help"),
        (["--as", "discover"], "('discover' was taken as the value of --as)"),
        (["--as", "file"], "('file' was taken as the value of --as)"),
        (["xyzzy"], "all commands: clawlink --help"),
        (["-"], "unrecognized arguments: -"),
        (["register"], "--name; see: clawlink register --help"),
        (["register", "--nam", "x"], "--name"),
        (["discover", "--timeout", "0"], "above 0"),
        (["discover", "--timeout", "soon"], "above 0"),
        (["discover", "--timeout", "1e10"], "up to 31536000"),
        (["discover", "extra"], "unrecognized arguments: extra"),
        (["file"], "the verbs are put, get, list"),
        (["completion", "tcsh"], "invalid choice: 'tcsh' (choose from"),
        (["completion"], "required: bash|zsh|fish|agents|identities|keys; see"),
        (["file", "puut"], "did you mean: clawlink file put"),
        (["file-puut", "k"], "did you mean: clawlink file-put"),
        (["fiel", "put"], "did you mean: clawlink file"),
        (["task", "lsit"], "did you mean: clawlink task list"),
        (["--tiemout", "3", "poll"], "unrecognized arguments: --tiemout; did you mean: --timeout"),
        (["file", "--jsn", "list"], "unrecognized arguments: --jsn; did you mean: --json"),
        (["--task", "x", "delegate", "bob"], "the flags of a command stand behind its name"),
        (["delegate", "bob", "--taks", "x"], "unrecognized arguments: --taks; did you mean: --task; see:"),
        (["delegate", "--to", "bob", "--tsk", "x"], "unrecognized arguments: --tsk; did you mean: --task; see:"),
        (["send", "bob", "--conten=x"], "did you mean: --content"),
        (["register", "ann", "-caps", "x"], "did you mean: --caps"),
        (["poll", "--max", "0"], "from 1 up"),
        (["poll", "--wait", "-1"], "it must be from 0 to 31536000 seconds, not '-1'"),
        (["wait", "0123", "--timeout=-5m"], "a length of time from 0 up is needed"),
        (["delegate", "bob", "x", "--prio", "high"], "unrecognized arguments: --prio; did you mean: --priority"),
        (["file", "put", "k", "f", "--content-t=x"], "did you mean: --content-type"),
        (["poll", "--lease", "x"], "number of seconds"),
        (["delegate", "--to", "a", "--task", "b", "--priority", "top"], "invalid choice"),
        (["redrive"], "--id --all"),
        (["discover", "--all", "--status", "stale"], "not allowed with"),
        (["file-put", "--key", "k", "--file", "f", "--if-version", "x"], "from 0 up"),
        (["discover", "--name", "\udcff"], "not UTF-8"),
        (["redrive", "--id", "\udcff"], "not UTF-8"),
        (["--nonsense", "discover"], "unrecognized arguments: --nonsense"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        parser.parse(argv)
    for attribute in ("argument what", "argument action"):
        assert attribute not in refused.value.message, "help shows the choices, and not this word"


def test_arguments_are_utf_8_in_a_locale_that_has_none() -> None:
    program = "import sys; from clawlink.cli import parser; print(ascii(parser.parse(sys.argv[1:])[1].name))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", program, "register", "--name", "Ünï 小"]
    done = run(command, env={**os.environ, **plain}, timeout=PATIENCE)
    assert done.stdout.decode().strip() == ascii("Ünï 小"), done.stderr


def test_no_suggestion_deletes() -> None:
    for verb in verbs():
        for spelling in verb.spellings if verb.deletes else ():
            for typo in _typos(spelling.split()[-1]):
                with pytest.raises(UsageError) as told:
                    parser.parse([*spelling.split()[:-1], typo, "--as", "x"])
                named = told.value.message.partition("did you mean: clawlink ")[2]
                assert named not in spellings() or not spellings()[named].deletes, (spelling, typo, named)
    for words in (
        ["file", "put", "k", "f", "--forc"],
        ["file", "put", "k", "f", "--brun"],
        ["file", "rm", "k", "--froce"],
        ["agent", "leave", "--ofline"],
        ["cancel", "--nte", "x", "0123"],
    ):
        with pytest.raises(UsageError, match="unrecognized arguments: --") as told:
            parser.parse(words)
        assert "did you mean" not in told.value.message, words


def _typos(word: str) -> set[str]:
    """Return the word with one letter less, twice, or beside its place, where that is no verb itself."""
    made = set()
    for at in range(len(word)):
        made |= {word[:at] + word[at + 1 :], word[: at + 1] + word[at:]}
        made |= {word[:at] + word[at : at + 2][::-1] + word[at + 2 :]}
    return {typo for typo in made if len(typo) > 1 and typo not in spellings() and typo != word}


def test_mistakes_end_with_2_and_with_json_are_json(call: Run) -> None:
    assert call("register").failed(2).err.startswith("clawlink: ")
    told = call("register", "--json").failed(2)
    assert told.raw == b""
    assert '"code":"usage"' in told.err


def test_file_names_need_not_be_utf8() -> None:
    assert parser.parse(["file-put", "--key", "k", "--file", "\udcff"])[1].file == "\udcff"
