"""Times that peers in other languages write, read alike on every Python."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import clawlink
from clawlink.domain.iso_time import read_iso
from tests.tables import each

UTC, EAST = timezone.utc, timezone(timedelta(hours=5, minutes=45))


@each(
    ("tail", "microsecond", "zone"),
    [
        ("", 0, None),
        ("Z", 0, UTC),
        ("z", 0, UTC),
        ("+00:00", 0, UTC),
        ("+0545", 0, EAST),
        ("-00", 0, UTC),
        (".5", 500_000, None),
        (".5Z", 500_000, UTC),
        (".25+05:45", 250_000, EAST),
        (".250Z", 250_000, UTC),
        (",250Z", 250_000, UTC),
        (".1234567Z", 123_456, UTC),
        (".123456789+00:00", 123_456, UTC),
        (".999999999999Z", 999_999, UTC),
    ],
)
def test_each_way_to_end_a_time(tail: str, microsecond: int, zone: timezone | None) -> None:
    for day in ("2026-05-13T", "2026-05-13 ", "2026-05-13t"):
        found = read_iso(f"{day}06:51:07{tail}")
        assert found == datetime(2026, 5, 13, 6, 51, 7, microsecond, zone)
        assert found.utcoffset() == (None if zone is None else zone.utcoffset(None))


def test_shorter_times() -> None:
    assert read_iso("2026-05-13") == datetime(2026, 5, 13)
    assert read_iso("2026-05-13T06:51") == datetime(2026, 5, 13, 6, 51)
    for tail in ("Z", "+00:00", "+0000"):
        assert read_iso("2026-05-13T06:51" + tail) == datetime(2026, 5, 13, 6, 51, tzinfo=UTC)
        assert read_iso("2026-05-13T06" + tail) == datetime(2026, 5, 13, 6, tzinfo=UTC)


@each(
    "text",
    [
        *("", "Z", "noon", "2026-05-13Z", "2026-05-13T06:51:00ZZ", "2026-05-13T06:51:60Z", "2026-13-13T06:51:00Z"),
        *("2026-05-13T06:51:00+25:00", "2026-05-13T06:51:00.\u0663Z", "0000-05-13T06:51:00Z", "1" * 9999),
        *("20260513T065100Z", "2026-W20-3", "2026-05-13T06:51:00.Z", "2026-05-13T06:51.5Z", "2026-05-13\n06:51:00"),
    ],
)
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_iso(text)


def test_no_other_module_reads_a_time_by_itself() -> None:
    package = Path(clawlink.__file__).parent
    readers = [path for path in package.rglob("*.py") if "fromisoformat(" in path.read_text(encoding="utf-8")]
    assert [path.relative_to(package).as_posix() for path in readers] == ["domain/iso_time.py"]
