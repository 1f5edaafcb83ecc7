"""Tables of inputs as a loop in one test: one relay serves all rows, and a failure names each row that failed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

Test = Callable[..., Any]


def each(names: str | Sequence[str], rows: Iterable[Any], *, ids: Any = None) -> Callable[[Test], Test]:
    """Run a test with each row, as ``pytest.mark.parametrize`` does, but within one test and its fixtures.

    Use it where no row leaves anything behind that another would see. All rows run, whichever fail.
    """
    fields = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = [dict(zip(fields, row if len(fields) > 1 else (row,), strict=True)) for row in rows]
    assert table, "a table without rows tests nothing"
    name = repr if ids is None else ids
    labels = [", ".join(str(name(v)) for v in row.values()) for row in table] if callable(name) else list(name)

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def loop(*args: Any, **fixtures: Any) -> None:
            failed: list[str] = []
            for label, row in zip(labels, table, strict=True):
                with _noted(label, failed):
                    test(*args, **fixtures, **row)
            assert not failed, _told(failed, len(table))

        @functools.wraps(test)
        async def loop_async(*args: Any, **fixtures: Any) -> None:
            failed: list[str] = []
            for label, row in zip(labels, table, strict=True):
                with _noted(label, failed):
                    await test(*args, **fixtures, **row)
            assert not failed, _told(failed, len(table))

        made = loop_async if inspect.iscoroutinefunction(test) else loop
        signature = inspect.signature(test)
        fixtures = [parameter for name, parameter in signature.parameters.items() if name not in fields]
        vars(made)["__signature__"] = signature.replace(parameters=fixtures)
        return made

    return decorate


@contextlib.contextmanager
def _noted(label: str, failed: list[str]) -> Iterator[None]:
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        failed.append(f"--- row {label[:300]}\n{''.join(lines)}")


def _told(failed: list[str], rows: int) -> str:
    return "\n".join([f"{len(failed)} of {rows} rows failed", *failed])
