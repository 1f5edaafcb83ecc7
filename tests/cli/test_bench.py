"""The output of ``clawlink bench``."""

from __future__ import annotations

import sys
from argparse import Namespace

import pytest

from clawlink.bench.scenarios import Row
from clawlink.cli.context import Context
from clawlink.cli.plumbing.bench import _show


@pytest.mark.parametrize(("ratio", "shown"), [(None, False), (0.5, True)])
def test_the_floor_has_a_column_where_it_was_measured(
    ratio: float | None, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Context(Namespace(json=False, timeout=None), out=sys.stdout, err=sys.stderr) as ctx:
        _show(ctx, [Row("delegations", 5.0, "ms", ratio)])
        ctx.out.flush()
    assert ("OF THE FLOOR" in capsys.readouterr().out) is shown
