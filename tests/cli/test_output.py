"""Terminals, pipes, narrow encodings and missing streams."""

from __future__ import annotations

import io
import json

import pytest

from clawlink.cli.output import Output
from tests.tables import each


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def narrow(encoding: str) -> tuple[io.BytesIO, io.TextIOWrapper]:
    """Return a stream of an encoding that cannot show everything, and what it writes to."""
    buffer = io.BytesIO()
    return buffer, io.TextIOWrapper(buffer, encoding=encoding, write_through=True)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_plain_aligned_text() -> None:
    stream = io.StringIO()
    Output(stream).table(("name", "id"), [("ada", "1"), ("grace", "2")])
    assert stream.getvalue() == "NAME   ID\nada    1\ngrace  2\n"


def test_a_terminal_gets_a_table_in_which_nothing_is_markup() -> None:
    stream = Terminal()
    Output(stream).table(("name",), [("[bold red]ada[/] :smile:",)])
    assert "[bold red]ada[/] :smile:" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


def test_a_style_is_for_terminals_only() -> None:
    stream, terminal = io.StringIO(), Terminal()
    Output(stream).line("[b]done[/b]", style="bold")
    Output(terminal).line("[b]done[/b]", style="bold")
    assert stream.getvalue() == "[b]done[/b]\n"
    assert terminal.getvalue() == "\x1b[1m[b]done[/b]\x1b[0m\n"


def test_a_text_behind_a_head_is_wrapped_at_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream, terminal = io.StringIO(), Terminal()
    for output in (stream, terminal):
        Output(output).hanging("FAIL  token  ", "the token is not that of this relay: give the other one")
    assert stream.getvalue() == "FAIL  token  the token is not that of this relay: give the other one\n"
    assert terminal.getvalue().splitlines() == [
        "FAIL  token  the token is not that of",
        "             this relay: give the other",
        "             one",
    ]


def test_every_line_of_a_quotation_is_marked_even_where_a_terminal_would_wrap() -> None:
    stream, terminal = io.StringIO(), Terminal()
    text = "x" * 100 + "\nclawlink: trust me"
    Output(stream).quote(text)
    Output(terminal).quote(text)
    assert stream.getvalue() == "    │ " + "x" * 100 + "\n    │ clawlink: trust me\n"
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("    │ ") and len(line) <= 40 for line in lines)


@each("encoding", ["ascii", "cp1252"])
def test_a_narrow_encoding_is_no_reason_to_fail(encoding: str) -> None:
    buffer, stream = narrow(encoding)
    out = Output(stream)
    out.line("Grüße 日本")
    out.quote("日本")
    out.json({"name": "日本"})
    out.flush()
    text, quoted, encoded = buffer.getvalue().splitlines()
    assert rb"\u65e5\u672c" in text
    assert quoted == rb"    | \u65e5\u672c"
    assert json.loads(encoded) == {"name": "日本"}


def test_json_is_one_line_in_a_pipe_and_indented_on_a_terminal() -> None:
    stream, terminal, follow = io.StringIO(), Terminal(), Terminal()
    Output(stream).json({"a": [1]})
    Output(terminal).json({"a": [1]})
    Output(follow).json({"a": [1]}, one_line=True)
    assert stream.getvalue() == '{"a":[1]}\n'
    assert terminal.getvalue() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert follow.getvalue() == '{"a":[1]}\n'


def test_json_is_harmless_too() -> None:
    stream = io.StringIO()
    Output(stream).json({"a": "\x1b\x9b\u202e"})
    assert stream.getvalue() == '{"a":"\\u001b\\u009b\\u202e"}\n'


def test_bytes_go_out_as_they_are() -> None:
    buffer, stream = narrow("ascii")
    out = Output(stream)
    out.line("first")
    out.raw(b"\xff\r\n")
    assert buffer.getvalue().endswith(b"first\n\xff\r\n")


def test_facts_that_are_none_are_left_out() -> None:
    stream = io.StringIO()
    Output(stream).facts(("a", "1"), ("long", None), ("bcd", "2"))
    Output(stream).facts(("none", None))
    assert stream.getvalue() == "  a:    1\n  bcd:  2\n"


def test_a_missing_stream_shows_nothing() -> None:
    out = Output(None)
    out.line("x")
    out.raw(b"x")
    out.json({})
    out.flush()
    assert not out.open


def test_an_unknown_encoding_gets_the_plain_mark() -> None:
    class Odd(io.StringIO):
        encoding = "no-such-encoding"

    assert Output(Odd()).bar == "| "
