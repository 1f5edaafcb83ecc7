"""Options before and after the verb, mistakes in one sentence, and a start that imports nothing it does not need."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from clawlink.cli import parser
from clawlink.cli.exits import Exit, UsageError
from clawlink.cli.verbs import VERBS, load
from tests.cli.conftest import Run

HEAVY = {"aiohttp", "requests", "rich", "msgspec", "zeroconf", "urllib3", "shtab", "asyncio"}


def imported_by(*args: str) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    code = "import sys; from clawlink.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["discover", "--help"], ["nonsense"], []])
def test_help_and_mistakes_import_nothing_heavy(args: list[str]) -> None:
    modules = imported_by(*args)
    assert not HEAVY & modules
    commands = {name for name in modules if name.startswith("clawlink.cli.commands.")}
    assert commands == ({"clawlink.cli.commands.discover"} if args[:1] == ["discover"] else set())


def test_a_command_imports_no_server_and_no_aiohttp() -> None:
    modules = imported_by("--relay", "http://127.0.0.1:1", "discover")
    assert "requests" in modules
    assert not {"aiohttp", "rich", "zeroconf", "clawlink.relay", "clawlink.server", "clawlink.store"} & modules


@pytest.mark.parametrize("verb", VERBS)
def test_the_table_and_the_modules_agree(verb: str) -> None:
    module = load(verb)
    assert (verb, VERBS[verb]) == (module.NAME, module.HELP)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, call: Run) -> None:
    shown = call(verb, "--help").ok().out
    assert shown.startswith(f"usage: clawlink {verb}")
    for flag in ("--relay", "--token", "--as", "--ca", "--timeout", "--json"):
        assert flag in shown


def test_help_lists_verbs_exit_codes_and_environment(call: Run) -> None:
    shown = call("--help").ok().out
    for verb, help in VERBS.items():
        assert f"{verb} " in shown
        assert help in shown
    for code in Exit:
        assert f"\n  {code.value} " in shown
    for name in ("CLAWLINK_RELAY", "CLAWLINK_TOKEN", "CLAWLINK_AGENT", "CLAWLINK_CA", "CLAWLINK_HOME"):
        assert name in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["--relay", "r", "--token", "t", "--as", "n", "--ca", "c", "--timeout", "3", "--json", "discover"],
        ["discover", "--relay", "r", "--token", "t", "--as", "n", "--ca", "c", "--timeout", "3", "--json"],
        ["--relay=r", "--json", "--timeout=3", "discover", "--as=n", "--token=t", "--ca=c"],
    ],
)
def test_options_stand_before_or_after_the_verb(argv: list[str]) -> None:
    verb, args = parser.parse(argv)
    assert verb.NAME == "discover"
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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "say what to do"),
        (["--json"], "say what to do"),
        (["dicsover"], "did you mean: clawlink discover"),
        (["xyzzy"], "all commands: clawlink --help"),
        (["-"], "unrecognized arguments: -"),
        (["register"], "--name; see: clawlink register --help"),
        (["register", "--nam", "x"], "--name"),
        (["discover", "--timeout", "0"], "above 0"),
        (["discover", "--timeout", "soon"], "above 0"),
        (["discover", "--timeout", "1e10"], "up to 31536000"),
        (["discover", "extra"], "unrecognized arguments: extra"),
        (["poll", "--max", "0"], "from 1 up"),
        (["poll", "--wait", "-1"], "number of seconds"),
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
    with pytest.raises(UsageError, match=re.escape(said)):
        parser.parse(argv)


def test_mistakes_end_with_2_and_with_json_are_json(call: Run) -> None:
    assert call("register").failed(2).err.startswith("clawlink: ")
    told = call("register", "--json").failed(2)
    assert told.raw == b""
    assert '"code":"usage"' in told.err


def test_file_names_need_not_be_utf8() -> None:
    assert parser.parse(["file-put", "--key", "k", "--file", "\udcff"])[1].file == "\udcff"
