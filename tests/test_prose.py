"""Docstrings and comments begin with their subject, so that nobody has to search for it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
_NO_SUBJECT = re.compile(r"(?:Who|What|Which|Whose|Whom|That|One|Whoever|Whatever|So (?:long|many|much|often))\b")
# A file without this has neither: to read it word by word takes a hundred times as long.
_MAY_LACK = re.compile(r"[\"'#]\s*" + _NO_SUBJECT.pattern)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Give line and text of each docstring, and of each comment once, however many lines it has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield token.start[0], token.string.lstrip("# ")
            last = token.start[0]


def test_the_rule_finds_what_it_is_for() -> None:
    for word in ("Who", "What", "Which", "That", "One", "Whoever", "So long"):
        source = f'"""{word} x."""\nx = 1\n# {word} is,\n# {word} says.\ndef f():\n    """Return x."""\n'
        assert [line for line, text in texts(source) if _NO_SUBJECT.match(text)] == [1, 3], word


def test_no_docstring_or_comment_begins_without_its_subject() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {text.splitlines()[0]}"
        for folder in ("clawlink", "tests", ".ci")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if _MAY_LACK.search(source := path.read_text(encoding="utf-8"))
        for line, text in texts(source)
        if _NO_SUBJECT.match(text)
    ]
    assert not found, "\n".join(found)
