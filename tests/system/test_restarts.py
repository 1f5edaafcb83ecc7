"""Fifty links, and a relay that is killed under them again and again: all come back, and not all at once."""

from __future__ import annotations

import pytest

from clawlink.bench import link_scenarios
from tests.effort import size

pytestmark = pytest.mark.storm


async def test_fifty_links_come_back_after_each_restart_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_scenarios, "RESTARTS", size(2, 3, 10))
    rows = {row.what: row.value for row in await link_scenarios.restarts(say=lambda what: None)}
    assert link_scenarios.LINKS == 50
    # A link that is not back in time, or does not answer its task, fails the measurement itself.
    assert rows["between the first and the last of them, median"] > 0.1, "a herd"
