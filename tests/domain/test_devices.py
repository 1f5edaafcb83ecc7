"""Names that Windows takes for devices."""

from __future__ import annotations

import pytest

from clawlink.client.files.safe_paths import parts_within, safe_name
from clawlink.domain.devices import is_device

NAMES = ["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"]
PORTS = [f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789\u00b9\u00b2\u00b3"]


def test_every_user_of_device_names_refuses_the_same() -> None:
    for name in (*NAMES, *PORTS):
        for written in (name, name.upper(), name + ".txt", name + " .tar.gz", name + "  "):
            assert is_device(written), written
            assert safe_name(written).startswith("_"), written
            with pytest.raises(ValueError, match=r"."):
                parts_within(written, windows=True)
    for name in ("console", "com", "com10", "lpt", "nulls.txt", "a.con", "auxiliary", "\u00b9", "co n", "clock"):
        assert not is_device(name), name
