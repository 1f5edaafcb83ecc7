"""references/PROMISES.md: each promise names tests that are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parent.parent / "references" / "PROMISES.md"
_LINK = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")


@cache
def defined_in(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def rows() -> list[str]:
    """Return the rows of all tables, without their heads."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith("| Promise |")]


def test_each_promise_names_tests_that_are_there() -> None:
    assert len(rows()) > 20
    for row in rows():
        assert row.count(" | ") == 4, row
        links = _LINK.findall(row)
        assert links, f"no test holds this: {row}"
        for name, place in links:
            assert name in defined_in((PAGE.parent / place).resolve()), (name, place)


def test_what_is_not_promised_stands_there_too() -> None:
    text = PAGE.read_text("utf-8")
    assert text.index("## Not promised") > text.index("## Files")
