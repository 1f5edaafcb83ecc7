"""Words that have a place, the flags that mean the same, and what argparse alone would not understand."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

import pytest

from clawlink.cli import parser
from clawlink.cli.exits import UsageError
from clawlink.cli.verbs import spellings, verbs
from tests.tables import each

INF = float("inf")


def read(*words: str) -> dict[str, Any]:
    """Return what was given, without what was not."""
    verb, args = parser.parse(words)
    usual = vars(parser.parse([words[0], *_LEAST[words[0]]])[1])
    slots = {slot.dest for slot in parser.parser_of(verb).slots}
    return {name: value for name, value in vars(args).items() if name in slots or value != usual.get(name)}


_LEAST = {
    "send": ("a", "b"),
    "delegate": ("a", "b"),
    "respond": ("0", "b"),
    "register": ("a",),
    "broadcast": ("b",),
    "file-put": ("k", "p"),
    "file-get": ("k",),
    "knowledge": (),
}

SAME = [
    ("send bob hi", {"to": "bob", "content": "hi"}),
    ("send --to bob hi", {"to": "bob", "content": "hi"}),
    ("send bob --content hi", {"to": "bob", "content": "hi"}),
    ("send --content hi bob", {"to": "bob", "content": "hi"}),
    ("send --content hi --to bob", {"to": "bob", "content": "hi"}),
    ("send bob hi --to bob", {"to": "bob", "content": "hi"}),
    ("send --to bob bob hi", {"to": "bob", "content": "hi"}),
    ("send bob --priority high hi", {"to": "bob", "content": "hi", "priority": "high"}),
    ("send --priority high bob hi", {"to": "bob", "content": "hi", "priority": "high"}),
    ("send bob --wait hi", {"to": "bob", "content": "hi", "wait": "acked"}),
    ("send bob hi --wait answered", {"to": "bob", "content": "hi", "wait": "answered"}),
    ("send --wait answered bob hi", {"to": "bob", "content": "hi", "wait": "answered"}),
    ("send -q bob hi", {"to": "bob", "content": "hi", "quiet": True}),
    ("send bob -", {"to": "bob", "content": "-"}),
    ("send bob --content -", {"to": "bob", "content": "-"}),
    ("send bob -- -x", {"to": "bob", "content": "-x"}),
    ("send -- bob --to", {"to": "bob", "content": "--to"}),
    ("send bob --content=-x", {"to": "bob", "content": "-x"}),
    ("send bob -- --", {"to": "bob", "content": "--"}),
    ("send bob --content=--", {"to": "bob", "content": "--"}),
    ("file-get -- --", {"key": "--"}),
    ("delegate --to=-- x", {"to": ["--"], "task": "x"}),
    ("send bob -1", {"to": "bob", "content": "-1"}),
    ("send list put", {"to": "list", "content": "put"}),
    ("send 日本 ü", {"to": "日本", "content": "ü"}),
    ("delegate bob x", {"to": ["bob"], "task": "x"}),
    ("delegate ann,bob x", {"to": ["ann", "bob"], "task": "x"}),
    ("delegate --to ann --to bob x", {"to": ["ann", "bob"], "task": "x"}),
    ("delegate --capability c x", {"to": None, "task": "x", "capability": ["c"]}),
    ("delegate x --capability c", {"to": None, "task": "x", "capability": ["c"]}),
    ("delegate x --to-any-of a,b", {"to": None, "task": "x", "to_any_of": ["a", "b"]}),
    ("delegate --wait bob x", {"to": ["bob"], "task": "x", "wait": INF}),
    ("delegate --wait 60 bob x", {"to": ["bob"], "task": "x", "wait": 60.0}),
    ("delegate bob --wait 60 x", {"to": ["bob"], "task": "x", "wait": 60.0}),
    ("delegate bob x --wait", {"to": ["bob"], "task": "x", "wait": INF}),
    ("respond 7f3a done", {"msg_id": "7f3a", "result": "done"}),
    ("respond --msg-id 7f3a done", {"msg_id": "7f3a", "result": "done"}),
    ("respond 7f3a --progress 40", {"msg_id": "7f3a", "result": None, "progress": 40.0}),
    ("register alice", {"name": "alice"}),
    ("register --name alice", {"name": "alice"}),
    ("broadcast hi", {"content": "hi"}),
    ("broadcast -", {"content": "-"}),
    ("file-put k p", {"key": "k", "file": "p"}),
    ("file-put k --file p", {"key": "k", "file": "p"}),
    ("file-put --key k --file p", {"key": "k", "file": "p"}),
    ("file-put --key k p", {"key": "k", "file": "p"}),
    ("file-put --file p k", {"key": "k", "file": "p"}),
    ("file-put k -", {"key": "k", "file": "-"}),
    ("file-put p", {"key": None, "file": "p"}),
    ("file-put --file p", {"key": None, "file": "p"}),
    ("file-put p --burn", {"key": None, "file": "p", "burn": True}),
    ("file-put --key k k --file p", {"key": "k", "file": "p"}),
    ("send bob hi --to bob --to bob", {"to": "bob", "content": "hi"}),
    ("file-get k", {"key": "k"}),
    ("file-get --key k k", {"key": "k"}),
    ("knowledge build.*", {"topic": "build.*"}),
    ("knowledge", {"topic": None}),
]


def test_a_place_and_its_flag_mean_the_same() -> None:
    for line, meant in SAME:
        assert read(*line.split(" ")) == meant, line


def test_an_empty_word_is_a_word() -> None:
    for words, meant in (
        (("send", "bob", ""), {"to": "bob", "content": ""}),
        (("send", "bob", "-x with spaces"), {"to": "bob", "content": "-x with spaces"}),
        (("send", "bob", "a\nb"), {"to": "bob", "content": "a\nb"}),
        (("broadcast", ""), {"content": ""}),
    ):
        assert read(*words) == meant, words
    for words, name in (
        (("send", "", "hi"), "AGENT or --to"),
        (("send", "--to=", "hi"), "AGENT or --to"),
        (("register", ""), "NAME or --name"),
        (("file-get", ""), "KEY or --key"),
    ):
        with pytest.raises(UsageError, match=f"^{name} is empty; give a value; see: clawlink"):
            read(*words)


# An empty value has a meaning here, or the command has a sentence of its own.
MAY_BE_EMPTY = {
    "register": {"--caps", "--description", "--subscribe"},
    "work": {"--caps"},
    "delegate": {"--parent"},
    "respond": {"--result", "--note"},
    "task cancel": {"--note"},
    "send": {"--content", "--parent"},
    "broadcast": {"--content", "--parent"},
    "file put": {"--readers"},
    "file lock": {"--note"},
    "completion": {"--line"},
}


@each("given", ["", " "])
def test_no_other_flag_of_any_command_may_be_empty(given: str) -> None:
    """An unset variable gives an empty value, which would quietly be taken for no value, or for a strange one."""
    asked = 0
    for verb in verbs():
        for flag, action in parser.parser_of(verb).flags().items():
            if action.nargs == 0:
                continue
            if given and flag == "--key" and verb.noun == "file":
                continue  # a key may be white space
            asked += 1
            try:
                parser.parse([*verb.typed.split(), f"{flag}={given}"])
                said = ""
            except UsageError as refused:
                said = refused.message
            refusal = "TASK is empty; list yours with: " if flag == "--msg-id" else f"{flag} is empty; give "
            assert (refusal in said) != (flag in MAY_BE_EMPTY.get(verb.typed, ())), (verb.typed, flag, said)
    assert asked > 500


@each(
    ("line", "sentence"),
    [
        ("--relay= discover", "--relay is empty; give a value, or leave it out; see: clawlink --help"),
        ("discover --status=", "--status is empty; give one of online, stale, all, or leave it out; see:"),
        ("poll --wait=", "--wait is empty; give a value, or leave it out; see:"),
        ("delegate --capability= x", "--capability is empty; give a value, or leave it out; see:"),
        ("delegate --capability , x", "argument --capability: a name is needed, or several separated by commas"),
        ("serve --host=", "--host is empty; give a value, or leave it out; see: clawlink serve --help"),
        ("redrive --id=", "--id is empty; give a value"),
    ],
)
def test_an_empty_value_is_refused_with_its_flag_and_the_next_step(line: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parser.parse(line.split())
    assert refused.value.message.startswith(sentence)
    with pytest.raises(UsageError, match=r"^AGENT is empty; give a value; see: clawlink agent kick --help$"):
        parser.parse(["kick", ""])


REFUSED = [
    ("send bob hi --to ann", "AGENT 'bob' and --to 'ann' are given, and are different"),
    ("send bob --to ann", "AGENT 'bob' and --to 'ann' are given, and are different"),
    ("send --to ann bob hi", "AGENT 'bob' and --to 'ann' are given, and are different"),
    ("send bob hi --content ho", "TEXT 'hi' and --content 'ho' are given, and are different"),
    ("respond 7f3a x --msg-id 7f3b", "TASK '7f3a' and --msg-id '7f3b' are given, and are different"),
    ("register alice --name bob", "NAME 'alice' and --name 'bob' are given, and are different"),
    ("delegate bob x --to bob --to ann", "AGENT 'bob' and --to 'ann' are given, and are different"),
    ("broadcast hi --content ho", "TEXT 'hi' and --content 'ho' are given, and are different"),
    ("file-get a --key b", "KEY 'a' and --key 'b' are given, and are different"),
    ("file-get --key b a", "KEY 'a' and --key 'b' are given, and are different"),
    ("file-put --key a b --file q", "KEY 'b' and --key 'a' are given, and are different"),
    ("file-put a p --file q", "PATH 'p' and --file 'q' are given, and are different"),
    ("send", "required: AGENT or --to; see"),
    ("send bob", "required: TEXT or --content ('bob' was taken as AGENT); see"),
    ("send --content hi", "required: AGENT or --to ('hi' was taken as TEXT); see"),
    ("delegate bob", "required: TASK or --task ('bob' was taken as AGENT); see"),
    ("respond", "required: TASK or --msg-id; see"),
    ("broadcast", "required: TEXT or --content; see"),
    ("file-put", "required: PATH or --file; see"),
    ("file-put --key k", "required: PATH or --file ('k' was taken as KEY); see"),
    ("file-rm", "required: KEY or --key; see"),
    ("send bob hi there", "unrecognized arguments: there; a text of several words stands in quotes; see"),
    ("broadcast news 'hello all'", "unrecognized arguments: hello all; a topic is --topic news; see"),
    ("broadcast 'hello all' news", "unrecognized arguments: news; it takes TEXT and no further words; see"),
    ("send bob 'hi there' you", "unrecognized arguments: you; it takes AGENT TEXT and no further words; see"),
    ("file get notes.txt -", "unrecognized arguments: -; it takes KEY and no further words; see"),
    ("broadcast hello all", "unrecognized arguments: all; a text of several words stands in quotes; see"),
    ("register alice bob", "unrecognized arguments: bob"),
    ("delegate bob x --wait soon", "argument --wait: a length of time from 0 up is needed"),
    ("send bob hi --wait soon", "argument --wait: invalid choice: 'soon'"),
    ("send bob hi --wait=soon", "argument --wait: invalid choice: 'soon'"),
    ("send --to a --wait read --content b", "argument --wait: invalid choice: 'read'"),
    ("poll --wait=--", "argument --wait: a number of seconds is needed, not '--'; see"),
    ("poll --wait=-5", "argument --wait: it must be from 0 to 31536000 seconds, not '-5'"),
    ("poll --wait 99999999", "argument --wait: it must be from 0 to 31536000 seconds, not '99999999'"),
    ("poll --wait inf", "argument --wait: it must be from 0 to 31536000 seconds, not 'inf'"),
    ("poll --wait soon", "argument --wait: a number of seconds is needed"),
    ("send bob -hello", "if '-hello' is a value, join it to its flag: --content=-hello"),
    ("send -bob hello", "if '-bob' is a value, join it to its flag: --to=-bob or --content=-bob"),
    ("send bob --content -hello", "argument --content: expected one argument; if '-hello' is a value"),
    ("send --to --content hi", "argument --to: expected one argument; see"),
    ("send bob --content --", "argument --content: expected one argument; see"),
    ("status -abc", "if '-abc' is a value, put two dashes before it: -- -abc; see"),
    (
        "--token -abc discover",
        "argument --token: expected one argument; if '-abc' is a value, join it to its flag",
    ),
    ("--token --json discover", "argument --token: expected one argument; see"),
    ("send bob hi --nonsense", "unrecognized arguments: --nonsense; see"),
]


def test_what_contradicts_itself_or_is_missing_is_named() -> None:
    for line, said in REFUSED:
        with pytest.raises(UsageError) as told:
            parser.parse(shlex.split(line))
        assert said in told.value.message, (line, told.value.message)


def test_usage_is_the_words_that_are_needed() -> None:
    for words, usage in (
        ("send", "send AGENT TEXT [flags]"),
        ("delegate", "delegate [AGENT] TASK [flags]"),
        ("respond", "respond TASK [TEXT] [flags]"),
        ("file put", "file put [KEY] PATH [flags]"),
        ("wait", "wait TASK ... [flags]"),
        ("redrive", "message redrive (--id ID | --all) [flags]"),
        ("work", "work (--exec COMMAND | --acp COMMAND) [flags]"),
        ("completion", "completion bash|zsh|fish|agents|identities|keys [BEGINNING] [flags]"),
        ("poll", "poll [flags]"),
    ):
        with pytest.raises(SystemExit) as ended:
            parser.parse([*words.split(), "--help"])
        assert ended.value.code == 0
        verb = spellings()[words]
        assert parser.parser_of(verb).format_usage().strip() == f"usage: clawlink {usage}"


def test_flags_take_no_number_of_words_that_sorting_does_not_know() -> None:
    for verb in verbs():
        for flag, action in parser.parser_of(verb).flags().items():
            assert action.nargs in (None, "?", 0), (verb.typed, flag)
            if isinstance(action, argparse.BooleanOptionalAction):
                assert re.match("--(no-)?notices", flag), flag
