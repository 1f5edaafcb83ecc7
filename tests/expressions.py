"""Find every regular expression of the package, and time each on the worst text that its own structure suggests.

Run as a process of its own: an expression that backtracks without bound cannot be stopped from within. It prints a line
before each expression, so its last line names the one that does not end.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import clawlink
from clawlink.protocol import requests
from tests.effort import size

if sys.version_info >= (3, 11):
    import re._constants as constants
    import re._parser as parser
else:
    import sre_constants as constants
    import sre_parse as parser

SMALL, LARGE = 1 << 12, size(1 << 18, 1 << 20)
MOST_SECONDS = 2.0
"""The processor time of one text. A linear expression takes 0.04 s for 256 KiB, a quadratic one 12 s and more."""

_CALLS = ("match", "fullmatch", "search", "sub", "findall", "finditer", "split")
_BOUND = "MAX_TEXT"
"""The constant of a module that cuts its text to this length before an expression reads it."""


class Use(NamedTuple):
    """A use of an expression by the package."""

    module: str
    pattern: re.Pattern[Any]
    call: str

    @property
    def longest(self) -> int:
        """The longest text that it reads."""
        bound: int = getattr(sys.modules[self.module], _BOUND, LARGE)
        return bound


def uses() -> list[Use]:
    """Return each expression of the package with the method that it is called by."""
    found: dict[tuple[Any, str], Use] = {}
    for name in ["clawlink", *(m.name for m in pkgutil.walk_packages(clawlink.__path__, "clawlink."))]:
        if name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("clawlink.doors."):  # the import name of a door that was taken off
                continue
            raise
        for pattern, call in _of(module):
            found[pattern.pattern, call] = Use(name, pattern, call)
    for text in requests.PATTERNS:  # msgspec searches for the patterns of its fields
        found[text, "search"] = Use(requests.__name__, re.compile(text), "search")
    return list(found.values())


def _of(module: ModuleType) -> Iterator[tuple[re.Pattern[Any], str]]:
    with open(str(module.__file__), encoding="utf-8") as file:
        tree = ast.parse(file.read())
    called: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in _CALLS or not isinstance(node.value, ast.Name):
            continue
        called.setdefault(node.value.id, set()).add(node.attr)
    for name, value in vars(module).items():
        if isinstance(value, re.Pattern):
            for call in called.get(name, {"search"}):
                yield value, call
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and node.func.attr in _CALLS
        ):
            yield re.compile(node.args[0].value), node.func.attr


# -- texts -------------------------------------------------------------------------------------------------------------


def attacks(pattern: re.Pattern[Any]) -> list[str]:
    """Return texts to be repeated: what comes before, what is repeated, what comes after, joined by NUL marks."""
    tree = parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    found = {("", _example(tree), tail) for tail in _TAILS}
    for before, body in _repeats(tree, ""):
        found |= {(before, body, tail) for tail in _TAILS}
        found |= {(before + body, before + body, tail) for tail in _TAILS}
    characters = sorted(set("".join(body for _, body, _ in found)))[:12]
    found |= {("", a + b, tail) for a in characters for b in characters for tail in ("", "\x00")}
    return ["\ue000".join(parts) for parts in sorted(found) if parts[1]]


_TAILS = ("", "\x00", '"', "\n")


def stretched(attack: str, length: int, pattern: re.Pattern[Any]) -> Any:
    """Return the attack as a text of about ``length``, of the kind that the pattern reads."""
    before, body, after = attack.split("\ue000")
    text = before + body * max(1, (length - len(before)) // len(body)) + after
    return text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text


def _example(nodes: Any, branch: int = 0) -> str:
    return "".join(_one(op, value, branch) for op, value in nodes)


def _one(op: Any, value: Any, branch: int) -> str:
    name = str(op)
    if name == "LITERAL":
        return chr(value)
    if name == "NOT_LITERAL":
        return "b" if value == ord("a") else "a"
    if name == "ANY":
        return "a"
    if name == "IN":
        return _member(value)
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, nodes = value
        return _example(nodes, branch) * int(least or min(1, most))
    if name == "SUBPATTERN":
        return _example(value[-1], branch)
    if name == "BRANCH":
        choices = value[1]
        return _example(choices[min(branch, len(choices) - 1)], branch)
    return ""


def _member(members: list[tuple[Any, Any]]) -> str:
    categories = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "0"}
    negated = bool(members) and str(members[0][0]) == "NEGATE"
    if negated:
        test = re.compile("[^" + "".join(_escaped(*m) for m in members[1:]) + "]")
        return next(chr(c) for c in (97, 32, 34, 92, 44, 48, 33, *range(1, 256)) if test.match(chr(c)))
    op, value = members[0]
    if str(op) == "RANGE":
        return chr(value[0])
    if str(op) == "CATEGORY":
        return categories.get(str(value), "a")
    return chr(int(value))


def _escaped(op: Any, value: Any) -> str:
    if str(op) == "RANGE":
        return f"\\u{value[0]:04x}-\\u{min(value[1], 0xFFFF):04x}"
    if str(op) == "CATEGORY":
        return {"CATEGORY_SPACE": r"\s", "CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w"}[str(value)]
    return f"\\u{value:04x}"


def _repeats(nodes: Any, before: str) -> Iterator[tuple[str, str]]:
    """Give each part that may be repeated without bound, with an example of what comes before it."""
    for op, value in nodes:
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, inner = value
            if most is constants.MAXREPEAT or most > 1000:
                for branch in range(4):
                    yield before, _example(inner, branch)
                yield before, "".join(_example(inner, branch) for branch in range(4))
            yield from _repeats(inner, before)
        elif name == "SUBPATTERN":
            yield from _repeats(value[-1], before)
        elif name == "BRANCH":
            for choice in value[1]:
                yield from _repeats(choice, before)
        before += _one(op, value, 0)


# -- times -------------------------------------------------------------------------------------------------------------


def seconds(use: Use, text: Any) -> float:
    """Return the processor time of one call."""
    began = time.thread_time()
    if use.call == "sub":
        use.pattern.sub(text[:0], text)
    elif use.call == "finditer":
        for _ in use.pattern.finditer(text):
            pass
    else:
        getattr(use.pattern, use.call)(text)
    return time.thread_time() - began


def main() -> None:
    for use in uses():
        print(f"{use.module} {use.call} {use.pattern.pattern!r}", flush=True)
        texts = attacks(use.pattern)
        slowest = sorted(texts, key=lambda text: seconds(use, stretched(text, SMALL, use.pattern)))[-3:]
        took = max(seconds(use, stretched(text, use.longest, use.pattern)) for text in slowest)
        print(f"    {took:.3f} s of the processor for {use.longest} characters", flush=True)
        if took > MOST_SECONDS:
            raise SystemExit(f"{use.module}: {use.pattern.pattern!r} takes {took:.1f} s for {use.longest} characters")
    print("done", flush=True)


if __name__ == "__main__":
    main()
