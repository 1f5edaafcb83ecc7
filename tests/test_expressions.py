"""Every regular expression of the package takes a time that grows with the length of its text alone."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.expressions import attacks


def test_no_expression_backtracks_more_than_linearly() -> None:
    # An exponential expression never ends; a quadratic one takes more processor time than one text may.
    command = [sys.executable, "-m", "tests.expressions"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode() if isinstance(error.stdout, bytes) else str(error.stdout)
        raise AssertionError(f"this expression does not end: {printed.splitlines()[-1]}") from None
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == "done"
    assert len(lines) > 80, "the expressions of the package were not found"


def test_the_texts_break_an_expression_that_backtracks_exponentially() -> None:
    texts = attacks(re.compile(rb'"(?:[^"\\]+|\\.)*"', re.DOTALL))
    assert '"\ue000a\ue000' in texts, "a string that does not end"
