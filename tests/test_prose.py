"""Docstrings, comments and pages name their subject in short sentences, so that nobody has to read them twice."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "clawlink" / "SKILL.md", *(ROOT / "references").glob("*.md")]
_NO_SUBJECT = re.compile(r"(?:Who|What|Which|Whose|Whom|That|One|Whoever|Whatever|So (?:long|many|much|often))\b")
# Within a page "One agent may ..." and "That agent reads ..." name their subject. A question does, too.
_NO_SUBJECT_IN_PAGE = re.compile(
    r"(?:Who|What|Which|Whose|Whom|Whoever|Whatever|That which|One (?:that|who))\b(?!.*\?$)"
)
_UNCLEAR = re.compile(r"\b(?:so long|so many|anew|at present)\b", re.IGNORECASE)
# Taking a file apart to its comments is slow. A file without a match has no comment with a fault.
_SUSPECT = re.compile(rf"#[# ]*{_NO_SUBJECT.pattern}|(?i:{_UNCLEAR.pattern})")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n(?=\s*(?:[-*|>]|\d+\.) )")
_RIDDLE = re.compile(
    rf"{_UNCLEAR.pattern}|\b(?:of late|(?:this|that|it|which) is none|is none of|foresaw)\b", re.IGNORECASE
)
_WHETHER = re.compile(r"whether\b", re.IGNORECASE)
_MOST_WORDS = 25  # the rule is 20
_MOST_COLUMNS = 100


def texts(source: str) -> Iterator[tuple[int, str, bool]]:
    """Give line and text of each docstring (with True), and of each comment once, however many lines it has."""
    for node in _statements(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text, True
        if isinstance(node, ast.Module | ast.ClassDef):  # a text behind a field or a constant is about it
            for before, after in pairwise(node.body):
                if isinstance(before, ast.Assign | ast.AnnAssign) and _is_text(after):
                    yield after.lineno, inspect.cleandoc(after.value.value), True  # type: ignore[attr-defined]
    last = 0
    if not _SUSPECT.search(source):
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield token.start[0], token.string.lstrip("# "), False
            last = token.start[0]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Give a module with all of its statements. Expressions have no docstring, and are most of the tree."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements(child)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def unclear_answers(source: str) -> Iterator[int]:
    """Give the lines of functions that return True or False, and whose docstring does not say when."""
    for node in _statements(ast.parse(source)) if _WHETHER.search(source) else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(node.returns, ast.Name):
            unclear = re.match(rf"(?:Tell |Say )?{_WHETHER.pattern}", ast.get_docstring(node) or "", re.IGNORECASE)
            if node.returns.id == "bool" and unclear:
                yield node.lineno


def faults(text: str, *, is_docstring: bool) -> Iterator[str]:
    """Say what is wrong with a docstring or comment. A drawing within it, indented, may be as wide as it has to be."""
    if _NO_SUBJECT.match(text):
        yield "begins without its subject"
    if (found := _UNCLEAR.search(text)) and f"``{found[0]}``" not in text:
        yield f"says {found[0]!r}"
    for sentence in _SENTENCE_END.split(text) if is_docstring else ():
        if len(sentence.split()) > _MOST_WORDS and "    " not in sentence:
            yield f"has a sentence of {len(sentence.split())} words: {' '.join(sentence.split()[:8])} ..."


def faults_of_page(page: str) -> Iterator[tuple[int, str]]:
    """Give line and fault of a page. Code is left out, and tables may be wide."""
    blanked = re.sub(r"^ *```.*?^ *```$", lambda code: "\n" * code[0].count("\n"), page, flags=re.DOTALL | re.MULTILINE)
    for number, line in enumerate(blanked.splitlines(), 1):
        is_table = line.lstrip().startswith("|")
        if len(line) > _MOST_COLUMNS and not is_table and not line.startswith("description:"):
            yield number, f"has {len(line)} columns"
        if found := _UNCLEAR.search(line):
            yield number, f"says {found[0]!r}"
        for sentence in re.split(r"(?<=[.!?])\s+|\s*\|\s*", re.sub(r"^\s*(?:[-*] |\d+\. |\*\*)+", "", line)):
            if not is_table and _NO_SUBJECT_IN_PAGE.match(sentence):
                yield number, f"has a sentence without its subject: {sentence[:40]}"


def test_the_rule_finds_what_it_is_for() -> None:
    for word in ("Who", "What", "Which", "That", "One", "Whoever", "So long"):
        source = f'"""{word} x."""\nx = 1\n# {word} is,\n# {word} says.\ndef f():\n    """Return x."""\n'
        assert [line for line, text, _ in texts(source) if _NO_SUBJECT.match(text)] == [1, 3], word
        source = f'X = 1\n"""{word} x."""\nclass C:\n    y: int = 1\n    """{word} y."""\n'
        assert [line for line, text, _ in texts(source) if _NO_SUBJECT.match(text)] == [2, 5], word
    for text in ("Wait so long.", "Make it anew.", "Return x" + " and y" * 13 + "."):
        assert list(faults(text, is_docstring=True)), text
    assert not list(faults("Return x" + " and y" * 11 + ": or this.", is_docstring=True))
    for page in ("x" * 101, "Wait so many seconds.", "It is. What is not is left out.", "- Whoever asks"):
        assert list(faults_of_page(page)), page
    fine = "```sh\n" + "x" * 101 + "\n```\n\n| " + "x" * 101 + " |\n\nWhat is it? One agent asks."
    assert not list(faults_of_page(fine))


def test_docstrings_and_comments_read_easily() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {fault}"
        for folder in ("clawlink", "tests", ".ci")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text, is_docstring in texts(path.read_text(encoding="utf-8"))
        for fault in faults(text, is_docstring=is_docstring)
    ]
    assert not found, "\n".join(found)


def test_a_yes_or_no_is_said_as_such() -> None:
    assert list(unclear_answers('def f() -> bool:\n    """Whether it is."""\n')) == [1]
    assert list(unclear_answers('def f() -> bool:\n    """Tell whether it is."""\n')) == [1]
    assert not list(unclear_answers('def f() -> bool:\n    """Return True if it is."""\n'))
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "clawlink").rglob("*.py"))
        for line in unclear_answers(path.read_text(encoding="utf-8"))
    ]
    assert not found, "begin with 'Return True if': " + ", ".join(found)


def riddles(source: str) -> Iterator[tuple[int, str]]:
    """Give line and words of each riddle in a sentence that users meet: an error, a help text, a line of output."""
    if not _RIDDLE.search(source):
        return
    tree = ast.parse(source)
    unseen = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in unseen:
            continue
        if " " in node.value and (found := _RIDDLE.search(node.value)):
            yield node.lineno, found[0]


def test_errors_and_help_have_no_riddles() -> None:
    assert list(riddles('"""Say it anew."""\nraise E("sign it anew")\n')) == [(2, "anew")]
    assert list(riddles('x = f"{a} takes a time, and this is none"\n')) == [(1, "this is none")]
    found = [
        f"{path.relative_to(ROOT)}:{line} says {words!r}"
        for path in sorted((ROOT / "clawlink").rglob("*.py"))
        for line, words in riddles(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_pages_read_easily() -> None:
    found = [
        f"{page.relative_to(ROOT)}:{line} {fault}"
        for page in PAGES
        for line, fault in faults_of_page(page.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_link_between_pages_leads_somewhere() -> None:
    headings: dict[Path, set[str]] = {}
    for page in PAGES:
        titles = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text("utf-8")), re.MULTILINE)
        headings[page] = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    lost = []
    for page in PAGES:
        for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text("utf-8")):
            led = (page.parent / target).resolve() if target else page
            if not led.exists() or (heading and heading not in headings.get(led, ())):
                lost.append(f"{page.relative_to(ROOT)} leads to {target}#{heading}")
    assert lost == []
